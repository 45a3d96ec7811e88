"""Files and folders to texts that are worth a model's time, each of the others with the reason in one line."""

import json
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from workbook import cleaning, text
from workbook.tasks import Task

LANGUAGES = {"ar": "Arabic", "en": "English", "none": "no language"}
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True)
class Item:
    """One text to digest. fault: why it cannot be one, '' if it can."""

    id: str
    source: str = ""
    fault: str = ""


def read_items(task: Task, paths: list[Path], beside: Path) -> list[Item]:
    """The texts of .txt files, of the rows of .jsonl files, and of the .txt files in folders, in their order.

    A file's id is its path as seen from the folder `beside`, a row's is its "id". Raises ValueError for a path that is not there
    and for a folder without a .txt file; a file or row that cannot be used becomes an item with a fault.
    """
    found = []
    for path in paths:
        if not path.exists():
            raise ValueError(f"{path}: no such file or folder")
        for file in _files(path) if path.is_dir() else [path]:
            found += _from_file(task, file, _printable(Path(os.path.relpath(file, beside)).as_posix()))
    first: dict[str, Item] = {}
    return [_unique(item, first) for item in found if first.setdefault(item.id, item) is item or item != first[item.id]]


def count(number: int, noun: str) -> str:
    """'1 file', '2 files'."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _files(folder: Path) -> list[Path]:
    """The .txt files under `folder`; says how many other files were passed over."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and not file.name.startswith("."))
    texts = [file for file in files if file.suffix.lower() == ".txt"]
    others = len(files) - len(texts)
    if not texts:
        raise ValueError(f"{folder}: no .txt file in this folder ({count(others, 'other file')}); a .jsonl file is given by its own name")
    if others:
        print(f"{folder}: passed over what is not .txt: {count(others, 'file')}", file=sys.stderr)
    return texts


def _from_file(task: Task, file: Path, name: str) -> list[Item]:
    try:
        content = file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        return [Item(name, fault=f"cannot be read: {error.strerror}")]
    except UnicodeDecodeError as error:
        return [Item(name, fault=f"not UTF-8 text (byte {error.start}); save it as UTF-8")]
    if file.suffix.lower() != ".jsonl":
        return [_checked(task, name, cleaning.plain(content))]
    return [_from_line(task, line, f"{name}:{number}") for number, line in enumerate(content.split("\n"), 1) if line.strip()]


def _from_line(task: Task, line: str, place: str) -> Item:
    """The item of one JSONL line, its text cleaned as the rows that the adapter learned from were."""
    try:
        row = json.loads(line)
        name = _printable(str(row.get("id") or place))
    except (ValueError, AttributeError, RecursionError):
        return Item(place, fault="not a JSON object on one line")
    try:
        source = task.render(row | {"text": cleaning.plain(row["text"])} if isinstance(row.get("text"), str) else row)
        return _checked(task, name, source)
    except (KeyError, TypeError, AttributeError) as error:
        return Item(name, fault=f"the row has not what {task.name} reads ({type(error).__name__}: {error})")


def _printable(name: str) -> str:
    """`name` with a question mark for what is no character, such as a byte of a file name that is not UTF-8."""
    return name.encode("utf-8", "replace").decode()


def _checked(task: Task, name: str, source: str) -> Item:
    found, words = text.language(source), len(source.split())
    if not source.strip():
        return Item(name, source, "empty")
    if control := _CONTROL.search(source):
        return Item(name, source, f"not text: it has the control character {control[0]!r}")
    if task.source_language and found != task.source_language:
        return Item(name, source, f"the text is in {LANGUAGES[found]}, and {task.name} reads {LANGUAGES[task.source_language]}")
    if task.prose and words < cleaning.SHORTEST:
        return Item(name, source, f"too short: {words} words, and a digest needs {cleaning.SHORTEST}")
    return Item(name, source)


def _unique(item: Item, first: dict[str, Item]) -> Item:
    """`item`, under another id and with a fault if its id came before with another text."""
    if first[item.id] is item:
        return item
    return Item(f"{item.id} (again)", fault="its id is used before for another text; make ids unique")
