"""Replies on disk, by the content of their request: what was paid for once is never asked for again.

The key is the sha256 of model, messages, schema and decoding parameters. Code and the order of articles are not in it, so changing
them hits the cache; changing the prompt or the schema misses, and `Cache.changed` says which of them it was.
"""

import hashlib
import json
import os
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout


@dataclass(frozen=True)
class Reply:
    """One raw reply: its text, why it ended ('stop', 'length', ...), the tokens it is charged for, how long the server took
    in seconds, whether the server was held to the schema ('schema') or only told it ('prompt'), and whether it came through a
    batch queue, which charges half."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    seconds: float = 0.0
    structured: str = "schema"
    batch: bool = False


def digest(value) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def parts(request: dict) -> dict[str, str]:
    """What decides a reply, each as a short hash: model, instructions, schema, decoding, text, and everything said after it."""
    system, user, *after = request["messages"]
    decoding = {name: value for name, value in request.items() if name not in ("model", "messages", "response_format")}
    whole = {"model": request["model"], "instructions": system["content"], "schema": request["response_format"], "decoding": decoding}
    return {name: digest(value)[:16] for name, value in (whole | {"text": user["content"], "after": after}).items()}


class Cache:
    """Replies by key, in an append-only JSONL file. A line is on the disk before it counts; a half-written one is passed over."""

    def __init__(self, path: Path):
        self.path, self.replies, self.known = path, {}, {}
        path.parent.mkdir(parents=True, exist_ok=True)
        self._load()

    def _load(self) -> None:
        for line in self.path.read_text(encoding="utf-8", errors="replace").split("\n") if self.path.exists() else ():
            try:
                row = json.loads(line)
            except ValueError:  # a process was killed while it wrote this line: its reply is asked for again
                continue
            self._remember(row["key"], row["parts"], Reply(**row["reply"]))

    def _remember(self, key: str, of: dict, reply: Reply) -> None:
        self.replies[key] = reply
        self.known[of["text"], of["after"]] = of

    @contextmanager
    def lock(self):
        """Held while replies are added; what others added before is read again. Raises RuntimeError at once if another process holds it."""
        held = FileLock(self.path.with_name(self.path.name + ".lock"))
        try:
            held.acquire(timeout=0)
        except Timeout:
            raise RuntimeError(f"{self.path}: another run is writing to it; wait for it, or give this one its own run_dir") from None
        try:
            self._load()
            yield
        finally:
            held.release()

    def get(self, request: dict) -> Reply | None:
        return self.replies.get(digest(request))

    def add(self, request: dict, reply: Reply) -> None:
        line = {"key": digest(request), "parts": parts(request), "reply": asdict(reply)}
        whole = json.dumps(line, ensure_ascii=False).encode() + b"\n"
        with self.path.open("ab+") as stream:
            if stream.tell():
                stream.seek(-1, os.SEEK_END)
                whole = whole if stream.read(1) == b"\n" else b"\n" + whole
            stream.write(whole)
            stream.flush()
            os.fsync(stream.fileno())
        self._remember(line["key"], line["parts"], reply)

    def changed(self, request: dict) -> list[str]:
        """For a request that is not here although its text is: what differs from the last time ('schema', 'instructions', ...)."""
        now = parts(request)
        before = self.known.get((now["text"], now["after"]), now)
        return [name for name in now if now[name] != before[name]]
