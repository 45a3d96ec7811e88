"""The student as a server on your own machine, for any client that speaks the OpenAI protocol.

    python -m workbook.serve --adapter runs/laptop/adapter

We write no server. The adapter is merged into its base once, and Hugging Face's own `transformers serve` is started on the merged
model (https://huggingface.co/docs/transformers/serving), which knows no adapters. Such a server is asked in chat messages and lays
them out with the tokenizer's chat template. A base model has none, so the merged model gets one that renders the very bytes which
the student was trained on. For a GPU, `--print-command` prints the same as a command of vLLM, and docs/serving.md has the rest.
"""

import argparse
import hashlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import torch

from workbook import dataset, export, models
from workbook.models import ModelError

NAME = "student"  # what the model is called in a request
# Room for 64 x 256 tokens at once. By itself it would take more than half of the machine's memory.
BATCHING = ["--continuous-batching", "--cb-num-blocks", "64", "--cb-max-batch-tokens", "2048"]
PATIENCE = 600  # seconds that a server may take to load the model
LOOPBACK = "127.0.0.1"
# The server asks Linux to be killed when the process that started it dies, whatever that one died of; see
# prctl(2), PR_SET_PDEATHSIG.
START = """
import ctypes, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9)
from transformers.cli.transformers import main
main()
"""


class ServeError(RuntimeError):
    """The server cannot run; the message says why and what to do."""


def merge(adapter: Path | str, *, dtype: torch.dtype = torch.bfloat16, base: str | None = None) -> Path:
    """A folder with `adapter` merged into its base as one ordinary model; made once, then taken from the model cache.

    The folder's name comes from the bytes of the adapter, its base and `dtype`, so another adapter is another folder. The model
    decodes greedily unless a request says otherwise. base: another name for the base that the adapter was trained on.
    Raises ModelError for a folder that is no adapter, or an adapter that does not fit its base.
    """
    adapter = Path(adapter)
    base = base or _config(adapter)["base_model_name_or_path"]
    target = models.cache_dir() / f"merged-{_digest(adapter, base, dtype)[:12]}" / NAME
    return models.once(target, lambda folder: _merge_into(folder, adapter, base, dtype))


def _config(adapter: Path) -> dict:
    if missing := [name for name in ("adapter_config.json", "adapter_model.safetensors") if not (adapter / name).is_file()]:
        raise ModelError(f"{adapter}: no LoRA adapter, it has no {missing[0]}. Give the folder that 04 wrote, such as runs/laptop/adapter")
    try:
        config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
        return config | {"base_model_name_or_path": str(config["base_model_name_or_path"]), "r": int(config["r"])}
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{adapter}: adapter_config.json cannot be used ({error!r}); train the adapter again") from None


def _digest(adapter: Path, base: str, dtype: torch.dtype) -> str:
    """A name for what `merge` makes. A base in a folder of the user's own counts as another one when its files change."""
    source, local = models.locate(base)
    weights = sorted(Path(source).glob("*.safetensors")) if local else []
    files = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in weights]
    summary = hashlib.sha256(json.dumps([source, files, str(dtype)]).encode())
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        summary.update((adapter / name).read_bytes())
    return summary.hexdigest()


def _merge_into(folder: Path, adapter: Path, base: str, dtype: torch.dtype) -> None:
    adapted, tokenizer = models.open_model(adapter, dtype=dtype, base=base)
    model = adapted.merge_and_unload()
    settings = model.generation_config
    settings.do_sample, settings.temperature, settings.top_p, settings.top_k = False, None, None, None
    tokenizer.chat_template = chat_template(tokenizer)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def chat_template(tokenizer) -> str:
    """A chat template that renders one user message as `dataset.layout` does: the tokenizer's own, or for a base model a new one.

    A server tokenizes what a template rendered without adding a start token, so the new one writes it.
    """
    if tokenizer.chat_template:
        return tokenizer.chat_template
    before, after = dataset.layout("\0", tokenizer).split("\0")
    start = tokenizer.decode(tokenizer("")["input_ids"])
    return f"{{{{ {start + before!r} + messages[0]['content'] + {after!r} }}}}"


@contextmanager
def serving(folder: Path | str, *, port: int = 0, batching: bool = False) -> Iterator[str]:
    """Serve a model folder on loopback as long as the `with` block runs; yields the base URL for an OpenAI client.

    In a request the model is called by the folder's name; that of `merge` is "student". port: 0 takes a free one. batching: put
    requests that come together into one batch. Raises ServeError if the server does not start, with its last words.
    """
    with tempfile.TemporaryFile() as log, _server(Path(folder), LOOPBACK, port or _free_port(), batching, log) as (_, url):
        yield url


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return probe.getsockname()[1]


