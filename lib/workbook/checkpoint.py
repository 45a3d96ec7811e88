"""Checkpoints of a training run: all that its next step depends on, either complete or not there.

A checkpoint is the folder run_dir/trainer/checkpoint-N. It opens as an adapter (`models.open_model`), and holds besides:

    optimizer.safetensors   AdamW's two moments for each trained weight, and the state of torch's random generators
    state.json              the run's settings; the optimizer's and the scheduler's numbers; Python's random generator
    trainer_state.json      the step, which is the position in the data, and the log, as transformers keeps them
    training.jsonl          the log file up to this step

transformers writes the first two with torch.save, which is pickle; ours are safetensors and JSON, and pickle is never read.
A checkpoint is written under another name and renamed, so that a process killed while writing leaves no half one. On several
processes the weights are gathered, and the main process writes.
"""

import hashlib
import json
import random
import shutil
from pathlib import Path

import numpy
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

ADAPTER = ("adapter_model.safetensors", "adapter_config.json", "README.md")


def digest(value) -> str:
    """A short name of a JSON value's content."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def save(folder: Path, trainer, settings: dict, log: Path) -> None:
    """Write a checkpoint of `trainer` to `folder`. Every process must call it. OSError or SafetensorError: nothing is left of it."""
    gathered = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
    weights = get_model_state_dict(trainer.model_wrapped, options=gathered)
    optimizer = get_optimizer_state_dict(trainer.model_wrapped, _plain(trainer.optimizer), options=gathered)
    if not trainer.args.should_save:
        return
    temporary = folder.with_name(f"writing-{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        _write(temporary, trainer, weights, optimizer, settings)
        shutil.copyfile(log, temporary / "training.jsonl")
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)  # a full disk gets its space back
        raise


def _write(folder: Path, trainer, weights: dict, optimizer: dict, settings: dict) -> None:
    model = trainer.accelerator.unwrap_model(trainer.model)
    model.save_pretrained(folder, state_dict=weights, save_embedding_layers=False)
    moments = {f"{name}/{key}": value for name, state in optimizer["state"].items() for key, value in state.items()}
    save_file(moments | _generators(), folder / "optimizer.safetensors")
    kept = {"settings": settings, "optimizer": optimizer["param_groups"], "scheduler": trainer.lr_scheduler.state_dict()}
    name, words, *rest = numpy.random.get_state()
    kept |= {"python": random.getstate(), "numpy": [name, words.tolist(), *rest]}
    (folder / "state.json").write_text(json.dumps(kept))
    trainer.state.save_to_json(str(folder / "trainer_state.json"))


def load(folder: Path, trainer) -> None:
    """Put weights, optimizer and scheduler of a checkpoint into a prepared `trainer`."""
    load_weights(folder, trainer.model_wrapped)
    numbers, moments = _state(folder), {}
    for key, value in load_file(folder / "optimizer.safetensors").items():
        name, _, kind = key.partition("/")
        moments.setdefault(name, {})[kind] = value
    moments.pop("random")
    optimizer = {"state": moments, "param_groups": numbers["optimizer"]}
    options = StateDictOptions(full_state_dict=True)
    set_optimizer_state_dict(trainer.model_wrapped, _plain(trainer.optimizer), optimizer, options=options)
    trainer.lr_scheduler.load_state_dict(numbers["scheduler"])


def load_weights(folder: Path, model) -> None:
    """Put the adapter of a checkpoint into `model`, wrapped or not."""
    saved = load_file(folder / ADAPTER[0])  # PEFT's files leave out the adapter's name
    names = [name.removeprefix("module.") for name, parameter in model.named_parameters() if parameter.requires_grad]
    weights = {name: saved[name.replace(".default.", ".")] for name in names}
    set_model_state_dict(model, weights, options=StateDictOptions(full_state_dict=True, strict=False))


def load_random(folder: Path) -> None:
    """Set all random generators to their state at the checkpoint."""
    numbers, tensors = _state(folder), load_file(folder / "optimizer.safetensors")
    version, words, gauss = numbers["python"]
    random.setstate((version, tuple(words), gauss))
    numpy.random.set_state(tuple(numbers["numpy"]))
    torch.set_rng_state(tensors["random/cpu"])
    if torch.cuda.is_available() and "random/cuda" in tensors:
        torch.cuda.set_rng_state(tensors["random/cuda"])


def find(parent: Path, settings: dict) -> tuple[Path | None, str]:
    """(last complete checkpoint in `parent` that was made with `settings`, "") or (None, why there is none, "" if none ever was)."""
    folders = [folder for folder in parent.glob("checkpoint-*") if _complete(folder)]
    last = max(folders, key=step_of, default=None)
    if last is None:
        return None, ""
    before = _state(last)["settings"]
    changed = [_change(name, before.get(name), settings.get(name)) for name in before | settings if before.get(name) != settings.get(name)]
    return (None, ", ".join(changed)) if changed else (last, "")


def step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("checkpoint-"))


def keep(parent: Path, steps: set[int | None]) -> None:
    """Remove all checkpoints in `parent` but those of `steps`, and what a killed process left half written."""
    for folder in parent.glob("*checkpoint-*"):
        if folder.name.startswith("writing-") or step_of(folder) not in steps:
            shutil.rmtree(folder, ignore_errors=True)


def publish(folder: Path, adapter: Path) -> None:
    """Copy the adapter of a checkpoint to the folder `adapter`, which is replaced only when the copy is complete."""
    new, old = adapter.with_name("adapter.new"), adapter.with_name("adapter.old")
    for left_over in (new, old):
        shutil.rmtree(left_over, ignore_errors=True)
    new.mkdir(parents=True)
    for name in ADAPTER:
        if (folder / name).exists():
            shutil.copyfile(folder / name, new / name)
    if adapter.exists():
        adapter.rename(old)
    new.rename(adapter)
    shutil.rmtree(old, ignore_errors=True)


def _plain(optimizer) -> torch.optim.Optimizer:
    return getattr(optimizer, "optimizer", optimizer)  # without accelerate's wrapper


def _generators() -> dict[str, torch.Tensor]:
    states = {"random/cpu": torch.get_rng_state()}
    return states | ({"random/cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def _state(folder: Path) -> dict:
    return json.loads((folder / "state.json").read_text())


def _complete(folder: Path) -> bool:
    """Whether all files are there and whole; safetensors compares a file's length with its header."""
    try:
        for name in ("adapter_model.safetensors", "optimizer.safetensors"):
            with safe_open(folder / name, "pt"):
                pass
        return bool(_state(folder)) and bool(json.loads((folder / "trainer_state.json").read_text()))
    except (OSError, ValueError, SafetensorError):
        return False


def _change(name: str, before, now) -> str:
    return f"{name} was {before}, is {now}" if isinstance(now, int | float) else f"other {name}"
