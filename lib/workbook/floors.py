"""Systems that cannot read: what a score is worth is its distance from theirs."""

import json
from collections import Counter
from collections.abc import Callable

from pydantic import ValidationError

from workbook.metrics import plain
from workbook.tasks import Task
from workbook.text import first_sentence


def floors(task: Task, labels: list[dict], sources: list[str]) -> dict[str, list[str]]:
    """{floor: one answer per source, as JSON text} made from the training `labels` alone, without a look at any reference.

    "floor: lead": each free-text field is the first sentence of the source (the lead-1 baseline of summarisation); "floor: copy": the
    whole source, cut where the schema wants it shorter. Every other field, and text that should be in another language than the source, is
    the commonest value among the labels (the majority class; the first one where all differ): for a translation, fluent text about
    something else. A task without text in its source's language has one floor, "floor: majority".
    """
    if not any(_is_own_text(task, name) for name in task.schema.model_fields):
        return {"floor: majority": [_record(task, labels, source, str) for source in sources]}
    copies = {"floor: lead": first_sentence, "floor: copy": str}
    return {name: [_record(task, labels, source, copy) for source in sources] for name, copy in copies.items()}


def _record(task: Task, labels: list[dict], source: str, copy: Callable[[str], str]) -> str:
    """The record as JSON; where a copied text breaks a rule of the schema, the commonest values, or else the first training label."""
    common = {name: commonest([label[name] for label in labels]) for name in task.schema.model_fields}
    copied = {name: _fit(task, name, copy(source)) for name in common if _is_own_text(task, name)}
    for values in (common | copied, common):
        try:
            return task.schema.model_validate(values).model_dump_json()
        except ValidationError:
            continue
    return task.schema.model_validate(labels[0]).model_dump_json()


def commonest(values: list):
    """The value that is there most often, the first of them if several are."""
    return json.loads(Counter(json.dumps(value, sort_keys=True) for value in values).most_common(1)[0][0])


def _is_own_text(task: Task, name: str) -> bool:
    wanted = task.languages.get(name, task.source_language)
    return plain(task.schema.model_fields[name].annotation) is str and task.source_language in ("", wanted)


def _fit(task: Task, name: str, text: str) -> str:
    """`text` cut to the field's greatest length, at a space."""
    most = next((rule.max_length for rule in task.schema.model_fields[name].metadata if hasattr(rule, "max_length")), None)
    return text if not most or len(text) <= most else text[:most].rsplit(" ", 1)[0]
