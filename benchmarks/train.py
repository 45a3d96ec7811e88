"""How fast is our training beside the usual tools? `python benchmarks/train.py --llamafactory .venv-llamafactory`

The same model, rows in the same order, rank, alpha, batch, learning rate and steps, in one run, one system after the other in rounds,
each measurement in a fresh process on the CPU:

ours            `training.train` with the `laptop` profile
stock TRL       SFTTrainer on prompt/completion rows and LoraConfig(target_modules="all-linear"). Set because a CPU needs it: use_cpu=True.
                Set to take the same steps: max_steps, per_device_train_batch_size, learning_rate, lr_scheduler_type="cosine",
                warmup_steps, seed, r, lora_alpha, train_sampling_strategy="sequential" (its own order is random). Set to look at it:
                logging_steps=1, save_strategy="no", disable_tqdm=True, report_to="none". All else is its default, gradient
                checkpointing for one. Twice: with bf16=False, and with its default, bf16=True (autocast)
LLaMA-Factory   0.9.5 from its own environment (`llamafactory_step.py` makes one), with the train.yaml of `llamafactory.write`, the same
                settings as above under its names, and disable_shuffling=True; only with `--llamafactory`

Rows are handed to all in the order in which ours takes them, by length, so the other two pad less here than they would by themselves.
Tokens are real ones, padding is not counted; the first two steps are left out, since memory is touched for the first time then; a figure
is the median over the rounds. Operations are counted from shapes: 4 for each weight of the body's linear layers and token (forward, and
backward to the activations), 6 for each of the adapter's, 4 for each of the head's rows that are scored and learned token: all 262,144
rows for the others, those of the shortlist for ours. Attention is left out, and so is what a system computes beyond that. Losses are
means over the last four steps. Writes docs/train.json and the table between its marks in docs/training.md; about 25 minutes on two idle
cores.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import yaml
from publish import ROOT, fill
from transformers import AutoConfig, AutoModelForCausalLM

from workbook import dataset, llamafactory, models, training
from workbook.profiles import load_profile
from workbook.tasks import ARTICLE_DIGEST as TASK

DTYPES = ("float32", "bfloat16")
SKIPPED = 2  # steps that are not timed
LAST = 4  # steps whose mean is the last loss
LOOKED_AT = {"logging_steps": 1, "save_strategy": "no", "disable_tqdm": True, "report_to": "none"}
HEADS = ("system", "tokens/s", "ours is faster by", "first loss", "last loss", "peak memory", "of the fp32 peak", "of the bf16 peak")


def taken(data: Path, steps: int, profile, tokenizer) -> tuple[list[dict], list[dict]]:
    """(rows as they stand in the file, the same with their encoding in the order in which ours takes them)."""
    rows = dataset.read_distilled(TASK, data / "train.jsonl")
    encoded = [row | training.encode(row, tokenizer) for row in rows]
    fits = [row for row in encoded if len(row["input_ids"]) <= profile.max_length][: steps * profile.batch_size]
    chosen = {row["id"] for row in fits}
    return [row for row in rows if row["id"] in chosen], training.by_length(fits, profile.batch_size, profile.seed)


def jobs(options, profile, rows: list[dict], ordered: list[dict], tokenizer) -> dict[str, dict]:
    """{system: its job for `train_one.py`}."""
    same = {"max_steps": options.steps, "warmup_steps": max(1, options.steps // 20), "lr_scheduler_type": "cosine", "seed": profile.seed}
    same |= {"per_device_train_batch_size": profile.batch_size, "learning_rate": profile.learning_rate} | LOOKED_AT
    pairs = [{"prompt": dataset.layout(row["prompt"], tokenizer), "completion": row["completion"]} for row in ordered]
    lora = {"r": profile.lora_r, "lora_alpha": profile.lora_alpha}
    stock = {"run": "trl", "rows": pairs, "same": same, "lora": lora}
    found = {
        "ours": {"run": "ours", "rows": rows},
        "stock TRL, float32": stock | {"own": {"bf16": False}},
        "stock TRL, bfloat16": stock | {"own": {}},
    }
    if options.llamafactory:
        found["LLaMA-Factory"] = {"run": "llamafactory", "same": same}
    return found


def yaml_of(folder: Path, ordered: list[dict], profile, tokenizer, same: dict) -> dict:
    """LLaMA-Factory's arguments."""
    llamafactory.write(folder, TASK, ordered, profile, models.locate(profile.base)[0], tokenizer)
    settings = yaml.safe_load((folder / "train.yaml").read_text()) | same | {"disable_shuffling": True, "bf16": False}
    del settings["warmup_ratio"]
    return settings | {"dataset_dir": str(folder), "output_dir": str(folder / "saves")}


