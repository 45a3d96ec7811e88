"""Replies on disk: what hits, what misses and why, and what a kill or a second process does."""

import subprocess
import sys
from dataclasses import replace

import pytest

from workbook.cache import Cache, Reply
from workbook.tasks import ARTICLE_DIGEST, PATIENT_INTAKE
from workbook.teacher import messages_for, open_teacher

REPLY = Reply("one", "stop", 1, 1)


def request(text="نص", task=ARTICLE_DIGEST, schema=ARTICLE_DIGEST.schema, **change):
    teacher = open_teacher("recorded", ARTICLE_DIGEST)
    return teacher.request(messages_for(task, text), schema) | change


def test_a_reply_is_found_again_when_the_file_is_opened_anew(tmp_path):
    Cache(tmp_path / "c.jsonl").add(request(), REPLY)
    again = Cache(tmp_path / "c.jsonl")
    assert again.get(request()) == REPLY and again.get(request("نص آخر")) is None


@pytest.mark.parametrize(
    "asked, part",
    [
        (request(task=replace(ARTICLE_DIGEST, guidance="Other words.")), ["instructions"]),
        (request(schema=PATIENT_INTAKE.schema), ["schema"]),
        (request(temperature=1), ["decoding"]),
        (request(model="another"), ["model"]),
        (request("نص آخر"), []),
    ],
)
def test_what_changed_misses_and_is_named(tmp_path, asked, part):
    cache = Cache(tmp_path / "c.jsonl")
    cache.add(request(), REPLY)
    assert cache.get(asked) is None and cache.changed(asked) == part


def test_a_line_cut_off_in_the_middle_is_passed_over(tmp_path):
    path = tmp_path / "c.jsonl"
    cache = Cache(path)
    cache.add(request("a"), REPLY)
    cache.add(request("b"), REPLY)
    path.write_bytes(path.read_bytes()[:-9])
    reopened = Cache(path)
    assert reopened.get(request("a")) == REPLY and reopened.get(request("b")) is None
    reopened.add(request("b"), REPLY)
    assert len(Cache(path).replies) == 2


def test_a_reply_with_unusual_line_ends_inside_is_one_line(tmp_path):
    strange = Reply("one\u2028two\x85three", "stop", 1, 1)
    Cache(tmp_path / "c.jsonl").add(request(), strange)
    assert Cache(tmp_path / "c.jsonl").get(request()) == strange


def test_what_another_process_added_before_the_lock_is_known_after_it(tmp_path):
    mine, other = Cache(tmp_path / "c.jsonl"), Cache(tmp_path / "c.jsonl")
    other.add(request(), REPLY)
    assert mine.get(request()) is None
    with mine.lock():
        assert mine.get(request()) == REPLY


def test_a_second_process_is_told_to_wait(tmp_path):
    path = tmp_path / "c.jsonl"
    script = f"from workbook.cache import Cache; from pathlib import Path; Cache(Path({str(path)!r})).lock().__enter__()"
    with Cache(path).lock():
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 1 and "c.jsonl: another run is writing to it" in done.stderr
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
