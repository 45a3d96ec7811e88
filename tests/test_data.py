"""The committed data is what its card says."""

from collections import Counter

import pytest

from workbook import dataset, distill
from workbook.tasks import ARTICLE_DIGEST, PATIENT_INTAKE
from workbook.teacher import Reply

TASKS = [ARTICLE_DIGEST, PATIENT_INTAKE]


def recorded(task):
    return dataset.read_jsonl(task.recordings)


def test_counts_and_lengths():
    articles, chats = dataset.read_rows(ARTICLE_DIGEST), dataset.read_rows(PATIENT_INTAKE)
    assert len(articles) >= 48 and len(chats) >= 16
    assert all(60 <= len(row["text"].split()) <= 140 for row in articles)
    assert all(3 <= len(row["turns"]) <= 8 for row in chats)
    labels = Counter(row["record"]["category"] for row in accepted(ARTICLE_DIGEST).values())
    assert len(labels) == 8 and max(labels.values()) <= 2 * min(labels.values())


def accepted(task):
    """{id: {"record", "attempt"}} of the recorded replies that every check lets through."""
    rows, good = {row["id"]: row for row in dataset.read_rows(task)}, {}
    for row in recorded(task):
        record, _, _ = distill.judge(task, Reply(row["reply"], row["finish_reason"], 0, 0), task.render(rows[row["id"]]))
        if record is not None:
            good[row["id"]] = {"record": record.model_dump(), "attempt": row["attempt"]}
    return good


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_every_row_ends_in_an_accepted_reply_and_some_only_when_asked_again(task):
    rows, good = dataset.read_rows(task), accepted(task)
    assert {row["id"] for row in rows} == set(good)
    share = sum(one["attempt"] == 2 for one in good.values()) / len(rows)
    assert 0.03 <= share <= 0.1


def test_gold_is_grounded_and_whole_events():
    gold, rows = dataset.gold_records(ARTICLE_DIGEST), {row["id"]: row for row in dataset.read_rows(ARTICLE_DIGEST)}
    assert len(gold) >= 60
    for key, record in gold.items():
        source = ARTICLE_DIGEST.render(rows[key])
        assert not ARTICLE_DIGEST.ungrounded(record, source) + ARTICLE_DIGEST.invented_numbers(record, source), key
        assert not ARTICLE_DIGEST.wrong_language(record), key


def test_intake_gold_is_english_and_of_known_chats():
    gold, ids = dataset.gold_records(PATIENT_INTAKE), {row["id"] for row in dataset.read_rows(PATIENT_INTAKE)}
    assert len(gold) >= 30 and set(gold) <= ids
    assert all(record.model_dump_json().isascii() for record in gold.values())


def test_no_sentence_stands_in_two_events():
    seen = {}
    for row in dataset.read_rows(ARTICLE_DIGEST):
        for sentence in row["text"].replace("!", ".").replace("؟", ".").replace("\n", ".").split(". "):
            if len(sentence.split()) >= 6:
                assert seen.setdefault(sentence.strip(), row["source"]) == row["source"], sentence
