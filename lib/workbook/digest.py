"""Articles to validated records: one to look at, or a folder into a database.

    python -m workbook.digest article.txt
    python -m workbook.digest --sqlite records.db folder/ more.jsonl

Decoding is held to the task's schema (`generation.generate`), and each answer is validated once more before it counts. What is on
disk is never made again: an answer is known by task, adapter and text, so a run that was killed goes on where it stopped.
"""

import argparse
import contextlib
import hashlib
import json
import sqlite3
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import sqlite_utils
from pydantic import BaseModel
from tqdm import tqdm

from workbook import cache, dataset, metrics, records
from workbook.inbox import LANGUAGES, Item, count, read_items
from workbook.models import ModelError, open_model
from workbook.profiles import ROOT, artifact, load_profile
from workbook.tasks import Task, load_task

ROWS, TOKENS = 16, 16_384  # of one batch: at most so many texts, and prompt tokens with padding


@dataclass(frozen=True)
class Result:
    """What became of an item: a valid record with warnings, or None with the reason. answer: what the model wrote, '' if not asked."""

    item: Item
    record: BaseModel | None = None
    reason: str = ""
    answer: str = ""
    warnings: tuple[str, ...] = ()


def digest(model, tokenizer, task: Task, items: list[Item], *, free: bool, max_new_tokens: int) -> Iterator[list[Result]]:
    """The results of `items`, a batch at a time: first what the model cannot read, then texts of like length together.

    free: leave the decoding free, so that `metrics.parse` alone decides. Raises ValueError where no text could fit.
    """
    from workbook.generation import generate

    limit = getattr(model.config, "max_position_embeddings", tokenizer.model_max_length) - max_new_tokens
    if limit < 1:
        raise ValueError(f"--max-new-tokens: {max_new_tokens} leaves no room for a text in this model; choose less")
    prompts = [dataset.layout(dataset.request(task, item.source), tokenizer) for item in items]
    lengths = [len(ids) for ids in tokenizer(prompts, add_special_tokens=not tokenizer.chat_template)["input_ids"]] if items else []
    faults = [_unreadable(tokenizer, *one, limit) for one in zip(items, lengths, strict=True)]
    yield [Result(item, reason=fault) for item, fault in zip(items, faults, strict=True) if fault]
    for rows in _batches([i for i, fault in enumerate(faults) if not fault], lengths):
        schema = None if free else task.schema
        answers = generate(model, tokenizer, [prompts[i] for i in rows], max_new_tokens=max_new_tokens, batch_size=len(rows), schema=schema)
        yield [judge(task, items[i], answer["text"], answer["stopped"]) for i, answer in zip(rows, answers, strict=True)]


def _unreadable(tokenizer, item: Item, length: int, limit: int) -> str:
    """Why the model cannot read a text: too long, or with one of the marks that steer the model itself."""
    if length > limit:
        words = len(item.source.split()) * limit // length
        return f"too long: {length:,} tokens, and {limit:,} fit in this model; cut it to about {words:,} words, or give it in parts"
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    marks = special.intersection(tokenizer(item.source, add_special_tokens=False)["input_ids"])
    return f"it has {tokenizer.decode([min(marks)])!r}, a control mark of this model; take it out" if marks else ""


def _batches(rows: list[int], lengths: list[int]) -> Iterator[list[int]]:
    batch = []
    for row in sorted(rows, key=lengths.__getitem__):
        if batch and (len(batch) == ROWS or (len(batch) + 1) * lengths[row] > TOKENS):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def judge(task: Task, item: Item, answer: str, stopped: bool = True) -> Result:
    """A valid record with a warning for all in it that the text does not have; else the reason why it is none."""
    record = metrics.parse(answer, task.schema)
    if record is None:
        reason = "the answer does not fit the schema" if stopped else "the answer was cut off by --max-new-tokens; raise it"
        return Result(item, reason=reason, answer=answer)
    warnings = [f"not in the text: {part}" for part in task.ungrounded(record, item.source)]
    warnings += [f"number not in the text: {number}" for number in task.invented_numbers(record, item.source)]
    warnings += [f"not in {LANGUAGES[task.languages[name]]}: {name}" for name in task.wrong_language(record)]
    return Result(item, record, answer=answer, warnings=tuple(dict.fromkeys(warnings)))


def fingerprint(adapter: Path) -> str:
    """The sha256 of the weights and settings in a folder. Raises ValueError if there are none."""
    files = [file for file in sorted(adapter.glob("*")) if file.suffix in (".safetensors", ".json")]
    if not any(file.suffix == ".safetensors" for file in files):
        raise ValueError(
            f"--adapter: {adapter} has no adapter_model.safetensors; give a folder that notebook 04 or workbook.training wrote"
        )
    whole = hashlib.sha256()
    for file in files:
        whole.update(file.name.encode() + hashlib.sha256(file.read_bytes()).digest())
    return whole.hexdigest()


def fill(database: sqlite_utils.Database, task: Task, items: list[Item], adapter: Path, *, free: bool, max_new_tokens: int):
    """Digest `items` into a database of `records.open_database`, a transaction a batch; yields the new results.

    An item is done if its id is there with the same text, task and adapter: it yields nothing. A text that is known under another id, or
    was refused before, is not read again. The model is opened only if something is left for it.
    """
    settings = [task.name, task.instruction, task.schema.model_json_schema(), fingerprint(adapter), free]
    keys = {item.id: "" if item.fault else cache.digest([*settings, item.source]) for item in items}
    save = lambda results: records.save(database, task, results, keys, max_new_tokens)  # noqa: E731
    ready, waiting = _plan(database, task, items, keys, max_new_tokens)
    save(ready)
    yield from ready
    if not waiting:
        return
    left = sum(map(len, waiting.values()))
    asked = [same[0] for same in waiting.values()]
    with tqdm(total=len(items), initial=len(items) - left, desc=task.name, unit="text", disable=len(items) < 2) as bar:
        for results in digest(*_opened(adapter), task, asked, free=free, max_new_tokens=max_new_tokens):
            results = [replace(result, item=item) for result in results for item in waiting[keys[result.item.id]]]
            save(results)
            bar.update(len(results))
            yield from results


