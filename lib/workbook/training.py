"""Supervised fine-tuning of a LoRA adapter with TRL and PEFT, arranged so that two CPU cores suffice.

Four things make it fast on a CPU: rows are tokenized once and batched by length; the logits are computed at the completion
positions only (a vocabulary of 262,144 makes them the most expensive layer); of them, only the likely tokens and a sample of
the others (`shortlist.py`: the training loss is an estimate, the validation loss is exact); and matrix products run in
bfloat16 where the processor is fast at it. On a GPU, TRL's own fused loss is used.

A run that was stopped goes on from its last checkpoint when it is started again, to the same bits on a CPU. A run can also
be started from the command line: as one process, as two on a CPU (accelerate would need MPI there, so PyTorch's launcher is
used), or on several GPUs with the weights sharded over them (FSDP):

    python -m workbook.training --profile laptop --train train.jsonl --validation validation.jsonl
    torchrun --nproc_per_node 2 -m workbook.training --profile laptop --train ...
    accelerate launch --config_file configs/fsdp.yaml --num_processes 4 -m workbook.training --profile gpu --train ...
"""

import argparse
import errno
import json
import os
import shutil
import time
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from peft import LoraConfig, get_peft_model
from transformers import set_seed
from transformers.utils import logging

from workbook import checkpoint
from workbook.dataset import read_jsonl
from workbook.encoding import by_length, collate, digest, encode, encode_rows, in_order, read_up_to
from workbook.loss import IGNORE, FusedCrossEntropy, completion_loss, plain_attention
from workbook.models import ModelError, open_model
from workbook.profiles import Profile, load_profile
from workbook.progress import Log, best
from workbook.shortlist import shortlist
from workbook.trainer import CompletionTrainer, make

__all__ = ["IGNORE", "FusedCrossEntropy", "by_length", "collate", "completion_loss", "encode", "encode_rows"]  # from where they live now


def fast_dtype(rounds: int = 8) -> torch.dtype:
    """The faster of float32 and bfloat16 for matrix products here, measured in about half a second.

    A GPU or a CPU with AMX runs bfloat16 several times faster; a CPU without it can be slower than in float32. The two take
    turns and the best time of each counts, so that another process that works for a moment does not decide.
    """
    if torch.cuda.is_available():
        return torch.bfloat16
    pairs = {dtype: (torch.randn(1024, 640).to(dtype), torch.randn(640, 4096).to(dtype)) for dtype in (torch.float32, torch.bfloat16)}
    best = dict.fromkeys(pairs, float("inf"))
    for _ in range(rounds):
        for dtype, (left, right) in pairs.items():
            begun = time.perf_counter()
            left @ right
            best[dtype] = min(best[dtype], time.perf_counter() - begun)
    return min(best, key=best.__getitem__)


def lora_config(profile: Profile, targets: str | list[str] = "all-linear") -> LoraConfig:
    """LoRA (https://arxiv.org/abs/2106.09685) at the profile's rank, by default on every linear layer of the body."""
    if profile.lora_r < 1:
        raise ValueError(f"lora_r: an adapter of rank {profile.lora_r} has no weights to train; choose 1 or more")
    return LoraConfig(r=profile.lora_r, lora_alpha=profile.lora_alpha, lora_dropout=0.0, target_modules=targets, task_type="CAUSAL_LM")


