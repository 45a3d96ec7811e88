"""What each way of fine-tuning learns and forgets in the same time: `python benchmarks/methods.py`

After "LoRA Learns Less and Forgets Less" (https://arxiv.org/abs/2405.09673), in small. Each method trains for the same wall time in a
fresh process, in float32 on the CPU, on the same rows in the same order, with the batches, rank and alpha of the `laptop` profile: AdamW,
no weight decay, gradient norm at most 1, a warm-up over the first tenth of the time, then a learning rate that falls with the time left.
LoRA's learning rate is the profile's; no profile has one for the others, so a usual one is taken, two for everything. The last two layers
alone are what LLaMA-Factory calls `freeze`. Where the head is frozen the loss is `training.completion_loss`; full fine-tuning trains the
head, which is the embedding too, so it takes the same loss from plain logits at the completion positions.

Before and after: loss on the validation rows, and perplexity on the unrelated text of data/unrelated.jsonl. Memory: the process's peak
resident memory while it trains, less what it held before the model was opened. Storage: the trained numbers, in float32. Writes
docs/methods.json after each run and the table between its marks in docs/training.md. Six runs, about 25 minutes on two idle cores;
one that is in the file already, made from the same rows and settings, is not done again. `--seconds 20 --docs /tmp` is a quick try.
"""

import argparse
import json
import os
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

from methods_one import LANGUAGES, one
from publish import ROOT, fill

from workbook.cache import digest
from workbook.profiles import load_profile

METHODS = {
    "none": [0.0],
    "lora": [load_profile("laptop").learning_rate],
    "full": [5e-5, 1e-4],
    "freeze": [3e-4],
    "head": [1e-3],
}
NAMES = {"none": "nothing", "lora": "LoRA", "full": "everything", "freeze": "last two layers", "head": "linear head on the category"}
HEADS = (
    "trained",
    "learning rate",
    "steps",
    "tokens",
    "peak memory",
    "validation loss",
    "perplexity, Arabic",
    "perplexity, English",
    "to store",
)


def cells(run: dict) -> list[str]:
    """A run's row of the table."""
    if "accuracy" in run:
        found = [f"writes nothing; category right in {100 * run['accuracy']:.0f} %", "unchanged", "unchanged"]
    else:
        found = [f"{run['validation_loss']:.3f}", *(f"{run[language]:.1f}" for language in LANGUAGES)]
    if run["method"] == "none":
        return [NAMES["none"], "", "", "", "", *found, ""]
    done = [f"{run['learning_rate']:g}", f"{run['steps']:,}", f"{run['tokens']:,}", f"{run['peak_bytes'] / 2**30:.2f} GiB"]
    return [NAMES[run["method"]], *done, *found, f"{run['stored_bytes'] / 1e6:,.2f} MB"]


def table(runs: list[dict]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [HEADS, ["---"] * len(HEADS), *map(cells, runs)])


def fresh(*arguments) -> dict:
    """`one` in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(one, *arguments).result()
        except BrokenProcessPool:
            raise SystemExit(f"{NAMES[arguments[0]]}: the process was killed, most likely for want of memory") from None


def write(runs: dict, docs: Path) -> None:
    temporary = docs / "methods.json.tmp"
    temporary.write_text(json.dumps(runs, indent=1) + "\n")
    os.replace(temporary, docs / "methods.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=120, help="of training for each run")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="run only these")
    parser.add_argument("--model", default="gemma3-270m")
    parser.add_argument(
        "--data", type=Path, default=ROOT / "data" / "samples" / "distilled", help="folder of train.jsonl, validation.jsonl"
    )
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="folder for methods.json, and the table if training.md is there")
    options = parser.parse_args()
    files = [options.data / "train.jsonl", options.data / "validation.jsonl", ROOT / "data" / "unrelated.jsonl"]
    settings = load_profile("laptop").model_dump(mode="json", include={"batch_size", "max_length", "lora_r", "lora_alpha", "seed"})
    made_from = [options.model, options.seconds, settings, [path.read_text(encoding="utf-8") for path in files]]
    plan = {digest([method, rate, made_from])[:16]: (method, rate) for method, rates in METHODS.items() for rate in rates}
    path, page = options.docs / "methods.json", options.docs / "training.md"
    finished = json.loads(path.read_text()) if path.exists() else {}
    runs = {key: run for key, run in finished.items() if key in plan}
    for key, (method, rate) in plan.items():
        if key not in runs and method in options.methods:
            facts = {"method": method, "learning_rate": rate}
            runs[key] = facts | fresh(method, rate, options.model, options.data, options.seconds)
            write(runs, options.docs)
            print(runs[key], flush=True)
    made = table([runs[key] for key in plan if key in runs])
    if page.exists():
        page.write_text(fill(page, "methods", made), encoding="utf-8")
    print(made)


if __name__ == "__main__":
    main()