def _plan(database, task: Task, items: list[Item], keys: dict[str, str], max_new_tokens: int) -> tuple[list[Result], dict[str, list[Item]]]:
    """(results that need no model, {key: items with that text} for the model); an item that is done is in neither."""
    answers = {row["key"]: row["answer"] for row in database["sources"].rows}
    done = {(row["id"], row["key"]) for row in database["sources"].rows}
    refused = {row["key"]: row for row in database["refused"].rows_where("max_new_tokens = ?", [max_new_tokens])}
    ready, waiting = [], {}
    for item in items:
        key = keys[item.id]
        if item.fault:
            ready.append(Result(item, reason=item.fault))
        elif (item.id, key) in done:
            database["refused"].delete_where("id = ?", [item.id])  # a file that could not be read for a while
        elif key in answers:
            ready.append(judge(task, item, answers[key]))
        elif key in refused:
            ready.append(Result(item, reason=refused[key]["reason"], answer=refused[key]["answer"]))
        else:
            waiting.setdefault(key, []).append(item)
    return ready, waiting


def _opened(adapter: Path):
    from transformers.utils import logging  # with what `digest` imports, seconds that a run without work need not wait for

    from workbook.training import fast_dtype

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    return open_model(adapter, dtype=fast_dtype())


def default_adapter(task: Task) -> Path:
    """The adapter to use where none is named. Raises ValueError for a task that the workbook has none for."""
    if task.name == "patient_intake":
        return ROOT / "data" / "intake_adapter"
    if task.name == "article_digest":
        with contextlib.redirect_stdout(sys.stderr):  # its notice must not stand among the records
            return artifact(load_profile("laptop"), "adapter")
    raise ValueError(f"--adapter: give the folder of an adapter that was trained for {task.name}")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m workbook.digest", description="Turn texts into validated records.")
    parser.add_argument("paths", nargs="+", type=Path, help="text files, JSONL files, folders of .txt files")
    parser.add_argument("--sqlite", type=Path, metavar="FILE", help="the database to fill; without it records are printed")
    parser.add_argument("--task", default="article_digest", help="article_digest | patient_intake | module:TASK")
    parser.add_argument("--adapter", type=Path, metavar="FOLDER", help="default: the one in runs/laptop, else the committed sample")
    parser.add_argument("--free", action="store_true", help="leave the decoding free; an answer that does not fit the schema is refused")
    parser.add_argument(
        "--max-new-tokens", type=int, default=load_profile("laptop").max_new_tokens, help="of one record; default %(default)s"
    )
    given = parser.parse_args(arguments)
    try:
        code = _run(given)
    except (ValueError, OSError, ModelError) as error:
        parser.exit(1, f"{error}\n")
    except sqlite3.Error as error:
        parser.exit(1, f"{given.sqlite}: {error}; what is in it stays, and the same command goes on from there\n")
    except KeyboardInterrupt:
        parser.exit(130, "stopped; what is in the database stays, and the same command goes on from there\n")
    parser.exit(code)


def _run(given: argparse.Namespace) -> int:
    if given.max_new_tokens < 1:
        raise ValueError("--max-new-tokens: give at least 1")
    task = load_task(given.task)
    items = read_items(task, given.paths, given.sqlite.absolute().parent if given.sqlite else Path.cwd())
    adapter = given.adapter or default_adapter(task)
    with contextlib.closing(records.open_database(given.sqlite, task)) as database:
        results = []
        for result in fill(database, task, items, adapter, free=given.free, max_new_tokens=given.max_new_tokens):
            results.append(result)
            if not given.sqlite:
                _print(result, alone=len(items) == 1)
    good = [result for result in results if result.record]
    refused = [result for result in results if not result.record]
    for result in refused[:10]:
        print(f"{result.item.id}: refused: {result.reason}", file=sys.stderr)
    done = len(items) - len(results)
    if given.sqlite:
        _summary(given.sqlite, task, len(good), len(refused), done, sum(bool(result.warnings) for result in good))
    return 0 if good or done else 1


def _print(result: Result, alone: bool) -> None:
    if result.record and alone:
        print(result.record.model_dump_json(indent=1))
        for warning in result.warnings:
            print(f"{result.item.id}: warning: {warning}", file=sys.stderr)
    elif result.record:
        line = {"id": result.item.id, "record": result.record.model_dump(mode="json"), "warnings": result.warnings}
        print(json.dumps(line, ensure_ascii=False), flush=True)


def _summary(path: Path, task: Task, good: int, refused: int, done: int, warned: int) -> None:
    print(f"{count(good, 'record')}, {refused} refused, {done} done before")
    if refused:
        print(f'refused:      sqlite3 {path} "select id, reason from refused"')
    if warned:
        print(f'{warned} with warnings, what is in a record and not in its text: sqlite3 {path} "select id, warning from warnings"')
    if good or done:
        columns = ", ".join(list(records.columns(task))[:3])
        print(f'to query:     sqlite3 {path} "select {columns} from {task.name} limit 5", or workbook.records.query(path, sql)')


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8")
    main()
