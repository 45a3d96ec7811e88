"""Articles to ledger: what is accepted, what is refused and why, and what a second or a killed run pays."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from workbook import dataset, distill
from workbook.teacher import Reply, TeacherError, open_teacher


def record(own_task, *replies):
    """Write recordings for the one article: replies as (text, finish_reason), one an attempt."""
    rows = [
        {"id": "t-1", "attempt": i, "reply": text, "finish_reason": end, "usage": {"prompt_tokens": 100, "completion_tokens": 10}}
        for i, (text, end) in enumerate(replies, 1)
    ]
    dataset.write_jsonl(own_task.recordings, rows)
    return open_teacher("recorded", own_task)


def as_text(digest, **change):
    return json.dumps(digest | change, ensure_ascii=False)


CASES = {
    "truncated": lambda d: (as_text(d)[:80], "length"),
    "refusal": lambda d: ("I am sorry, I cannot help with that.", "stop"),
    "parse": lambda d: (f"Here it is: {as_text(d)}", "stop"),
    "schema": lambda d: (as_text(d, category="weather"), "stop"),
    "language": lambda d: (as_text(d, summary="A hospital opened."), "stop"),
    "ungrounded": lambda d: (as_text(d, translation="A hospital with 12,000 beds opened."), "stop"),
}


@pytest.mark.parametrize("reason", CASES)
def test_each_kind_of_bad_reply_is_refused_for_its_reason(reason, own_task, article, digest, tmp_path):
    bad = CASES[reason](digest)
    (line,) = distill.distill(own_task, [article], record(own_task, bad, bad), tmp_path, progress=False)
    assert not line["accepted"] and line["reasons"] == [reason, reason] and line["record"] is None
    assert (line["attempts"], line["prompt_tokens"], line["completion_tokens"]) == (2, 200, 20), "refused replies are paid too"


def test_a_second_reply_repairs_the_first(own_task, article, digest, tmp_path):
    (line,) = distill.distill(
        own_task, [article], record(own_task, CASES["schema"](digest), (as_text(digest), "stop")), tmp_path, progress=False
    )
    assert line["accepted"] and line["reasons"] == ["schema"] and line["record"] == digest
    assert dataset.read_jsonl(tmp_path / "ledger.jsonl") == [line]
    assert distill.yield_by_reason([line]) == {"accepted after repair": 1}


def test_rows_not_worth_a_call_cost_nothing(own_task, article, digest, tmp_path):
    english = article | {"id": "en", "text": "This is an English article of more than twenty words, " * 4}
    rows = [article | {"id": "short", "text": "خبر قصير"}, english, article, article | {"id": "copy"}]
    ledger = distill.distill(own_task, rows, record(own_task, (as_text(digest), "stop")), tmp_path, progress=False)
    assert [line["reasons"] for line in ledger] == [["too_short"], ["off_language"], [], ["duplicate"]]
    assert sum(line["prompt_tokens"] for line in ledger) == 100


def test_a_second_run_asks_nothing_and_a_changed_prompt_asks_again(own_task, article, digest, tmp_path):
    from dataclasses import replace

    teacher = record(own_task, (as_text(digest), "stop"))
    first = distill.distill(own_task, [article], teacher, tmp_path, progress=False)
    own_task.recordings.write_text("")  # from here on the teacher has nothing to say
    silent = open_teacher("recorded", own_task)
    again = distill.distill(own_task, [article], silent, tmp_path, progress=False)
    assert not first[0]["from_cache"] and again[0]["from_cache"] and again[0]["record"] == digest
    with pytest.raises(TeacherError):
        distill.distill(replace(own_task, guidance="Other words."), [article], silent, tmp_path, progress=False)


def test_a_cache_cut_off_in_the_middle_of_a_line_is_mended(tmp_path):
    cache = distill.Cache(tmp_path / "c.jsonl")
    cache.add("k1", Reply("one", "stop", 1, 1))
    cache.add("k2", Reply("two", "stop", 1, 1))
    path = tmp_path / "c.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    reopened = distill.Cache(path)
    assert set(reopened.replies) == {"k1"}
    reopened.add("k2", Reply("two", "stop", 1, 1))
    assert set(distill.Cache(path).replies) == {"k1", "k2"}


def test_a_killed_run_goes_on_without_asking_twice(tmp_path):
    script = """
import sys, time
from pathlib import Path
from workbook import dataset, distill
from workbook.tasks import ARTICLE_DIGEST
from workbook.teacher import open_teacher
teacher, ask = open_teacher("recorded", ARTICLE_DIGEST), None
ask = teacher.ask
def slow(request):
    time.sleep(float(sys.argv[2]))
    return ask(request)
teacher.ask = slow
distill.distill(ARTICLE_DIGEST, dataset.read_rows(ARTICLE_DIGEST)[:30], teacher, Path(sys.argv[1]), progress=False)
"""
    command = [sys.executable, "-c", script, str(tmp_path)]
    process, cache = subprocess.Popen([*command, "0.2"]), tmp_path / "teacher_cache.jsonl"
    while not cache.exists() or cache.read_bytes().count(b"\n") < 5:
        time.sleep(0.05)
        assert process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "ledger.jsonl").exists()
    subprocess.run([*command, "0"], check=True)
    ledger = dataset.read_jsonl(tmp_path / "ledger.jsonl")
    keys = [row["key"] for row in dataset.read_jsonl(cache)]
    assert len(ledger) == 30 and sum(line["from_cache"] for line in ledger) >= 4 and len(keys) == len(set(keys))
