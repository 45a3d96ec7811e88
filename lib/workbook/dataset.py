"""Rows in and out of JSONL, a split that cannot leak, and the exact prompt bytes that every later stage uses."""

import argparse
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel

from workbook.tasks import Task


def read_jsonl(path: Path | str) -> list[dict]:
    """The rows of a JSONL file. Raises ValueError naming file and line for a line that is not a JSON object."""
    rows = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: not JSON ({error}); mend or delete the line") from None
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number}: expected an object {{...}}, found {type(row).__name__}")
        rows.append(row)
    return rows


def write_jsonl(path: Path | str, rows: Iterable[dict]) -> Path:
    """Write `rows` to `path` all or nothing: a temporary file first, then a rename."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    os.replace(temporary, path)
    return path


def read_rows(task: Task, path: Path | str | None = None) -> list[dict]:
    """The rows of a task's data file, or of `path`. Raises ValueError for a row without an id, or an id used twice."""
    path, seen = path or task.data, set()
    rows = read_jsonl(path)
    for number, row in enumerate(rows, 1):
        if not row.get("id"):
            raise ValueError(f'{path}, row {number}: no "id"; every row needs its own')
        if row["id"] in seen:
            raise ValueError(f"{path}, row {number}: id {row['id']!r} is used twice; make ids unique")
        seen.add(row["id"])
    return rows


def source_of(row: dict) -> str:
    """The event a row tells; a row without "source" is its own."""
    return row.get("source") or row["id"]


def order(text: str, seed: int = 0) -> float:
    """A number in [0, 1) that depends on `text` and `seed` alone: a shuffle that adding rows does not disturb."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{text}".encode()).digest()[:8]) / 2**64


def split(rows: list[dict], *, test_sources: set[str] = frozenset(), test: float = 0.15, validation: float = 0.1, seed: int = 0):
    """{"train", "validation", "test"}: rows by the hash of their source, so that one event is never on two sides.

    test_sources: the sources that have gold labels; if given they are the test split, else a share `test` is drawn. With few
    rows each side still gets an event. Raises ValueError for fewer than three events.
    """
    draw = lambda side: lambda source: order(f"{side} {source}", seed)  # noqa: E731
    sources = {source_of(row) for row in rows}
    if len(sources) < 3:
        raise ValueError(f"{len(sources)} events cannot be split into three sides; give at least 3 rows on different events")
    chosen = set(test_sources) or _below(sources, draw("test"), test)
    watched = _below(sources - chosen, draw("validation"), validation)
    parts = {"train": [], "validation": [], "test": []}
    for row in sorted(rows, key=lambda row: order(row["id"], seed)):
        side = "test" if source_of(row) in chosen else "validation" if source_of(row) in watched else "train"
        parts[side].append(row)
    return parts


def _below(sources: set[str], number, share: float) -> set[str]:
    """The sources whose number is below `share`; the lowest one, if none is."""
    return {source for source in sources if number(source) < share} or {min(sources, key=number)}


def gold_records(task: Task) -> dict[str, BaseModel]:
    """{id: record} of the task's gold labels; empty if it has none."""
    if task.gold is None or not task.gold.exists():
        return {}
    return {row["id"]: task.schema.model_validate(row["record"]) for row in read_jsonl(task.gold)}


def row_split(rows: list[dict], *, validation: float = 0.1, seed: int = 0) -> tuple[list[dict], list[dict]]:
    """(train, validation) drawn row by row, as usual notebooks do; here to count what leaks."""
    shuffled = sorted(rows, key=lambda row: order(row["id"], seed))
    cut = round(len(rows) * validation)
    return shuffled[cut:], shuffled[:cut]


def request(task: Task, source: str) -> str:
    """What the student is asked: the short instruction and the source, before any model's own layout."""
    return f"{task.instruction}\n\n{source}"


def full_request(task: Task, source: str, shots: Iterable[tuple[str, str]] = ()) -> str:
    """What an untuned model is asked: the teacher's guidance with the schema, `shots` as (source, answer), then the source."""
    examples = "".join(f"Text:\n{text}\n\nJSON:\n{answer}\n\n" for text, answer in shots)
    return f"{task.system_prompt()}\n\n{examples}Text:\n{source}"


def layout(asked: str, tokenizer) -> str:
    """A request as the very bytes that a model reads; the same in training, evaluation and serving.

    A tokenizer with a chat template gets it as one user turn; a base model's has none and gets a plain layout.
    """
    if tokenizer.chat_template:
        return tokenizer.apply_chat_template([{"role": "user", "content": asked}], tokenize=False, add_generation_prompt=True)
    return f"{asked}\n\nJSON:\n"


def prompt_rows(task: Task, rows: list[dict], labels: dict[str, dict]) -> list[dict]:
    """TRL prompt/completion rows {"id", "source", "prompt", "completion"} for the rows that have a label.

    The completion is the record as compact JSON in the schema's field order. No template is applied yet: the same rows
    serve a base and an instruct model.
    """
    return [
        {
            "id": row["id"],
            "source": source_of(row),
            "prompt": request(task, task.render(row)),
            "completion": task.schema.model_validate(labels[row["id"]]).model_dump_json(),
        }
        for row in rows
        if row["id"] in labels
    ]


def read_distilled(task: Task, path: Path) -> list[dict]:
    """The rows of a training file that `prompt_rows` made. Raises ValueError if it was made for another task."""
    rows = read_jsonl(path)
    if rows and not rows[0]["prompt"].startswith(f"{task.instruction}\n"):
        raise ValueError(f"task: {path} was made for another task than {task.name}; run 03 with the same task and run_dir first")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m workbook.dataset", description="Check the data that the workbook carries.")
    parser.add_argument("command", choices=["check"])
    parser.add_argument("folder", type=Path, help="a folder laid out like data/")
    options = parser.parse_args()
    from workbook import audit  # it needs this module

    try:
        raise SystemExit(audit.main(options.folder))
    except (OSError, ValueError) as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
