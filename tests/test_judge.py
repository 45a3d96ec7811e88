"""The judge against a server on loopback: blinded, asked in both orders, paid for once, and scored against gold."""

import json

import pytest

from workbook import judge
from workbook.tasks import ARTICLE_DIGEST
from workbook.teacher import TeacherError, open_teacher


@pytest.fixture
def compare(server, tmp_path):
    """Compare the answers of two systems to three texts, whose gold scores are given; the server decides by `better`."""
    rows = [{"id": key, "text": f"text {key}"} for key in "abc"]
    answers = [f"good {row['id']}" for row in rows], [f"bad {row['id']}" for row in rows]
    scores = [60.0, 70.0, 40.0], [50.0, 50.0, 50.0]

    def run(better):
        def answer(body):
            first, second = body["messages"][1]["content"].split("\n\nA:\n")[1].split("\n\nB:\n")
            return json.dumps({"better": better(first, second)})

        server.answer = answer
        return judge.compare(ARTICLE_DIGEST, rows, answers, scores, open_teacher("local", ARTICLE_DIGEST, server.environment), tmp_path)

    return run


def test_a_fair_judge_is_counted_against_gold_and_asked_once(compare, server):
    found = compare(lambda first, second: "A" if first.startswith("good") else "B")
    assert (found["first wins"], found["second wins"], found["undecided"], found["changed with the place"]) == (3, 0, 0, 0)
    assert found["agrees with gold"][0] == pytest.approx(200 / 3) and found["of pairs"] == 3  # gold prefers the second once
    assert len(server.seen) == 6, "each pair in both orders"
    compare(lambda first, second: pytest.fail("a verdict was paid for twice"))
    assert len(server.seen) == 6


def test_the_judge_sees_no_names_and_both_orders(compare, server):
    compare(lambda first, second: "equal")
    asked = [seen["body"]["messages"] for seen in server.seen]
    assert not any(word in json.dumps(asked).lower() for word in ("student", "teacher", "gold"))
    pairs = [messages[1]["content"].split("\n\n", 1)[1] for messages in asked[:2]]
    assert pairs == ["A:\ngood a\n\nB:\nbad a", "A:\nbad a\n\nB:\ngood a"]


def test_a_judge_that_goes_by_the_place_decides_nothing(compare):
    found = compare(lambda first, second: "A")
    assert (found["first wins"], found["second wins"], found["undecided"], found["changed with the place"]) == (0, 0, 3, 3)
    assert found["agrees with gold"] == (0, 0, 0) and found["of pairs"] == 0


def test_a_reply_that_is_no_verdict_is_named(compare):
    with pytest.raises(TeacherError, match="is no verdict"):
        compare(lambda first, second: "C")