def measure(job: dict, options, ordered: list[dict], profile, tokenizer) -> dict:
    """Run a job in a fresh process without a GPU."""
    with tempfile.TemporaryDirectory() as folder:
        python, folder = sys.executable, Path(folder)
        job = job | {"model": options.model, "folder": str(folder)}
        if job["run"] == "llamafactory":
            python = options.llamafactory / "bin" / "python"
            job["arguments"] = yaml_of(folder, ordered, profile, tokenizer, job["same"])
        (folder / "job.json").write_text(json.dumps(job))
        command = [python, Path(__file__).with_name("train_one.py"), folder / "job.json", folder / "result.json"]
        done = subprocess.run(command, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""}, stdout=sys.stderr)
        if done.returncode:
            raise SystemExit(f"{job['run']} ended with exit code {done.returncode}; its last words stand above")
        return json.loads((folder / "result.json").read_text())


def operations(model: str, profile, rows: list[dict], scored: int | None = None) -> float:
    """What training on these encoded rows must compute at least, if `scored` tokens of the vocabulary are scored (None: all)."""
    with torch.device("meta"):
        shapes = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(models.locate(model)[0]))
    body = [layer for layer in shapes.model.modules() if isinstance(layer, torch.nn.Linear)]
    weights = sum(layer.weight.numel() for layer in body)
    adapter = sum(profile.lora_r * (layer.in_features + layer.out_features) for layer in body)
    tokens = sum(len(row["input_ids"]) for row in rows)
    learned = sum(label != training.IGNORE for row in rows for label in row["labels"])
    vocabulary, width = shapes.get_output_embeddings().weight.shape
    return (4 * weights + 6 * adapter) * tokens + 4 * (scored or vocabulary) * width * learned


def summary(found: dict[str, list[dict]], timed: list[dict], work) -> list[dict]:
    """One entry a system, the medians over its rounds. work: a function from the number of scored tokens to operations."""
    tokens, peaks = sum(len(row["input_ids"]) for row in timed), found["peak"]
    best = {dtype: max(one[dtype] for one in peaks) for dtype in DTYPES}
    entries = []
    for name, rounds in found.items():
        if name == "peak":
            continue
        seconds = statistics.median(one["ends"][-1] - one["ends"][SKIPPED - 1] for one in rounds)
        losses = {"first_loss": rounds[0]["losses"][0], "last_loss": statistics.mean(rounds[0]["losses"][-LAST:])}
        shares = {f"of_{dtype}": work(rounds[0].get("scored")) / seconds / speed for dtype, speed in best.items()}
        memory = statistics.median(one["peak_bytes"] for one in rounds)
        label = f"{name}, {rounds[0]['dtype']}" if "dtype" in rounds[0] else name
        entries.append({"system": label, "tokens_per_second": tokens / seconds, "peak_bytes": memory} | losses | shares)
    return entries


def table(entries: list[dict]) -> str:
    ours = entries[0]["tokens_per_second"]
    lines = [HEADS, ["---"] * len(HEADS)]
    for one in entries:
        speed = [f"{one['tokens_per_second']:.0f}", f"{ours / one['tokens_per_second']:.2f} x"]
        rest = [f"{one['first_loss']:.4f}", f"{one['last_loss']:.4f}", f"{one['peak_bytes'] / 2**30:.1f} GiB"]
        lines.append([one["system"], *speed, *rest, f"{100 * one['of_float32']:.0f} %", f"{100 * one['of_bfloat16']:.0f} %"])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--model", default="gemma3-270m")
    parser.add_argument("--llamafactory", type=Path, help="folder of an environment with LLaMA-Factory 0.9.5")
    parser.add_argument("--data", type=Path, default=ROOT / "data" / "samples" / "distilled", help="folder of train.jsonl")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="folder for train.json, and the table if training.md is there")
    options = parser.parse_args()
    if options.steps <= SKIPPED:
        raise SystemExit(f"--steps: {options.steps} is too few; the first {SKIPPED} are not timed")
    profile = load_profile("laptop", base=options.model)
    tokenizer = models.open_tokenizer(options.model)
    rows, ordered = taken(options.data, options.steps, profile, tokenizer)
    planned = {"peak": {"run": "peak"}} | jobs(options, profile, rows, ordered, tokenizer)
    found = {name: [] for name in planned}
    for number in range(options.rounds):
        for name, job in planned.items():
            print(f"round {number + 1} of {options.rounds}: {name}", flush=True)
            found[name].append(measure(job, options, ordered, profile, tokenizer))
    timed = ordered[SKIPPED * profile.batch_size :]
    entries = summary(found, timed, lambda scored: operations(options.model, profile, timed, scored))
    measured = {
        "steps": options.steps,
        "rounds": options.rounds,
        "peak": {dtype: [one[dtype] for one in found["peak"]] for dtype in DTYPES},
        "systems": entries,
    }
    (options.docs / "train.json").write_text(json.dumps(measured, indent=1) + "\n")
    page = options.docs / "training.md"
    if page.exists():
        page.write_text(fill(page, "speed", table(entries)), encoding="utf-8")
    print(table(entries))


if __name__ == "__main__":
    main()
