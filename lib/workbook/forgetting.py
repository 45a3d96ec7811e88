"""What a model could do before it was tuned and does worse after it: perplexity on unrelated text, and a schema that it never saw.

Catastrophic forgetting and its measurement in language models: https://arxiv.org/abs/2308.08747.
"""

import json

import numpy as np
import torch
from pydantic import BaseModel
from torch.nn.functional import cross_entropy

from workbook.dataset import read_jsonl
from workbook.funnel import repaired
from workbook.intervals import interval
from workbook.metrics import parse
from workbook.tasks import DATA

UNRELATED = DATA / "unrelated.jsonl"


def unrelated() -> list[dict]:
    """The committed texts that have nothing to do with any task: {"id", "language", "text"}."""
    return read_jsonl(UNRELATED)


@torch.inference_mode()
def losses(model, tokenizer, texts: list[str]) -> list[tuple[float, int]]:
    """(the sum of the losses in nats, how many tokens were guessed) of each text; its first token is given."""
    found = []
    for text in texts:
        ids = tokenizer(text, return_tensors="pt")["input_ids"].to(model.device)
        logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
        found.append((cross_entropy(logits, ids[0, 1:], reduction="sum").item(), ids.shape[1] - 1))
    return found


def perplexity(found: list[tuple[float, int]]) -> float:
    """The exponential of the mean loss a token, over all texts of `losses` together."""
    return float(np.exp(sum(nats for nats, _ in found) / sum(tokens for _, tokens in found)))


def by_language(model, tokenizer, rows: list[dict]) -> dict[str, list[tuple[float, int]]]:
    """{language: `losses`} of rows like those of `unrelated`."""
    languages = sorted({row["language"] for row in rows})
    return {one: losses(model, tokenizer, [row["text"] for row in rows if row["language"] == one]) for one in languages}


def growth(before: list[tuple[float, int]], after: list[tuple[float, int]]) -> tuple[float, float, float]:
    """(growth, low, high) of the perplexity of the same texts in percent, with its 95 % interval over texts; 0: nothing changed."""
    each = [(late - early) / tokens for (early, tokens), (late, _) in zip(before, after, strict=True)]
    factors = np.exp(interval(each, range(len(each)), weights=[tokens for _, tokens in before]))
    return tuple((100 * (factors - 1)).tolist())


def follows(answers: list[str], asked: type[BaseModel], trained: type[BaseModel]) -> dict[str, float]:
    """What answers to a request for a record of `asked` are, in percent: valid ones, those in its form, in the form of `trained`, neither.

    An answer has the form of the schema that more of its keys belong to; text around the object and open brackets are forgiven.
    """
    own, other = set(asked.model_fields), set(trained.model_fields)
    forms = [_form(answer, own - other, other - own) for answer in answers]
    share = lambda hits: 100.0 * sum(hits) / max(1, len(answers))  # noqa: E731
    return {"valid": share([parse(answer, asked) is not None for answer in answers])} | {
        name: share([form == name for form in forms]) for name in ("the form asked for", "the form of its training", "neither")
    }


def _form(answer: str, own: set[str], other: set[str]) -> str:
    keys = set(json.loads(repaired(answer) or "{}"))
    if len(keys & own) == len(keys & other):
        return "neither"
    return "the form asked for" if len(keys & own) > len(keys & other) else "the form of its training"
