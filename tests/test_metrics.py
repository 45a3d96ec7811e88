import random

import pytest

from workbook import metrics
from workbook.tasks import ARTICLE_DIGEST, ArticleDigest, PatientIntake


def test_only_a_whole_valid_object_parses(digest):
    text = ArticleDigest.model_validate(digest).model_dump_json()
    assert metrics.parse(text, ArticleDigest) is not None
    for bad in ("", "null", "[]", text[:-1], text + " done", text.replace("health", "weather")):
        assert metrics.parse(bad, ArticleDigest) is None


def test_chrf_sees_spelling_not_marks():
    assert metrics.chrf("مُدَرِّسة فى القاهرة", "مدرسة في القاهرة") == pytest.approx(100)
    assert metrics.chrf("", "نص") == 0
    near, far = metrics.chrf("The council adopted it.", "The council approved it."), metrics.chrf("Rain.", "The council approved it.")
    assert 100 > near > 50 > far


def test_f1_by_hand():
    assert metrics.f1(["a", "b"], ["b", "c"]) == 50  # one common item in two lists of two
    assert metrics.f1(["a", "a"], ["a"]) == pytest.approx(200 / 3)  # a repeated item counts once
    assert metrics.f1([], []) == 100 and metrics.f1([], ["a"]) == 0


def test_a_record_scores_by_the_type_of_each_field(digest):
    gold = ArticleDigest.model_validate(digest)
    assert all(value == pytest.approx(100) for value in metrics.score(ArticleDigest, gold, gold).values())
    other = digest | {"category": "politics", "keywords": ["مستشفي", "غيرها", "وغيرها"]}
    other["entities"] = [{"name": "عدن", "type": "organization"}, {"name": "120 سريرا", "type": "number"}]
    scores = metrics.score(ArticleDigest, ArticleDigest.model_validate(other), gold)
    assert scores["category"] == 0 and scores["keywords"] == pytest.approx(100 / 3) and scores["entities"] == 50
    assert scores["headline"] == pytest.approx((100 + 0 + 100 / 3 + 50 + 100 + 100) / 6)
    assert set(metrics.score(ArticleDigest, None, gold).values()) == {0}


def test_an_intake_is_scored_by_the_same_rules():
    one = {"chief_complaint": "cough", "symptoms": [{"name": "Cough", "duration_days": 3, "severity": "mild"}], "medications": []}
    one |= {"allergies": ["penicillin"], "urgency": "routine", "follow_up": "See a doctor."}
    gold = PatientIntake.model_validate(one)
    late = PatientIntake.model_validate(
        one | {"symptoms": [{"name": "cough", "duration_days": 4, "severity": "mild"}], "urgency": "urgent"}
    )
    scores = metrics.score(PatientIntake, late, gold)
    assert (scores["symptoms"], scores["urgency"], scores["allergies"], scores["medications"]) == (0, 0, 100, 100)


def test_an_interval_covers_the_truth_about_as_often_as_it_says():
    chance, covered = random.Random(1), 0
    for _ in range(200):
        centres = [chance.gauss(50, 10) for _ in range(40)]
        values = [chance.gauss(centre, 5) for centre in centres for _ in range(2)]
        _, low, high = metrics.interval(values, [str(i // 2) for i in range(80)], draws=400)
        covered += low <= 50 <= high
    assert 0.89 <= covered / 200 <= 0.99


def test_articles_on_one_event_make_the_interval_wider():
    values = [0.0, 0.0, 0.0, 100.0, 100.0, 100.0] * 5
    apart = metrics.interval(values, [str(i) for i in range(30)])
    together = metrics.interval(values, [str(i // 3) for i in range(30)])
    assert together[2] - together[1] > 1.3 * (apart[2] - apart[1])


def test_the_table_has_every_system_and_field(digest, article):
    gold = {"t-1": ArticleDigest.model_validate(digest)}
    answers = {"good": [gold["t-1"].model_dump_json()], "bad": ["no"]}
    table = metrics.table(ARTICLE_DIGEST, [article], answers, gold)
    assert table["good"]["valid"] == (100, 100, 100) and table["bad"]["headline"] == (0, 0, 0)
    assert list(table["good"]) == ["valid", *ArticleDigest.model_fields, "headline"]
