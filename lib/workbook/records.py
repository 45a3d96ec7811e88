"""Validated records to SQLite: the schema's fields become columns, its lists become child tables."""

from pathlib import Path

import sqlite_utils
from pydantic import BaseModel

from workbook.tasks import Task


def write_records(path: Path, task: Task, records: dict[str, BaseModel]) -> sqlite_utils.Database:
    """A fresh database with table `task.name` (one row per record, keyed by id) and one child table per list field.

    A child row has record_id, position, and either the item's own fields or a column `value`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    database = sqlite_utils.Database(path, recreate=True)
    main, children = [], {}
    for key, record in records.items():
        values = record.model_dump(mode="json")
        main.append({"id": key} | {name: value for name, value in values.items() if not isinstance(value, list)})
        for name, items in values.items():
            if isinstance(items, list):
                rows = children.setdefault(f"{task.name}_{name}", [])
                rows += [
                    {"record_id": key, "position": i, **(item if isinstance(item, dict) else {"value": item})}
                    for i, item in enumerate(items)
                ]
    with database.conn:
        database[task.name].insert_all(main, pk="id")
        for table, rows in children.items():
            if rows:
                database[table].insert_all(rows, pk=("record_id", "position"), foreign_keys=[("record_id", task.name, "id")])
    return database


def query(path: Path, sql: str) -> list[dict]:
    """The rows that a SQL question gives, as dictionaries."""
    database = sqlite_utils.Database(path)
    try:
        return list(database.query(sql))
    finally:
        database.close()