def check_port(host: str, port: int) -> None:
    """Raises ServeError if nobody can listen at `host` and `port`."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does; or a port just left would count as taken
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ServeError(f"--port: {host}:{port} cannot be used ({reason}); choose another, such as --port 8001") from None


@contextmanager
def _server(folder: Path, host: str, port: int, batching: bool, log) -> Iterator[tuple[subprocess.Popen, str]]:
    """(process, base URL) of `transformers serve` once it answers; ended by its process id whatever happens in the block.

    It starts in the folder's parent, so that the model's name in a request is short and holds no path of this machine.
    """
    check_port(host, port)
    device = "auto" if torch.cuda.is_available() else "cpu"
    command = [sys.executable, "-P", "-c", START, "serve", folder.name, "--host", host, "--port", str(port), "--device", device]
    command += BATCHING if batching else []
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        command, cwd=folder.resolve().parent, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
    )
    try:
        url = f"http://{LOOPBACK if host == '0.0.0.0' else host}:{port}"
        _wait(process, f"{url}/health", log)
        yield process, f"{url}/v1"
    finally:
        _end(process)


def _wait(process: subprocess.Popen, url: str, log) -> None:
    """Return when the server answers at `url`. Raises ServeError with its last words if it ends first or takes too long."""
    deadline = time.monotonic() + PATIENCE
    with httpx2.Client(trust_env=False) as client:  # no proxy stands between this machine and itself
        while process.poll() is None and time.monotonic() < deadline:
            try:
                if client.get(url).is_success:
                    return
            except httpx2.TransportError:
                pass
            time.sleep(0.1)
    how = "did not answer in time" if process.poll() is None else f"ended with exit code {process.returncode}"
    raise ServeError(f"transformers serve {how}. {_last_words(log)}")


def _last_words(log) -> str:
    if not log.seekable():
        return "Its last words stand above"
    log.seek(0)
    return "Its last words:\n" + "\n".join(log.read().decode(errors="replace").strip().splitlines()[-8:])


def _end(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:  # it lets requests finish, and nobody waits for them any more
        process.kill()
        process.wait()


def vllm_command(adapter: Path | str, port: int) -> str:
    """The command that serves the base with `adapter` on a GPU with vLLM (https://docs.vllm.ai); it takes a schema in each request.

    Raises ModelError as `merge` does.
    """
    adapter = Path(adapter)
    config = _config(adapter)
    base = config["base_model_name_or_path"]
    room = next(size for size in (8, 16, 32, 64, 128, 256, 320, 512) if size >= config["r"])  # the sizes that vLLM knows
    parts = ["vllm", "serve", models.locate(base)[0], "--enable-lora", "--max-lora-rank", str(room), "--port", str(port)]
    parts += ["--lora-modules", f"{NAME}={adapter.resolve()}"]
    tokenizer = models.open_tokenizer(base)
    parts += [] if tokenizer.chat_template else ["--chat-template", chat_template(tokenizer)]
    return shlex.join(parts)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m workbook.serve", description="Serve an adapter over the OpenAI protocol.")
    parser.add_argument("--adapter", type=Path, required=True, help="the folder that 04 wrote")
    parser.add_argument("--host", default=LOOPBACK, help="who may ask: this machine (default), or with 0.0.0.0 every other that reaches it")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16", help="of the merged weights")
    parser.add_argument("--continuous-batching", action="store_true", help="put requests that come together into one batch")
    parser.add_argument("--print-command", choices=["vllm"], help="serve nothing; print the command of a GPU server")
    parser.add_argument("--gguf", type=Path, metavar="FILE", help="serve nothing; write the student as one file for llama.cpp")
    given = parser.parse_args(arguments)
    for name in ("SIGTERM", "SIGHUP"):  # end as on Ctrl-C: through the block that ends the server
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda number, _: sys.exit(128 + number))
    try:
        if given.print_command:
            print(vllm_command(given.adapter, given.port))
        elif given.gguf:
            print(export.export(merge(given.adapter), _config(given.adapter)["base_model_name_or_path"], given.gguf))
        else:
            _run(given)
    except (ModelError, ServeError, OSError) as error:
        parser.exit(1, f"{error}\n")
    except KeyboardInterrupt:
        parser.exit(130, "stopped\n")


def _run(given: argparse.Namespace) -> None:
    check_port(given.host, given.port)  # before the minute that a first merge takes
    folder = merge(given.adapter, dtype=getattr(torch, given.dtype))
    print(f"the merged model is kept in {folder.parent}", file=sys.stderr)
    with _server(folder, given.host, given.port, given.continuous_batching, sys.stderr) as (process, url):
        print(f"{NAME} is served at {url} by process {process.pid}; Ctrl-C ends it", flush=True)
        process.wait()
        raise ServeError(f"transformers serve ended with exit code {process.returncode}. Its last words stand above")


if __name__ == "__main__":
    main()
