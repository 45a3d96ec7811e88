"""Scores of predicted records against references, one number per field, and intervals around their means.

Arabic is compared in one spelling (`text.normalise`). A prediction that is not a valid record scores zero everywhere: the
reader of a database cannot use it.
"""

import json
import random
import types
import typing
from collections import Counter

from pydantic import BaseModel, ValidationError
from sacrebleu.metrics import CHRF

from workbook.dataset import source_of
from workbook.tasks import Task
from workbook.text import normalise

_CHRF = CHRF(word_order=2)  # chrF++, https://aclanthology.org/W17-4770


def parse(answer: str, schema: type[BaseModel]) -> BaseModel | None:
    """The record that an answer is, or None: the whole answer must be one JSON object that fits the schema."""
    try:
        return schema.model_validate(json.loads(answer))
    except (json.JSONDecodeError, ValidationError):
        return None


def chrf(hypothesis: str, reference: str) -> float:
    """chrF++ of one text, 0 to 100, on normalised spelling."""
    return _CHRF.sentence_score(normalise(hypothesis), [normalise(reference)]).score


def f1(predicted: list, reference: list) -> float:
    """F1 of two lists as multisets, 0 to 100; 100 if both are empty."""
    if not predicted and not reference:
        return 100.0
    common = sum((Counter(predicted) & Counter(reference)).values())
    return 200.0 * common / (len(predicted) + len(reference))


def score_field(annotation, predicted, reference) -> float:
    """A field's score, 0 to 100, by its type: labels by equality, lists by F1 of their items, free text by chrF++."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return score_field(typing.get_args(annotation)[0], predicted, reference)
    if origin is list:
        return f1([_item(x) for x in predicted], [_item(x) for x in reference])
    if annotation is str:
        return chrf(predicted, reference)
    if origin in (typing.Union, types.UnionType) and str in typing.get_args(annotation) and predicted and reference:
        return chrf(predicted, reference)
    return 100.0 * (predicted == reference)


def _item(item) -> str:
    """A list item in a form that can be compared: normalised text, or all fields of an object."""
    values = item.model_dump(mode="json").values() if isinstance(item, BaseModel) else [item]
    return "|".join(normalise(str(value)) for value in values)


def score(schema: type[BaseModel], predicted: BaseModel | None, reference: BaseModel) -> dict[str, float]:
    """{"valid", one score per field, "headline"}, each 0 to 100; the headline is the mean of the fields."""
    fields = {
        name: 0.0 if predicted is None else score_field(info.annotation, getattr(predicted, name), getattr(reference, name))
        for name, info in schema.model_fields.items()
    }
    return {"valid": 100.0 * (predicted is not None)} | fields | {"headline": sum(fields.values()) / len(fields)}


def interval(scores: list[float], sources: list[str], *, draws: int = 2000, seed: int = 0) -> tuple[float, float, float]:
    """(mean, low, high): a 95 % percentile bootstrap that draws whole sources, because articles on one event are not independent."""
    groups: dict[str, list[float]] = {}
    for value, source in zip(scores, sources, strict=True):
        groups.setdefault(source, []).append(value)
    sums = [(sum(values), len(values)) for values in groups.values()]
    chance, means = random.Random(seed), []
    for _ in range(draws):
        drawn = chance.choices(sums, k=len(sums))
        means.append(sum(total for total, _ in drawn) / sum(count for _, count in drawn))
    means.sort()
    return sum(scores) / len(scores), means[int(0.025 * draws)], means[int(0.975 * draws)]


def table(task: Task, rows: list[dict], answers: dict[str, list[str]], references: dict[str, BaseModel]) -> dict[str, dict[str, tuple]]:
    """{system: {score: (mean, low, high)}} for the answers of each system to `rows`, in their order."""
    sources = [source_of(row) for row in rows]
    results = {}
    for system, texts in answers.items():
        scored = [score(task.schema, parse(text, task.schema), references[row["id"]]) for row, text in zip(rows, texts, strict=True)]
        results[system] = {name: interval([one[name] for one in scored], sources) for name in scored[0]}
    return results
