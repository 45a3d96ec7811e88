"""On a notebook kernel's path during the tests: any connection that leaves this machine fails, so nothing can be fetched unseen."""

import socket

_connect, _resolve = socket.socket.connect, socket.getaddrinfo
_LOCAL = ("127.", "::1", "localhost")


def _refuse(host) -> None:
    raise OSError(f"tests: the network is blocked, and something tried to reach {host!r}")


def connect(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6) and not str(address[0]).startswith(_LOCAL):
        _refuse(address[0])
    return _connect(self, address)


def getaddrinfo(host, *args, **kwargs):
    if host is not None and not str(host).startswith((*_LOCAL, "0.0.0.0")):
        _refuse(host)
    return _resolve(host, *args, **kwargs)


socket.socket.connect, socket.getaddrinfo = connect, getaddrinfo
