"""Articles to ledger: what is accepted, what is refused and why, and what a second or a killed run pays."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from server import completion

from workbook import dataset, distill
from workbook.costs import Price, most_tokens
from workbook.teacher import TeacherError, messages_for, open_teacher


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


def test_dropped_rows_have_a_line_and_cost_nothing(own_task, article, digest, tmp_path):
    teacher = record(own_task, (as_text(digest), "stop"))
    ledger = distill.distill(own_task, [article], teacher, tmp_path, refused={"copy": "duplicate"}, progress=False)
    assert [(line["id"], line["reasons"], line["prompt_tokens"]) for line in ledger] == [("t-1", [], 100), ("copy", ["duplicate"], 0)]
    assert dataset.read_jsonl(tmp_path / "ledger.jsonl") == ledger
    assert ledger[0]["usd"] == pytest.approx((100 * 0.15 + 10 * 0.6) / 1e6) and ledger[0]["words"] == len(article["text"].split())


def test_a_second_run_asks_nothing_and_a_changed_prompt_asks_again(own_task, article, digest, tmp_path):
    teacher = record(own_task, (as_text(digest), "stop"))
    first = distill.distill(own_task, [article], teacher, tmp_path, progress=False)
    own_task.recordings.write_text("")  # from here on the teacher has nothing to say
    silent = open_teacher("recorded", own_task)
    again = distill.distill(own_task, [article], silent, tmp_path, progress=False)
    assert first[0]["sent"] == 1 and again == [first[0] | {"sent": 0}]
    with pytest.raises(TeacherError, match="no recorded reply"):
        distill.distill(replace(own_task, guidance="Other words."), [article], silent, tmp_path, progress=False)


def test_an_estimate_says_what_is_known_and_why_something_is_asked_again(own_task, article, digest, tmp_path):
    tokenizer = lambda texts, **_: {"input_ids": [text.split() for text in texts]}  # noqa: E731
    teacher = record(own_task, (as_text(digest), "stop"))
    before = distill.estimate(own_task, [article], teacher, tmp_path, tokenizer)
    words = len(own_task.system_prompt().split()) + len(article["text"].split())
    assert (before["requests"], before["known"], before["tokens_in"], before["why_again"]) == (1, 0, words, {})
    assert before["tokens_out"] == len(article["text"].split()) and before["usd"] > 0
    distill.distill(own_task, [article], teacher, tmp_path, progress=False)
    after = distill.estimate(own_task, [article], teacher, tmp_path, tokenizer)
    assert (after["requests"], after["known"], after["usd"]) == (0, 1, 0)
    changed = distill.estimate(replace(own_task, guidance="Other words."), [article], teacher, tmp_path, tokenizer)
    assert changed["why_again"] == {"instructions": 1} and changed["tokens_out"] == 10, "as long as the known replies"


SCRIPT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background of a shell inherits "ignore"
from pathlib import Path
from workbook import dataset, distill
from workbook.tasks import load_task
from workbook.teacher import open_teacher
task = load_task("article_digest", sys.argv[1])
distill.distill(task, dataset.read_rows(task), open_teacher("local", task), Path(sys.argv[2]), concurrency=3, progress=False)
"""


def many(article, number):
    return [article | {"id": f"t-{i}", "source": f"t-{i}", "text": f"{article['text']} النشرة {i}."} for i in range(number)]


def live(server, own_task, digest, **change):
    server.answer = lambda body: as_text(digest, **change)
    return open_teacher("local", own_task, server.environment, price=Price(10, 10))


def test_requests_go_out_together_up_to_the_bound(server, own_task, article, digest, tmp_path):
    server.seconds = 0.3
    ledger = distill.distill(own_task, many(article, 12), live(server, own_task, digest), tmp_path, concurrency=4, progress=False)
    assert all(line["accepted"] for line in ledger) and server.most_at_once == 4 and len(server.seen) == 12
    assert all(line["seconds"] >= 0.3 for line in ledger)


