"""The second of the two committed tasks beside the one under test: a schema that its student never saw, and a whole task of its own."""

import json
from pathlib import Path

from workbook import audit, dataset, details, metrics
from workbook.tasks import ARTICLE_DIGEST, DATA, PATIENT_INTAKE, TASKS, Task

ADAPTERS = {ARTICLE_DIGEST.name: DATA / "samples" / "adapter", PATIENT_INTAKE.name: DATA / "intake_adapter"}


def other(task: Task) -> Task:
    """The committed task that `task` is not."""
    return ARTICLE_DIGEST if task.name == PATIENT_INTAKE.name else PATIENT_INTAKE


def material(task: Task, most: int, shots: int) -> dict:
    """What a committed task is evaluated on, without a run of notebook 03: {"rows", "texts", "gold", "labels", "few-shot", "student"}.

    rows: at most `most` with gold labels; texts: as a model reads them. labels: the recorded teacher's accepted records of the other
    rows. few-shot: the requests with the schema and `shots` of these in front; student: the requests to a tuned model.
    """
    rows, gold = sorted(dataset.read_rows(task), key=lambda row: dataset.order(row["id"])), dataset.gold_records(task)
    test = [row for row in rows if row["id"] in gold][:most]
    watched = {dataset.source_of(row) for row in rows if row["id"] in gold}
    labels = {key: record for key, (record, _) in audit.accepted(task, rows).items()}
    others = [row for row in rows if dataset.source_of(row) not in watched and row["id"] in labels]
    examples = [(task.render(row), json.dumps(labels[row["id"]], ensure_ascii=False)) for row in others[:shots]]
    texts = [task.render(row) for row in test]
    return {
        "rows": test,
        "texts": texts,
        "gold": gold,
        "labels": [labels[row["id"]] for row in others],
        "few-shot": [dataset.full_request(task, text, examples) for text in texts],
        "student": [dataset.request(task, text) for text in texts],
    }


def adapter(task: Task, beside: Task, base: str) -> Path | None:
    """The committed adapter of `task`, if it belongs to `base` and stands beside the other committed task, not a user's own."""
    folder = ADAPTERS[task.name]
    belongs_to = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    return folder if beside.name in TASKS and belongs_to == base else None


def table(task: Task, rows: list[dict], replies: dict[str, list[str]], gold: dict) -> dict[str, dict]:
    """{system: {score: value}}: validity, the fields, what lies behind lists of objects, the headline, and what was missed gravely."""
    found, beside = metrics.table(task, rows, replies, gold), details.details(task, rows, replies, gold)
    for system, texts in replies.items():
        objects = {name: value for name, value in beside[system].items() if " by " in name or " of matched" in name}
        matrix = details.confusion(task, rows, texts, gold)
        found[system] = {**found[system], **objects}
        for field, label in details.GRAVE.items():
            if field in matrix:
                many, whole = details.missed(matrix[field], label)
                silent = matrix[field].get(label, {}).get(details.NO_RECORD, 0)
                found[system] |= {f"{label} missed": (many, whole), "of these, no valid record": (silent, many)}
    return found