def add_lora(model, profile: Profile, base: str, targets: str | list[str] = "all-linear"):
    """`model` with a fresh adapter in training mode; the adapter's file will name `base`, not a folder of this machine.

    targets: "all-linear", or the last parts of the names of the layers to adapt, such as ["q_proj", "v_proj"]. Raises
    ValueError for one that the model does not have, naming those that it has.
    """
    if targets != "all-linear":
        layers = {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
        if unknown := [name for name in targets if name not in layers]:
            raise ValueError(f"targets: {base} has no layer called {', '.join(unknown)}; it has {', '.join(sorted(layers))}")
    model = get_peft_model(model, lora_config(profile, targets), autocast_adapter_dtype=True)
    model.peft_config["default"].base_model_name_or_path = base
    return model


def train(model, tokenizer, train_rows: list[dict], validation_rows: list[dict], profile: Profile) -> dict:
    """Train the adapter of `model` (see `add_lora`); write run_dir/adapter and run_dir/training.jsonl.

    The profile's batch_size is that of one optimizer step, over all processes. Of the checkpoints, the adapter with the
    lowest validation loss is kept, without validation rows the last. A run that was stopped is taken up at its last
    checkpoint in run_dir/trainer, if rows and settings are the same; after a run that ended well, they are removed.

    Returns {"steps", "kept_step", "resumed_from", "train_loss", "validation_loss", "seconds", "tokens_per_second", "scored",
    "too_long"}; scored: how many tokens of the vocabulary each training step scores. Raises ValueError for rows that cannot
    be trained on, FloatingPointError as soon as the loss is no number, OSError if the disk is full. Then `model` has the
    adapter that it came with, and that of an earlier run is still in run_dir.
    """
    encoded, too_long = _fitting(train_rows, tokenizer, profile)
    held_out, _ = encode_rows(validation_rows, tokenizer, profile.max_length)
    processes = int(os.environ.get("WORLD_SIZE", 1))
    if profile.batch_size % processes:
        raise ValueError(f"batch_size: {profile.batch_size} rows cannot be shared equally by {processes} processes; choose a multiple")
    ordered = in_order(encoded, profile)
    blank = {"input_ids": [tokenizer.pad_token_id] * 2, "labels": [IGNORE] * 2}  # learns nothing; gives each process its share
    ordered += [blank] * (-len(ordered) % profile.batch_size if processes > 1 else 0)
    log = Log(profile.run_dir / "training.jsonl", read_up_to(ordered, profile.batch_size))
    trainer = make(model, tokenizer, ordered, held_out, profile, log)
    trainer.shortlist = None if torch.cuda.is_available() else shortlist(model, encoded, tokenizer.pad_token_id)
    trainer.settings = _settings(model, encoded, held_out, profile)
    found = _begin(trainer, profile.run_dir)
    with _faults(model, profile), plain_attention(model, max(len(row["input_ids"]) for row in encoded)):
        trainer.train(resume_from_checkpoint=str(found) if found else None)
        seconds, history = log.seconds, trainer.state.log_history
        step, validation_loss = best(history)
        kept = Path(trainer.args.output_dir) / f"checkpoint-{step or trainer.state.global_step}"
        if checkpoint.step_of(kept) != trainer.state.global_step:
            checkpoint.load_weights(kept, trainer.model_wrapped)
        trainer.accelerator.wait_for_everyone()
        if trainer.args.should_save:
            checkpoint.publish(kept, profile.run_dir / "adapter")
            shutil.rmtree(trainer.args.output_dir)
        trainer.accelerator.wait_for_everyone()
    losses = [line["loss"] for line in history if "loss" in line]
    return {
        "steps": trainer.state.global_step,
        "kept_step": checkpoint.step_of(kept),
        "resumed_from": checkpoint.step_of(found) if found else None,
        "train_loss": sum(losses) / len(losses),
        "validation_loss": validation_loss,
        "seconds": seconds,
        "tokens_per_second": log.tokens[trainer.state.global_step] / seconds,
        "scored": len(trainer.shortlist) if trainer.shortlist else model.get_output_embeddings().weight.shape[0],
        "too_long": too_long,
    }


def _fitting(rows: list[dict], tokenizer, profile: Profile) -> tuple[list[dict], list[str]]:
    if not rows:
        raise ValueError("train_rows: there is not one row to train on; give a file with at least one")
    for number, row in enumerate(rows, 1):
        if missing := {"id", "prompt", "completion"} - row.keys():
            raise ValueError(
                f"train_rows: row {number} has no {', '.join(sorted(missing))}; every row needs an id, a prompt and a completion"
            )
    encoded, too_long = encode_rows(rows, tokenizer, profile.max_length)
    if not encoded:
        raise ValueError(f"max_length: none of the {len(rows)} training rows fits in {profile.max_length} tokens; raise it")
    return encoded, too_long


def _settings(model, encoded: list[dict], held_out: list[dict], profile: Profile) -> dict:
    """What two runs must share for one to go on from the other's checkpoint."""
    trained = [[name, list(p.shape)] for name, p in model.named_parameters() if p.requires_grad]
    dials = ("batch_size", "learning_rate", "epochs", "seed", "lora_r", "lora_alpha")
    return {name: getattr(profile, name) for name in dials} | {
        "base": model.peft_config["default"].base_model_name_or_path,
        "precision": str(model.dtype),
        "trained layers": checkpoint.digest(trained),
        "training rows": digest(encoded),
        "validation rows": digest(held_out),
    }


def _begin(trainer: CompletionTrainer, run_dir: Path) -> Path | None:
    """The checkpoint to go on from, or None; says which in one line. The log is cut to it, and other checkpoints removed."""
    parent, main = Path(trainer.args.output_dir), trainer.args.should_save
    found, changed = checkpoint.find(parent, trainer.settings)
    trainer.accelerator.wait_for_everyone()  # all have looked before the main process tidies up
    if main and found:
        print(f"going on from step {checkpoint.step_of(found)}, the last checkpoint in {parent}", flush=True)
        history = json.loads((found / "trainer_state.json").read_text())["log_history"]
        checkpoint.keep(parent, {checkpoint.step_of(found), best(history)[0]})
        shutil.copyfile(found / "training.jsonl", trainer.log_file)
    elif main:
        if changed:
            print(f"training begins anew: the checkpoints in {parent} are of another run ({changed})", flush=True)
        shutil.rmtree(parent, ignore_errors=True)
        run_dir.mkdir(parents=True, exist_ok=True)
        trainer.log_file.write_text("")
    trainer.accelerator.wait_for_everyone()
    return found


@contextmanager
def _faults(model, profile: Profile):
    """Say what to do about a training that fails, and give `model` back the adapter that it came with."""
    given = [(p, p.detach().clone()) for p in model.parameters() if p.requires_grad]
    try:
        yield
    except BaseException as error:
        if int(os.environ.get("WORLD_SIZE", 1)) == 1:  # else the process ends now, and its weights are perhaps a shard
            with torch.no_grad():
                for parameter, value in given:
                    parameter.copy_(value)
        last = max((profile.run_dir / "trainer").glob("checkpoint-*"), key=checkpoint.step_of, default=None)
        kept = f"The last good checkpoint is kept and opens as an adapter: {last}" if last else "There was no checkpoint yet"
        if isinstance(error, FloatingPointError):
            raise FloatingPointError(
                f"learning_rate: {error}, with {profile.learning_rate}; training stopped there. {kept}. Lower it and train again"
            ) from None
        if getattr(error, "errno", None) == errno.ENOSPC or "os error 28" in str(error):
            message = f"the disk of run_dir is full. {kept}. Make room and train again: it goes on from there"
            raise OSError(errno.ENOSPC, message, str(profile.run_dir)) from error
        raise


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m workbook.training", description="Train a LoRA adapter on prompt/completion rows.")
    parser.add_argument("--profile", default="laptop", help="smoke | laptop | gpu")
    parser.add_argument("--train", type=Path, required=True, help="JSONL with id, prompt, completion; the profile says how many are used")
    parser.add_argument("--validation", type=Path, help="rows that choose the checkpoint to keep")
    parser.add_argument("--run-dir", type=Path, help="where the adapter goes; default: runs/<profile>")
    parser.add_argument("--base", help="the model to start from; default: the profile's")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="of the frozen weights; default: the faster here")
    parser.add_argument(
        "-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="a number of the profile, as in papermill"
    )
    given = parser.parse_args(arguments)
    try:
        _run(given)
    except (ValueError, OSError, ModelError, FloatingPointError) as error:
        parser.exit(1, f"{error}\n")


def _run(given: argparse.Namespace) -> None:
    profile = load_profile(given.profile, **{"run_dir": given.run_dir, "base": given.base, "instruct": given.base} | dict(given.p))
    train_rows = read_jsonl(given.train)[: profile.train_articles]
    if not train_rows:
        raise ValueError(f"--train: {given.train} has no rows; give a file with at least one")
    validation_rows = read_jsonl(given.validation)[: max(2, profile.train_articles // 20)] if given.validation else []
    processes = PartialState(cpu=not torch.cuda.is_available())
    logging.set_verbosity_error()
    set_seed(profile.seed)
    chosen = [getattr(torch, given.dtype) if given.dtype else fast_dtype()]
    model, tokenizer = open_model(profile.student_base, dtype=broadcast_object_list(chosen)[0], quantize=profile.quantize)
    model = add_lora(model, profile, profile.student_base)
    result = train(model, tokenizer, train_rows, validation_rows, profile)
    if processes.is_main_process:
        print(json.dumps(result | {"adapter": str(profile.run_dir / "adapter")}))


if __name__ == "__main__":
    main()