@pytest.mark.parametrize("limit", ["requests_per_minute", "tokens_per_minute"])
def test_a_limit_per_minute_holds(limit, server, own_task, article, digest, tmp_path):
    rows, teacher = many(article, 21), live(server, own_task, digest)
    largest = max(sum(most_tokens(teacher.request(messages_for(own_task, row["text"]), own_task.schema))) for row in rows)
    twenty = {"requests_per_minute": 20, "tokens_per_minute": 20 * largest}[limit]
    distill.distill(own_task, rows, teacher, tmp_path, concurrency=21, progress=False, **{limit: twenty})
    times = sorted(seen["time"] for seen in server.seen)
    assert len(times) == 21 and times[-1] - times[-2] > 1, "twenty may go at once, the next waits for its share of the minute"


def test_a_budget_stops_below_the_sum_and_goes_on_when_raised(server, own_task, article, digest, tmp_path):
    rows, teacher = many(article, 40), live(server, own_task, digest)
    with pytest.raises(TeacherError, match=r"budget_usd 0\.1: the next request could pass it .* rows are settled"):
        distill.distill(own_task, rows, teacher, tmp_path, budget_usd=0.1, progress=False)
    ledger = dataset.read_jsonl(tmp_path / "ledger.jsonl")
    done = [line for line in ledger if line["accepted"]]
    assert 0 < len(done) < 40 and len(ledger) == 40 and distill.yield_by_reason(ledger)["not asked"] == 40 - len(done)
    assert len(server.seen) == len(done) and sum(line["usd"] for line in ledger) <= 0.1
    ledger = distill.distill(own_task, rows, teacher, tmp_path, budget_usd=1, progress=False)
    assert all(line["accepted"] for line in ledger) and len(server.seen) == 40, "nothing was asked twice"


def test_a_teacher_that_dies_in_the_middle_loses_nothing_that_was_answered(server, own_task, article, digest, tmp_path):
    rows, teacher = many(article, 20), live(server, own_task, digest)
    server.before = lambda body: (401, {}, "no") if len(server.seen) > 8 else None
    with pytest.raises(TeacherError, match=r"does not accept the key.*8 of 20 rows are settled"):
        distill.distill(own_task, rows, teacher, tmp_path, concurrency=4, progress=False)
    asked_before = len(server.seen)
    assert asked_before <= 8 + 4, "no new request after the first refusal"
    server.before = lambda body: None
    ledger = distill.distill(own_task, rows, teacher, tmp_path, progress=False)
    assert all(line["accepted"] for line in ledger) and len(server.seen) == asked_before + 12


def test_one_row_that_the_server_refuses_is_in_the_ledger_and_the_others_go_on(server, own_task, article, digest, tmp_path):
    rows = many(article, 4)
    server.before = lambda body: (400, {}, "too long for this model") if "النشرة 2." in body["messages"][1]["content"] else None
    ledger = distill.distill(own_task, rows, live(server, own_task, digest), tmp_path, progress=False)
    assert [line["accepted"] for line in ledger] == [True, True, False, True] and ledger[2]["reasons"] == ["not_taken"]


def test_the_ledger_says_where_the_schema_was_only_in_the_prompt(server, own_task, article, digest, tmp_path):
    server.before = lambda body: (400, {}, "json_schema is not supported") if "response_format" in body else None
    ledger = distill.distill(own_task, many(article, 3), live(server, own_task, digest), tmp_path, progress=False)
    assert {line["structured"] for line in ledger} == {"prompt"}
    server.before = lambda body: None
    distill.distill(own_task, many(article, 3), live(server, own_task, digest), tmp_path, progress=False)
    assert len(server.seen) <= 3 + 3, "the cache does not care how the reply was held to the schema"


def test_rows_with_the_same_text_ask_once(server, own_task, article, digest, tmp_path):
    server.seconds = 0.2
    rows = [article, article | {"id": "same"}]
    ledger = distill.distill(own_task, rows, live(server, own_task, digest), tmp_path, progress=False)
    assert len(server.seen) == 1 and all(line["accepted"] for line in ledger)


