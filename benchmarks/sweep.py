"""Learning rate, rank, alpha, epochs, prompt for the `laptop` profile, chosen on validation loss: `python benchmarks/sweep.py`

One factor at a time around one setting, on the rows that notebook 03 left in data/samples/distilled: trained on the training rows, then
the loss on all 43 validation rows, and the answers to the first 24 of them, scored against the teacher's labels. The test rows are never
opened. One run repeats the setting with another seed: two losses that differ by less than those two do are the same loss. One asks with
the teacher's whole guidance instead of the student's few words. Each finished
run is written to docs/sweep.json at once, and is not done again as long as its rows and settings are the same. About seven minutes a run
on two cores, twice that for two epochs; seven runs. `--only-one` does one missing
run and ends, with exit code 3 if none was missing. Writes the table between its marks in docs/training.md.
"""

import argparse
import json
import os
import tempfile

import torch
from publish import ROOT, fill
from transformers import set_seed

from workbook import dataset, generation, metrics, models, training
from workbook.cache import digest
from workbook.profiles import load_profile
from workbook.tasks import ARTICLE_DIGEST as TASK

CENTRE = {"learning_rate": 5e-4, "lora_r": 16, "lora_alpha": 32, "epochs": 1.0, "seed": 0, "train_articles": 300, "batch_size": 2}
GUIDED = "prompt: the teacher's guidance"
CHANGES = {
    "the setting in the middle": [{}],
    "learning rate": [{"learning_rate": 1e-3}, {"learning_rate": 2e-4}],
    "epochs": [{"epochs": 2.0}],
    "seed": [{"seed": 1}],
    "rank, alpha twice the rank": [{"lora_r": 64, "lora_alpha": 128}],
    GUIDED: [{"max_length": 1024}],  # its prompts are longer, and all rows have to fit
}
OURS = ("base", "max_length")  # what of the profile decides a run's result, beside CENTRE
LOSSES, ASKED = ("validation_loss", "train_loss"), 24
SCORES = ("valid", "category", "translation", "headline")
PATH, PAGE = ROOT / "docs" / "sweep.json", ROOT / "docs" / "training.md"


def plan(train_rows: list[dict], validation_rows: list[dict]) -> dict[str, dict]:
    """{key: {"factor", the setting}}; the key changes when rows or settings do."""
    runs = {}
    for factor, changes in CHANGES.items():
        for change in changes:
            profile = load_profile("laptop", **CENTRE | change)
            setting = {name: getattr(profile, name) for name in (*OURS, *CENTRE)}
            rows = worded(factor, train_rows[: profile.train_articles], validation_rows)
            runs[digest([setting, rows])[:16]] = {"factor": factor} | setting
    return runs


def worded(factor: str, *sides: list[dict]) -> list[list[dict]]:
    """The rows of each side, with the prompts of this factor."""
    words = TASK.guidance if factor == GUIDED else TASK.instruction
    return [[row | {"prompt": row["prompt"].replace(TASK.instruction, words, 1)} for row in rows] for rows in sides]


def one(run: dict, train_rows: list[dict], validation_rows: list[dict], dtype: torch.dtype) -> dict:
    """Train at this run's setting; the adapter goes to a temporary folder and is dropped."""
    train_rows, validation_rows = worded(run["factor"], train_rows, validation_rows)
    with tempfile.TemporaryDirectory() as folder:
        profile = load_profile("laptop", run_dir=folder).model_copy(update={name: run[name] for name in (*CENTRE, "max_length")})
        model, tokenizer = models.open_model(profile.student_base, dtype=dtype)
        set_seed(profile.seed)  # the adapter's first numbers are drawn from it
        model = training.add_lora(model, profile, profile.student_base)
        try:
            result = training.train(model, tokenizer, train_rows[: profile.train_articles], [], profile)
            result["validation_loss"] = validation_loss(model, tokenizer, validation_rows, profile.max_length)
            result |= answers_scored(model, tokenizer, validation_rows[:ASKED], profile)
        except FloatingPointError:
            result = dict.fromkeys((*LOSSES, *SCORES, "steps", "seconds"))
    return {name: result[name] for name in (*LOSSES, *SCORES, "steps", "seconds")} | {"dtype": str(dtype).removeprefix("torch.")}


@torch.inference_mode()
def validation_loss(model, tokenizer, rows: list[dict], max_length: int) -> float:
    """Mean loss per completion token, over the whole vocabulary."""
    encoded, _ = training.encode_rows(rows, tokenizer, max_length)
    whole = sum(label != training.IGNORE for row in encoded for label in row["labels"])
    return sum(training.completion_loss(model.eval(), training.collate([row], tokenizer.pad_token_id), whole).item() for row in encoded)


def answers_scored(model, tokenizer, rows: list[dict], profile) -> dict[str, float]:
    """Means of some scores of greedy answers to `rows`, against their completions."""
    prompts = [dataset.layout(row["prompt"], tokenizer) for row in rows]
    texts = [answer["text"] for answer in generation.generate(model.eval(), tokenizer, prompts, max_new_tokens=profile.max_new_tokens)]
    labels = {row["id"]: TASK.schema.model_validate_json(row["completion"]) for row in rows}
    scored = metrics.scored(TASK, rows, {"student": texts}, labels)["student"]
    return {name: sum(one[name] for one in scored) / len(scored) for name in SCORES}


def table(runs: dict[str, dict]) -> str:
    lines = [
        "| changed | learning rate | rank | alpha | rows | epochs | batch | seed | validation loss | training loss |"
        " valid % | category | translation chrF++ | headline |",
        "|" + "---|" * 14,
    ]
    for run in runs.values():
        losses = " | ".join(f"{run[name]:.3f}" if run.get(name) else "diverged" if name in run else "not run" for name in LOSSES)
        setting = [f"{run[name]:g}" for name in ("learning_rate", "lora_r", "lora_alpha", "train_articles", "epochs", "batch_size", "seed")]
        scores = " | ".join(f"{run[name]:.1f}" if run.get(name) is not None else "" for name in SCORES)
        cells = (run["factor"], *setting, losses, scores)
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def write(runs: dict[str, dict]) -> None:
    """docs/sweep.json, all or nothing, and the table in the page."""
    temporary = PATH.with_name(PATH.name + ".tmp")
    temporary.write_text(json.dumps(runs, indent=1) + "\n")
    os.replace(temporary, PATH)
    PAGE.write_text(fill(PAGE, "sweep", table(runs)), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only-one", action="store_true", help="do one missing run, then end")
    options = parser.parse_args()
    folder = ROOT / "data" / "samples" / "distilled"
    train_rows, validation_rows = (dataset.read_distilled(TASK, folder / f"{side}.jsonl") for side in ("train", "validation"))
    finished = json.loads(PATH.read_text()) if PATH.exists() else {}
    runs = {key: finished.get(key, run) for key, run in plan(train_rows, validation_rows).items()}
    used = {run["dtype"] for run in runs.values() if "dtype" in run}  # a fast_dtype that flips would blur the comparison
    dtype = getattr(torch, used.pop()) if used else training.fast_dtype()
    missing = [key for key in runs if "validation_loss" not in runs[key]]
    for key in missing[: 1 if options.only_one else None]:
        print(f"{len(runs) - len(missing)} runs are there; now {runs[key]}", flush=True)
        runs[key] |= one(runs[key], train_rows, validation_rows, dtype)
        write(runs)
    print(table(runs))
    if options.only_one and not missing:
        raise SystemExit(3)


if __name__ == "__main__":
    main()
