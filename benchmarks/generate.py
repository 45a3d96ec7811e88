"""How many valid records a second does the student write? `python benchmarks/generate.py` (about 20 minutes on two idle cores)

The student (data/samples/adapter, merged into its base) answers the same articles of the test split in four ways, one after the other
in rounds, in one process, greedily, with the same limit of new tokens and in the same number format:

one at a time             `model.generate` of transformers with its defaults, prompt after prompt. It gets our rule that an answer ends
                          where its JSON object closes; without it a model may go on to the limit
one at a time, grammar    the same, with the grammar's logits processor
ours                      `generation.generate`: batches, and rows that have ended leave them
ours, grammar             the same with `schema`

A record is valid if the whole answer is JSON that fits the schema. What happens once (opening the model, reading the vocabulary into the
grammar) is done before the first round; its seconds stand in the file. A figure is the median over the rounds. *Grammar costs* compares
the seconds a token with and without the grammar, since the two do not write the same answers. Writes docs/generate.json and the table
between its marks in docs/generation.md. `--articles 4 --rounds 1 --docs /tmp` is a quick try.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from publish import ROOT, fill

from workbook import dataset, generation, metrics, models, training
from workbook.grammar import Grammar
from workbook.profiles import load_profile
from workbook.tasks import ARTICLE_DIGEST as TASK

HEADS = ("system", "valid records", "valid records/s", "times one at a time", "tokens/s", "grammar costs")


@torch.inference_mode()
def alone(model, tokenizer, prompts: list[str], limit: int, schema=None) -> list[dict]:
    """`model.generate` for one prompt after the other, as {"text", "tokens"}."""
    answers, ends = [], generation.end_tokens(model)
    for prompt in prompts:
        given = tokenizer(prompt, return_tensors="pt", add_special_tokens=not tokenizer.chat_template).to(model.device)
        start = given["input_ids"].shape[1]
        closed = [generation.JsonClosed(tokenizer, start, 1)]
        processors = [Grammar(schema, tokenizer, ends, start, 1)] if schema else []
        out = model.generate(**given, max_new_tokens=limit, do_sample=False, stopping_criteria=closed, logits_processor=processors)
        new = [token for token in out[0, start:].tolist() if token not in ends]
        answers.append({"text": tokenizer.decode(new, skip_special_tokens=True), "tokens": len(new)})
    return answers


def systems(limit: int, batch_size: int) -> dict:
    """{name: function of (model, tokenizer, prompts)}; each with and without the grammar."""
    ours = {"max_new_tokens": limit, "batch_size": batch_size}
    return {
        "one at a time": lambda *given: alone(*given, limit),
        "one at a time, grammar": lambda *given: alone(*given, limit, TASK.schema),
        "ours": lambda *given: generation.generate(*given, **ours),
        "ours, grammar": lambda *given: generation.generate(*given, **ours, schema=TASK.schema),
    }


def summary(found: dict[str, list[dict]]) -> list[dict]:
    """One entry a system, the medians over its rounds."""
    entries = []
    for name, rounds in found.items():
        middle = statistics.median(one["seconds"] for one in rounds)
        valid, tokens = rounds[0]["valid"], rounds[0]["tokens"]
        entries.append({"system": name, "valid": valid, "valid_per_second": valid / middle, "tokens_per_second": tokens / middle})
    return entries


def table(entries: list[dict], articles: int) -> str:
    by_name, lines = {one["system"]: one for one in entries}, [HEADS, ["---"] * len(HEADS)]
    slowest = entries[0]["valid_per_second"]
    for one in entries:
        free = by_name.get(one["system"].removesuffix(", grammar"))
        cost = "" if free is one else f"{100 * (free['tokens_per_second'] / one['tokens_per_second'] - 1):+.0f} %"
        times = f"{one['valid_per_second'] / slowest:.1f} x" if slowest else ""
        speed = [f"{one['valid_per_second']:.3f}", times, f"{one['tokens_per_second']:.0f}", cost]
        lines.append([one["system"], f"{one['valid']} of {articles}", *speed])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--articles", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=24)
    parser.add_argument("--max-new-tokens", type=int, default=load_profile("laptop").max_new_tokens)
    parser.add_argument("--model", default=ROOT / "data" / "samples" / "adapter", help="folder of the student's adapter, or any model")
    parser.add_argument("--data", type=Path, default=ROOT / "data" / "samples" / "distilled", help="folder of test.jsonl")
    parser.add_argument(
        "--docs", type=Path, default=ROOT / "docs", help="folder for generate.json, and the table if generation.md is there"
    )
    options = parser.parse_args()
    rows = dataset.read_distilled(TASK, options.data / "test.jsonl")[: options.articles]
    model, tokenizer = models.open_model(options.model, dtype=training.fast_dtype())
    model = model.merge_and_unload() if hasattr(model, "merge_and_unload") else model
    prompts = [dataset.layout(row["prompt"], tokenizer) for row in rows]
    begun = time.perf_counter()
    Grammar(TASK.schema, tokenizer, generation.end_tokens(model), 0, 1)
    prepared = time.perf_counter() - begun
    named = systems(options.max_new_tokens, options.batch_size)
    named["ours"](model, tokenizer, prompts[:1])  # memory is touched for the first time
    found = {name: [] for name in named}
    for number in range(options.rounds):
        for name, system in named.items():
            begun = time.perf_counter()
            answers = system(model, tokenizer, prompts)
            seconds = time.perf_counter() - begun
            valid = sum(metrics.parse(answer["text"], TASK.schema) is not None for answer in answers)
            found[name].append({"seconds": seconds, "valid": valid, "tokens": sum(answer["tokens"] for answer in answers)})
            print(f"round {number + 1} of {options.rounds}: {name}: {found[name][-1]}", flush=True)
    entries = summary(found)
    measured = {"articles": len(prompts), "batch_size": options.batch_size, "max_new_tokens": options.max_new_tokens}
    measured |= {"dtype": str(model.dtype).removeprefix("torch."), "cores": torch.get_num_threads(), "grammar_once_seconds": prepared}
    measured |= {"systems": entries, "rounds": found}
    (options.docs / "generate.json").write_text(json.dumps(measured, indent=1) + "\n")
    page = options.docs / "generation.md"
    if page.exists():
        page.write_text(fill(page, "generate", table(entries, len(prompts))), encoding="utf-8")
    print(table(entries, len(prompts)))


if __name__ == "__main__":
    main()