@pytest.mark.parametrize(
    "answer", [{"choices": [], "usage": None}, {"hello": 1}, {"choices": [{"index": 0, "message": None, "finish_reason": "stop"}]}]
)
def test_an_answer_that_is_no_completion_stops_the_run_in_one_sentence(answer, server, own_task, article, digest, tmp_path):
    rows, teacher = many(article, 3), live(server, own_task, digest)
    server.answer = lambda body: answer
    with pytest.raises(TeacherError, match="the reply is no chat completion"):
        distill.distill(own_task, rows, teacher, tmp_path, progress=False)
    server.answer = lambda body: as_text(digest)
    assert all(line["accepted"] for line in distill.distill(own_task, rows, teacher, tmp_path, progress=False))


def test_a_server_that_does_not_count_tokens_is_charged_at_the_most(server, own_task, article, digest, tmp_path):
    teacher = live(server, own_task, digest)
    server.answer = lambda body: completion(as_text(digest)) | {"usage": None}
    (line,) = distill.distill(own_task, [article], teacher, tmp_path, progress=False)
    assert line["accepted"] and line["completion_tokens"] == 1024 and line["usd"] > 0.01


def test_a_bad_limit_is_named(own_task, article, digest, tmp_path):
    with pytest.raises(ValueError, match="requests_per_minute, tokens_per_minute and concurrency"):
        distill.distill(own_task, [article], record(own_task, (as_text(digest), "stop")), tmp_path, requests_per_minute=0, progress=False)


def test_an_interrupt_keeps_what_is_on_its_way(server, own_task, article, digest, tmp_path):
    server.answer, server.seconds = lambda body: as_text(digest), 1.0
    rows = dataset.write_jsonl(tmp_path / "many.jsonl", many(article, 30))
    command, environment = [sys.executable, "-c", SCRIPT, str(rows), str(tmp_path)], os.environ | server.environment
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    while len(server.seen) < 3:
        time.sleep(0.02)
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(30) != 0
    ledger = dataset.read_jsonl(tmp_path / "ledger.jsonl")
    assert sum(line["accepted"] for line in ledger) == len(server.seen) < 30


def test_the_order_of_the_rows_does_not_matter_to_the_cache(server, own_task, article, digest, tmp_path):
    rows, teacher = many(article, 6), live(server, own_task, digest)
    distill.distill(own_task, rows, teacher, tmp_path, progress=False)
    ledger = distill.distill(own_task, rows[::-1], teacher, tmp_path, progress=False)
    assert len(server.seen) == 6 and [line["id"] for line in ledger] == [row["id"] for row in rows[::-1]]


def test_a_killed_run_goes_on_without_asking_twice(server, own_task, article, digest, tmp_path):
    server.answer, server.seconds = lambda body: as_text(digest), 0.1
    rows = dataset.write_jsonl(tmp_path / "many.jsonl", many(article, 30))
    command, environment = [sys.executable, "-c", SCRIPT, str(rows), str(tmp_path)], os.environ | server.environment
    process, cache = subprocess.Popen(command, env=environment), tmp_path / "teacher_cache.jsonl"
    while not cache.exists() or cache.read_bytes().count(b"\n") < 5:
        time.sleep(0.02)
        assert process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "ledger.jsonl").exists()
    kept = cache.read_bytes().count(b"\n")
    time.sleep(0.5)  # the server ends what it had begun
    asked = len(server.seen)
    assert asked - kept <= 3, "at most the requests in flight are lost"
    subprocess.run(command, env=environment, check=True)
    ledger, keys = dataset.read_jsonl(tmp_path / "ledger.jsonl"), [row["key"] for row in dataset.read_jsonl(cache)]
    assert len(ledger) == 30 and all(line["accepted"] for line in ledger)
    assert len(keys) == len(set(keys)) == 30 and len(server.seen) == asked + 30 - kept
