"""One system asked all its prompts: its answers, and what they took."""

import time

from pydantic import BaseModel

from workbook import energy, generation


def run(model, tokenizer, prompts: list[str], name: str, *, max_new_tokens: int, schema: type[BaseModel] | None = None) -> dict:
    """{"texts", "cut", "prompt_tokens", "tokens", "seconds", "joules"} of a system's greedy answers to `prompts`.

    cut: which answers were ended by the limit on their length. prompt_tokens, tokens: per answer. seconds: of the wall clock, for all.
    joules: of the whole processor, None where it cannot be read (see `energy`). schema: holds the decoding to its grammar.
    """
    begun, before = time.perf_counter(), energy.read()
    answers = generation.generate(model, tokenizer, prompts, max_new_tokens=max_new_tokens, schema=schema, progress=name)
    took = {"seconds": time.perf_counter() - begun, "joules": energy.joules(before, energy.read())}
    columns = {name: [answer[name] for answer in answers] for name in ("prompt_tokens", "tokens")}
    return {"texts": [answer["text"] for answer in answers], "cut": [not answer["stopped"] for answer in answers]} | columns | took


def spent(runs: dict[str, dict], scored: dict[str, list[dict]]) -> dict[str, dict]:
    """{system: {what: value}}: the cost of its answers, for each article and for each valid record, the only ones that can be used.

    None where there was no valid record to divide by, or energy cannot be measured. scored: of `metrics.scored`.
    """
    found = {}
    for system, one in runs.items():
        count, valid = len(one["texts"]), sum(score["valid"] for score in scored[system]) / 100
        each = lambda total, valid=valid: total / valid if valid and total is not None else None  # noqa: E731
        found[system] = {
            "prompt tokens per article": sum(one["prompt_tokens"]) / count,
            "written tokens per article": sum(one["tokens"]) / count,
            "valid records": round(valid),
            "written tokens per valid record": each(sum(one["tokens"])),
            "seconds per valid record": each(one["seconds"]),
            "joules per valid record": each(one["joules"]),
            "seconds in all": one["seconds"],
        }
    return found
