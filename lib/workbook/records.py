"""Validated records to SQLite: the schema's fields become columns, its lists become child tables."""

import json
import sqlite3
import typing
from pathlib import Path

import sqlite_utils
from pydantic import BaseModel

from workbook.metrics import labels, plain
from workbook.tasks import Task


def write_records(path: Path, task: Task, records: dict[str, BaseModel]) -> sqlite_utils.Database:
    """A fresh database with table `task.name` (one row per record, keyed by id) and one child table per list field.

    A child row has record_id, position, and either the item's own fields or a column `value`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    database = sqlite_utils.Database(path, recreate=True)
    create_tables(database, task)
    add_records(database, task, records)
    return database


def create_tables(database: sqlite_utils.Database, task: Task) -> None:
    """The empty tables of a task, where they are missing. Types are the schema's: the first rows may hold no value to tell by."""
    database[task.name].create(columns(task), pk="id", if_not_exists=True)
    for name, annotation in _lists(task).items():
        database[f"{task.name}_{name}"].create(
            {"record_id": str, "position": int, **_item_columns(annotation)},
            pk=("record_id", "position"),
            foreign_keys=[("record_id", task.name, "id")],
            if_not_exists=True,
        )


def add_records(database: sqlite_utils.Database, task: Task, records: dict[str, BaseModel]) -> None:
    """Add `records` to the tables that `create_tables` made, all or none; a record with the same id is replaced, with its lists."""
    lists = _lists(task)
    values = {key: record.model_dump(mode="json") for key, record in records.items()}
    with database.atomic():
        single = [{"id": key} | {name: value for name, value in one.items() if name not in lists} for key, one in values.items()]
        database[task.name].insert_all(single, pk="id", replace=True)
        for name in lists:
            table = database[f"{task.name}_{name}"]
            for key in records:
                table.delete_where("record_id = ?", [key])
            rows = [
                {"record_id": key, "position": i, **(item if isinstance(item, dict) else {"value": item})}
                for key, one in values.items()
                for i, item in enumerate(one[name] or [])
            ]
            table.insert_all(rows, pk=("record_id", "position"), alter=True)  # an item of no fixed shape brings its own columns


def open_database(path: Path | None, task: Task) -> sqlite_utils.Database:
    """A database of `task` that grows: what is in it stays. None keeps it in memory.

    Beside the record tables: `sources` (id, key of what was asked, the model's answer), `warnings` (id, position, warning) and `refused`
    (id, reason, ...). Raises ValueError for a file that is no database or cannot be written, and for a database of something else.
    """
    try:
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
        database = sqlite_utils.Database(path or ":memory:")
        _claim(database, path, task)
    except (OSError, sqlite3.Error) as error:
        raise ValueError(f"{path}: {getattr(error, 'strerror', None) or error}; give a database file that can be written") from None
    return database


def _claim(database: sqlite_utils.Database, path: Path | None, task: Task) -> None:
    """Make the tables, and say in `made_for` whose they are; refuse those of another."""
    wanted = {"task": task.name, "schema": json.dumps(task.schema.model_json_schema(), sort_keys=True)}
    tables = database.table_names()
    if tables and "made_for" not in tables:
        raise ValueError(f"{path}: a database that was not made here; give another file")
    made_for = next(database["made_for"].rows, wanted) if tables else wanted
    if made_for != wanted:
        other = "another schema" if made_for["task"] == task.name else f"the task {made_for['task']}"
        raise ValueError(f"{path}: it holds records of {other}; give another file for {task.name}")
    with database.atomic():
        create_tables(database, task)
        database["made_for"].insert(wanted, pk="task", replace=True)
        database["sources"].create({"id": str, "key": str, "answer": str}, pk="id", if_not_exists=True)
        database["warnings"].create({"id": str, "position": int, "warning": str}, pk=("id", "position"), if_not_exists=True)
        refused = {"id": str, "reason": str, "key": str, "answer": str, "max_new_tokens": int}
        database["refused"].create(refused, pk="id", if_not_exists=True)


def save(database: sqlite_utils.Database, task: Task, results: list, keys: dict[str, str], max_new_tokens: int) -> None:
    """Write the results of `digest.py` to a database of `open_database`, all or none. A refusal leaves an earlier record as it is."""
    row = lambda one: {"id": one.item.id, "key": keys[one.item.id], "answer": one.answer}  # noqa: E731
    good = [one for one in results if one.record]
    refused = [row(one) | {"reason": one.reason, "max_new_tokens": max_new_tokens} for one in results if not one.record]
    warnings = [{"id": one.item.id, "position": i, "warning": said} for one in good for i, said in enumerate(one.warnings)]
    with database.atomic():
        add_records(database, task, {one.item.id: one.record for one in good})
        for one in good:
            database["refused"].delete_where("id = ?", [one.item.id])
            database["warnings"].delete_where("id = ?", [one.item.id])
        database["sources"].insert_all(map(row, good), replace=True)
        database["warnings"].insert_all(warnings)
        database["refused"].insert_all(refused, replace=True)


def query(path: Path | str, sql: str) -> list[dict]:
    """The rows that a SQL question gives, as dictionaries."""
    database = sqlite_utils.Database(path)
    try:
        return list(database.query(sql))
    finally:
        database.close()


def columns(task: Task) -> dict[str, type]:
    """The columns of the task's main table, with their Python types."""
    lists = _lists(task)
    return {"id": str} | {name: _kind(field.annotation) for name, field in task.schema.model_fields.items() if name not in lists}


def _lists(task: Task) -> dict:
    """{field: annotation} of the fields that become child tables."""
    found = {name: plain(field.annotation) for name, field in task.schema.model_fields.items()}
    return {name: kind for name, kind in found.items() if (typing.get_origin(kind) or kind) in (list, set, frozenset, tuple)}


def _kind(annotation) -> type:
    """The Python type of a field's column: whole numbers, numbers and truth values keep theirs, all else is text."""
    kind = next((type(label) for label in labels(annotation)), plain(annotation))
    return kind if kind in (bool, int, float) else str


def _item_columns(annotation) -> dict[str, type]:
    item = plain((typing.get_args(annotation) or (dict,))[0])
    if isinstance(item, type) and issubclass(item, BaseModel):
        return {name: _kind(field.annotation) for name, field in item.model_fields.items()}
    return {} if (typing.get_origin(item) or item) is dict else {"value": _kind(item)}
