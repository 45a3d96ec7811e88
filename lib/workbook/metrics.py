"""Scores of predicted records against references, one number per field, and intervals around their means.

Arabic is compared in one spelling (`text.normalise`). A prediction that is not a valid record scores zero everywhere: the
reader of a database cannot use it.
"""

import json
import types
import typing
from collections import Counter
from enum import Enum

from pydantic import BaseModel
from sacrebleu.metrics import CHRF

from workbook.dataset import source_of
from workbook.intervals import interval
from workbook.obey import wilson
from workbook.tasks import Task
from workbook.text import normalise, words

_CHRF = CHRF(word_order=2)  # chrF++, https://aclanthology.org/W17-4770


def parse(answer: str, schema: type[BaseModel]) -> BaseModel | None:
    """The record that an answer is, or None: the whole answer must be one JSON object that fits the schema."""
    try:
        return schema.model_validate(json.loads(answer))
    except (ValueError, RecursionError):  # not JSON, not the schema, a number of 5,000 digits, a thousand open brackets
        return None


def plain(annotation):
    """A field's type without `Annotated` and without `| None`: the type that decides how it is scored."""
    origin, inside = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return plain(inside[0])
    if origin in (typing.Union, types.UnionType):
        kinds = [kind for kind in inside if kind is not types.NoneType]
        return plain(kinds[0]) if len(kinds) == 1 else annotation
    return annotation


def labels(annotation) -> list:
    """The values that a field can take if it is a label (a Literal or an Enum), in their order; else []."""
    kind = plain(annotation)
    if typing.get_origin(kind) is typing.Literal:
        return list(typing.get_args(kind))
    return [one.value for one in kind] if isinstance(kind, type) and issubclass(kind, Enum) else []


def chrf(hypothesis: str, reference: str) -> float:
    """chrF++ of one text, 0 to 100, on normalised spelling; 100 if both are empty."""
    hypothesis, reference = normalise(hypothesis), normalise(reference)
    return _CHRF.sentence_score(hypothesis, [reference]).score if hypothesis or reference else 100.0


def rouge_l(hypothesis: str, reference: str) -> float:
    """ROUGE-L of one text, 0 to 100: F1 of the longest common subsequence of words (https://aclanthology.org/W04-1013).

    Words are those of `text.words`, which knows Arabic; 100 if neither text has one.
    """
    mine, theirs = words(hypothesis), words(reference)
    if not mine and not theirs:
        return 100.0
    longest = [0] * (len(theirs) + 1)  # of the words of `mine` so far, with each beginning of `theirs`
    for word in mine:
        before = longest[:]
        for i, other in enumerate(theirs, 1):
            longest[i] = before[i - 1] + 1 if word == other else max(before[i], longest[i - 1])
    return 200.0 * longest[-1] / (len(mine) + len(theirs))


def f1(predicted: list, reference: list) -> float:
    """F1 of two lists as multisets, 0 to 100: each item is matched with at most one equal item; 100 if both are empty."""
    if not predicted and not reference:
        return 100.0
    common = sum((Counter(predicted) & Counter(reference)).values())
    return 200.0 * common / (len(predicted) + len(reference))


def score_field(annotation, predicted, reference) -> float:
    """A field's score, 0 to 100, by its type: labels by equality, lists by F1 of their items, free text by chrF++."""
    kind = plain(annotation)
    if predicted is None or reference is None:
        return 100.0 * (predicted is reference)
    if typing.get_origin(kind) is list:
        return f1([_item(x) for x in predicted], [_item(x) for x in reference])
    return chrf(predicted, reference) if kind is str else 100.0 * (predicted == reference)


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


def scored(task: Task, rows: list[dict], answers: dict[str, list[str]], references: dict[str, BaseModel]) -> dict[str, list[dict]]:
    """{system: [`score` of each answer]}, in the order of `rows`. Raises ValueError naming a system without one answer per row."""
    for system, texts in answers.items():
        if len(texts) != len(rows):
            raise ValueError(f"{system}: {len(texts)} answers to {len(rows)} rows; give one per row, in their order")
    return {
        system: [score(task.schema, parse(text, task.schema), references[row["id"]]) for row, text in zip(rows, texts, strict=True)]
        for system, texts in answers.items()
    }


def means(scores: dict[str, list[dict]], rows: list[dict]) -> dict[str, dict[str, tuple]]:
    """{system: {score: (mean, low, high)}} of what `scored` gave."""
    sources = [source_of(row) for row in rows]
    return {system: {name: bounded([one[name] for one in many], sources) for name in many[0]} for system, many in scores.items()}


def bounded(values: list[float], sources: list[str], weights: list[float] | None = None) -> tuple[float, float, float] | None:
    """(mean, low, high) of scores from 0 to 100 as `intervals.interval` has it; None if nothing counts.

    Where each has 0 or 100, right or wrong, the interval is Wilson's for as many trials as there are sources: a bootstrap of few such
    scores is too short, and has nothing to draw where all are equal.
    """
    counted = [(value, source) for value, source, weight in zip(values, sources, weights or [1] * len(values), strict=True) if weight]
    if not counted:
        return None
    mean, *bounds = interval(values, sources, weights=weights)
    if {value for value, _ in counted} <= {0.0, 100.0}:
        count = len({source for _, source in counted})
        _, *bounds = wilson(mean / 100 * count, count)
    return mean, min(mean, bounds[0]), max(mean, bounds[1])


def table(task: Task, rows: list[dict], answers: dict[str, list[str]], references: dict[str, BaseModel]) -> dict[str, dict[str, tuple]]:
    """{system: {score: (mean, low, high)}} for the answers of each system to `rows`, in their order."""
    return means(scored(task, rows, answers, references), rows)
