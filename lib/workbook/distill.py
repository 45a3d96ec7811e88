"""Articles to labels: every reply is on disk before it is used, and every article is accounted for in a ledger."""

import hashlib
import json
import os
import sys
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from pydantic import BaseModel, ValidationError
from tqdm import tqdm

from workbook import text
from workbook.dataset import read_jsonl, source_of, write_jsonl
from workbook.tasks import Task
from workbook.teacher import Reply, Teacher, messages_for

SHORTEST = 20  # words; below this there is nothing to summarise


class Cache:
    """Replies by the sha256 of their request, in an append-only JSONL file; a line is on the disk before it counts."""

    def __init__(self, path: Path):
        self.path, self.replies = path, {}
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            self._drop_half_line()
            self.replies = {row["key"]: Reply(**row["reply"]) for row in read_jsonl(path)}

    def _drop_half_line(self) -> None:
        """A process killed while writing leaves a line without its end: cut it off, its reply is asked for again."""
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            self.path.write_bytes(whole)

    @staticmethod
    def key(request: dict) -> str:
        return hashlib.sha256(json.dumps(request, sort_keys=True, ensure_ascii=False).encode()).hexdigest()

    def add(self, key: str, reply: Reply) -> None:
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"key": key, "reply": asdict(reply)}, ensure_ascii=False) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        self.replies[key] = reply


def judge(task: Task, reply: Reply, source: str) -> tuple[BaseModel | None, str, str]:
    """(record, "", "") for a reply that can be used, else (None, reason, complaint that says what to mend).

    Reasons: truncated, refusal, parse, schema, language, ungrounded.
    """
    if reply.finish_reason == "length":
        return None, "truncated", "it was cut off before its end"
    try:
        record = task.schema.model_validate(json.loads(reply.text))
    except json.JSONDecodeError as error:
        reason = "parse" if "{" in reply.text else "refusal"
        return None, reason, f"it is not a JSON object alone ({error.msg} at character {error.pos})"
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        return None, "schema", faults
    if wrong := task.wrong_language(record):
        return None, "language", f"{', '.join(wrong)}: not in the language asked for"
    if missing := task.ungrounded(record, source) + task.invented_numbers(record, source):
        return None, "ungrounded", f"not in the text: {', '.join(missing)}"
    return record, "", ""


def unusable(task: Task, rows: list[dict]) -> dict[str, str]:
    """{id: reason} for rows that are not worth a call: too_short, off_language, or duplicate of an earlier row."""
    reasons, seen = {}, {}
    for row in rows:
        source = task.render(row)
        same = text.normalise(source)
        if len(source.split()) < SHORTEST:
            reasons[row["id"]] = "too_short"
        elif text.language(source) != "ar":
            reasons[row["id"]] = "off_language"
        elif same in seen:
            reasons[row["id"]] = "duplicate"
        seen.setdefault(same, row["id"])
    return reasons


def distill(task: Task, rows: list[dict], teacher: Teacher, run_dir: Path, *, attempts: int = 2, progress: bool = True) -> list[dict]:
    """Label `rows` and write run_dir/ledger.jsonl, one line per row in the order of `rows`; returns its lines.

    A line: id, source, accepted, reasons (one per refused reply), attempts, prompt_tokens, completion_tokens (both over all
    attempts), from_cache, seconds, record. Replies are kept in run_dir/teacher_cache.jsonl: a second run asks nothing,
    and a run that was killed goes on where it stopped. Raises TeacherError; what was answered by then stays.
    """
    cache = Cache(run_dir / "teacher_cache.jsonl")
    skipped, ledger = unusable(task, rows), []
    for row in tqdm(rows, desc=f"teacher {teacher.name}", unit="row", disable=not progress, mininterval=1, file=sys.stdout):
        line = {"id": row["id"], "source": source_of(row), "accepted": False, "reasons": [], "attempts": 0}
        line |= {"prompt_tokens": 0, "completion_tokens": 0, "from_cache": True, "seconds": 0.0, "record": None}
        if row["id"] in skipped:
            line["reasons"] = [skipped[row["id"]]]
        else:
            _label(task, task.render(row), teacher, cache, line, attempts)
        ledger.append(line)
    write_jsonl(run_dir / "ledger.jsonl", ledger)
    return ledger


def ask_once(teacher: Teacher, cache: Cache, messages: list[dict], schema: type[BaseModel]) -> tuple[Reply, bool]:
    """(the teacher's reply to `messages`, whether it came from the cache); a new reply is on the disk before it is returned."""
    request = teacher.request(messages, schema)
    key = Cache.key(request)
    known = key in cache.replies
    if not known:
        cache.add(key, teacher.ask(request))
    return cache.replies[key], known


def _label(task: Task, source: str, teacher: Teacher, cache: Cache, line: dict, attempts: int) -> None:
    """Fill a ledger line: ask, judge, and ask again with the complaint, at most `attempts` times."""
    messages = messages_for(task, source)
    while line["attempts"] < attempts and not line["accepted"]:
        begun = time.perf_counter()
        reply, known = ask_once(teacher, cache, messages, task.schema)
        line["from_cache"] &= known
        record, reason, complaint = judge(task, reply, source)
        line["attempts"] += 1
        line["seconds"] = round(line["seconds"] + time.perf_counter() - begun, 4)
        line["prompt_tokens"] += reply.prompt_tokens
        line["completion_tokens"] += reply.completion_tokens
        if record is not None:
            line |= {"accepted": True, "record": record.model_dump(mode="json")}
        else:
            line["reasons"] = [*line["reasons"], reason]
            messages = messages_for(task, source, reply.text, complaint)


def yield_by_reason(ledger: list[dict]) -> dict[str, int]:
    """How many rows ended how: 'accepted', 'accepted after repair', or 'refused: ' and the last reason."""
    outcome = (
        ("accepted" if line["attempts"] == 1 else "accepted after repair") if line["accepted"] else f"refused: {line['reasons'][-1]}"
        for line in ledger
    )
    return dict(Counter(outcome).most_common())
