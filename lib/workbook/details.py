"""Scores beside the headline, by the type of a field: what one number per field does not tell.

A list of objects: matched by name alone, matched letter by letter, and how often the other attributes of a matched object are right.
Free text: ROUGE-L; text in another language than its source: BLEU too. A label: its confusion matrix and macro-F1.
"""

import typing
from collections import Counter

from pydantic import BaseModel
from sacrebleu.metrics import BLEU, CHRF

from workbook.dataset import source_of
from workbook.metrics import bounded, f1, labels, parse, plain, rouge_l
from workbook.tasks import Task
from workbook.text import normalise

NO_RECORD = "no valid record"
GRAVE = {"urgency": "emergency"}  # field: the label that must not be missed


def match(predicted: list[BaseModel], reference: list[BaseModel]) -> list[tuple[BaseModel, BaseModel]]:
    """Pairs of objects with the same name (an object's first field, normalised), each object in one pair at most.

    Of several with the same name, those that agree in most of the other fields are paired first.
    """
    key = lambda one: normalise(str(next(iter(one.model_dump(mode="json").values()))))  # noqa: E731
    agree = lambda a, b: sum(getattr(a, name) == getattr(b, name) for name in type(a).model_fields)  # noqa: E731
    pairs = [(i, j) for i, a in enumerate(predicted) for j, b in enumerate(reference) if key(a) == key(b)]
    found = {}
    for i, j in sorted(pairs, key=lambda pair: -agree(predicted[pair[0]], reference[pair[1]])):
        if i not in found and j not in found.values():
            found[i] = j
    return [(predicted[i], reference[j]) for i, j in found.items()]


def extras(schema: type[BaseModel], predicted: BaseModel | None, reference: BaseModel) -> dict[str, tuple[float, int]]:
    """{score: (value 0 to 100, what it weighs)} of one record, beyond the field scores.

    `exact`: F1 letter by letter. `by name`: F1 of names, types and other attributes aside. `of matched: x`: the share of matched objects
    whose attribute x is right; it weighs as many as were matched, or all of the reference's if there is no valid record.
    """
    found = {}
    for name, info in schema.model_fields.items():
        kind, theirs = plain(info.annotation), getattr(reference, name)
        mine = None if predicted is None else getattr(predicted, name)
        if kind is str:
            found[f"{name} ROUGE-L"] = (rouge_l(mine, theirs) if mine is not None and theirs is not None else 0.0, 1)
        elif typing.get_origin(kind) is list:
            item = plain(typing.get_args(kind)[0])
            found[f"{name} exact"] = (0.0 if mine is None else f1(list(map(repr, mine)), list(map(repr, theirs or []))), 1)
            if isinstance(item, type) and issubclass(item, BaseModel):
                found |= _objects(name, item, mine, theirs or [])
    return found


def _objects(name: str, item: type[BaseModel], mine: list | None, theirs: list) -> dict[str, tuple[float, int]]:
    first, *others = item.model_fields
    if mine is None:
        return {f"{name} by {first}": (0.0, 1)} | {f"{name} of matched: {other}": (0.0, len(theirs)) for other in others}
    pairs = match(mine, theirs)
    by_name = 200.0 * len(pairs) / (len(mine) + len(theirs)) if mine or theirs else 100.0
    right = {other: sum(getattr(a, other) == getattr(b, other) for a, b in pairs) for other in others}
    shares = {f"{name} of matched: {other}": (100.0 * n / max(1, len(pairs)), len(pairs)) for other, n in right.items()}
    return {f"{name} by {first}": (by_name, 1)} | shares


def details(task: Task, rows: list[dict], answers: dict[str, list[str]], references: dict[str, BaseModel]) -> dict[str, dict[str, tuple]]:
    """{system: {score: (mean, low, high), or None if nothing was matched}} of `extras`, for the answers to `rows`, in their order."""
    sources, results = [source_of(row) for row in rows], {}
    for system, texts in answers.items():
        many = [extras(task.schema, parse(text, task.schema), references[row["id"]]) for row, text in zip(rows, texts, strict=True)]
        results[system] = {name: bounded([one[name][0] for one in many], sources, [one[name][1] for one in many]) for name in many[0]}
    return results


def confusion(task: Task, rows: list[dict], texts: list[str], references: dict[str, BaseModel]) -> dict[str, dict[str, Counter]]:
    """{label field: {label in the reference: Counter of what one system said}}; an answer that is no record said NO_RECORD."""
    fields = {name: labels(info.annotation) for name, info in task.schema.model_fields.items()}
    found = {name: {label: Counter() for label in known} for name, known in fields.items() if known}
    for row, text in zip(rows, texts, strict=True):
        record, truth = parse(text, task.schema), references[row["id"]].model_dump(mode="json")
        said = {} if record is None else record.model_dump(mode="json")
        for name, matrix in found.items():
            matrix.setdefault(truth[name], Counter())[said.get(name, NO_RECORD)] += 1
    return found


def macro_f1(matrix: dict[str, Counter]) -> float:
    """The mean of the labels' F1, 0 to 100, over the labels that the references or the system use; no record is a miss."""
    said = sum(matrix.values(), Counter())
    used = [label for label, row in matrix.items() if row.total() or said[label]]
    each = [200.0 * matrix[label][label] / (matrix[label].total() + said[label]) for label in used]
    return sum(each) / len(each) if each else 0.0


def missed(matrix: dict[str, Counter], label: str) -> tuple[int, int]:
    """(how many rows of `label` were called something else or got no record, how many there are)."""
    row = matrix.get(label, Counter())
    return row.total() - row[label], row.total()


def corpus(task: Task, rows: list[dict], texts: list[str], references: dict[str, BaseModel]) -> tuple[dict[str, float], dict[str, str]]:
    """({score: value}, {metric: sacrebleu's signature}) of one system over all rows together; these have no interval.

    Macro-F1 of label fields; corpus-level chrF++ and BLEU of text that is in another language than its source, where an invalid answer
    counts as an empty text; and the length of the valid ones against their references, in words (1 is the same length).
    """
    records, found, signatures = [parse(text, task.schema) for text in texts], {}, {}
    for name, matrix in confusion(task, rows, texts, references).items():
        found[f"{name} macro-F1"] = macro_f1(matrix)
    for name, language in task.languages.items():
        if task.source_language in ("", language):
            continue
        wanted = [getattr(references[row["id"]], name) for row in rows]
        given = ["" if record is None else getattr(record, name) for record in records]
        for title, metric in (("chrF++", CHRF(word_order=2)), ("BLEU", BLEU())):
            found[f"{name} corpus {title}"] = metric.corpus_score(given, [wanted]).score
            signatures[title] = str(metric.get_signature())
        valid = [(len(a.split()), len(b.split())) for a, b in zip(given, wanted, strict=True) if a]
        found[f"{name} length ratio"] = sum(a for a, _ in valid) / max(1, sum(b for _, b in valid))
    return found, signatures
