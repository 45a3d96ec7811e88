"""Scores against values worked out by hand; the arithmetic stands beside each."""

import json
from enum import Enum
from typing import Annotated

import numpy as np
import pytest
from pydantic import BaseModel, Field

from workbook import details, floors, funnel, metrics, text
from workbook.dataset import gold_records, read_rows
from workbook.tasks import ARTICLE_DIGEST, PATIENT_INTAKE, ArticleDigest, PatientIntake, Task


@pytest.fixture
def intake():
    return {
        "chief_complaint": "cough",
        "symptoms": [
            {"name": "Cough", "duration_days": 3, "severity": "mild"},
            {"name": "fever", "duration_days": 1, "severity": "severe"},
        ],
        "medications": [],
        "allergies": ["penicillin"],
        "urgency": "emergency",
        "follow_up": "Call an ambulance.",
    }


def test_only_a_whole_valid_object_parses(digest):
    text = ArticleDigest.model_validate(digest).model_dump_json()
    assert metrics.parse(text, ArticleDigest) is not None
    for bad in ("", "null", "[]", text[:-1], text + " done", text.replace("health", "weather")):
        assert metrics.parse(bad, ArticleDigest) is None


@pytest.mark.parametrize("looped", ["[" * 100_000, '{"a":' * 100_000, '{"a": ' + "7" * 5000 + "}", '{"title": "\\ud800"}'])
def test_what_a_looping_model_writes_is_no_record_and_no_crash(looped, article):
    assert metrics.parse(looped, ArticleDigest) is None
    assert funnel.reached(ARTICLE_DIGEST, looped, article["text"])[1] <= 1


def test_chrf_sees_spelling_not_marks():
    assert metrics.chrf("مُدَرِّسة فى القاهرة", "مدرسة في القاهرة") == pytest.approx(100)
    assert metrics.chrf("", "نص") == 0 and metrics.chrf("", "") == 100
    near, far = metrics.chrf("The council adopted it.", "The council approved it."), metrics.chrf("Rain.", "The council approved it.")
    assert 100 > near > 50 > far


def test_rouge_l_by_hand_in_arabic():
    # reference: افتتحت الوزارة مدرسة جديدة في عدن (6 words); hypothesis: افتُتحت في عدن مدرسة (4 words).
    # Once marks are gone the longest common subsequence is افتتحت في عدن (3 words): F1 = 2 * 3 / (4 + 6) = 0.6.
    assert metrics.rouge_l("افتُتحت في عدن مدرسة", "افتتحت الوزارة مدرسة جديدة في عدن.") == pytest.approx(60)
    assert metrics.rouge_l("مدرسة", "مدرسة") == 100 and metrics.rouge_l("مدرسة", "مستشفى") == 0 and metrics.rouge_l("", "نص") == 0


def test_words_are_arabic_words_and_whole_numbers():
    assert text.words("مُدرِّسة في ١٬٢٥٠ قرية، 3.5%") == ["مدرسة", "في", "1,250", "قرية", "3.5"]
    assert text.first_sentence("قال د. أحمد إن الأمر انتهى. ثم ذهب.") == "قال د. أحمد إن الأمر انتهى."
    assert text.first_sentence("Patient: hello there\nChatbot: hi") == "Patient: hello there" and text.first_sentence(" ") == ""


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


def test_an_intake_is_scored_by_the_same_rules(intake):
    gold = PatientIntake.model_validate(intake)
    late = PatientIntake.model_validate(
        intake | {"symptoms": [{"name": "cough", "duration_days": 4, "severity": "mild"}], "urgency": "urgent"}
    )
    scores = metrics.score(PatientIntake, late, gold)
    assert (scores["symptoms"], scores["urgency"], scores["allergies"], scores["medications"]) == (0, 0, 100, 100)


def test_a_users_types_are_scored_by_what_they_are():
    class Kind(Enum):
        a, b = "a", "b"

    class Own(BaseModel):
        kind: Kind
        note: Annotated[str, Field(max_length=50)] | None
        tags: list[str] | None
        total: float

    gold = Own(kind="a", note="مدرسة", tags=["س", "ص"], total=1.5)
    assert metrics.score(Own, Own(kind="a", note="مُدرسة", tags=["ص"], total=1.5), gold)["headline"] == pytest.approx(
        (100 + 100 + 200 / 3 + 100) / 4
    )
    assert metrics.score(Own, Own(kind="b", note=None, tags=None, total=1.6), gold)["headline"] == 0
    assert metrics.labels(Own.model_fields["kind"].annotation) == ["a", "b"]
    assert details.extras(Own, Own(kind="a", note=None, tags=None, total=0), gold)["note ROUGE-L"] == (0, 1)


def test_entities_are_matched_one_to_one_strictly_and_normalised(digest):
    gold = ArticleDigest.model_validate(digest | {"entities": [{"name": "أحمد", "type": "person"}, {"name": "عدن", "type": "location"}]})
    said = [{"name": "احمد", "type": "person"}, {"name": "أحمد", "type": "person"}, {"name": "عدن", "type": "organization"}]
    record = ArticleDigest.model_validate(digest | {"entities": said})
    found = details.extras(ArticleDigest, record, gold)
    # letter by letter with type: أحمد alone. With type, normalised: one of the two spellings, since a name is matched once.
    assert found["entities exact"] == (pytest.approx(200 * 1 / 5), 1)
    assert metrics.score(ArticleDigest, record, gold)["entities"] == pytest.approx(200 * 1 / 5)
    # by name alone: أحمد once and عدن; of these two pairs one has the right type.
    assert found["entities by name"] == (pytest.approx(200 * 2 / 5), 1) and found["entities of matched: type"] == (50, 2)


def test_symptoms_are_matched_by_name_and_their_details_counted_apart(intake):
    gold = PatientIntake.model_validate(intake)
    said = intake | {
        "symptoms": [
            {"name": "cough", "duration_days": 3, "severity": "severe"},
            {"name": "FEVER", "duration_days": 1, "severity": "severe"},
            {"name": "headache", "duration_days": None, "severity": "unknown"},
        ]
    }
    found = details.extras(PatientIntake, PatientIntake.model_validate(said), gold)
    assert found["symptoms by name"] == (pytest.approx(200 * 2 / 5), 1)  # two names of three said and two wanted
    assert found["symptoms of matched: duration_days"] == (100, 2) and found["symptoms of matched: severity"] == (50, 2)
    assert details.extras(PatientIntake, None, gold)["symptoms of matched: severity"] == (0, 2)  # all of the reference's, and wrong


def test_of_two_symptoms_of_one_name_the_one_that_agrees_is_matched(intake):
    twice = [{"name": "pain", "duration_days": days, "severity": "mild"} for days in (1, 2)]
    gold = PatientIntake.model_validate(intake | {"symptoms": twice})
    record = PatientIntake.model_validate(intake | {"symptoms": twice[::-1]})
    assert details.extras(PatientIntake, record, gold)["symptoms of matched: duration_days"] == (100, 2)


def answer(record, **changes):
    return json.dumps(record | changes, ensure_ascii=False)


def test_urgency_has_a_confusion_matrix_and_a_missed_emergency_is_counted(intake):
    rows = [{"id": key} for key in "abcd"]
    urgency = {"a": "emergency", "b": "emergency", "c": "emergency", "d": "routine"}
    gold = {key: PatientIntake.model_validate(intake | {"urgency": value}) for key, value in urgency.items()}
    texts = [answer(intake), answer(intake, urgency="routine"), "not a record", answer(intake, urgency="routine")]
    matrix = details.confusion(PATIENT_INTAKE, rows, texts, gold)["urgency"]
    assert matrix["emergency"] == {"emergency": 1, "routine": 1, details.NO_RECORD: 1} and matrix["routine"] == {"routine": 1}
    assert details.missed(matrix, "emergency") == (2, 3)
    # emergency: precision 1/1, recall 1/3, F1 = 2 / (3 + 1) = 1/2. routine: 1/2, 1/1, F1 = 2 / (1 + 2) = 2/3. Mean 7/12.
    assert details.macro_f1(matrix) == pytest.approx(100 * 7 / 12)


def test_translations_have_corpus_scores_with_a_signature(digest):
    rows = [{"id": key} for key in "ab"]
    gold = {key: ArticleDigest.model_validate(digest | {"translation": "The cat sat on the mat ."}) for key in "ab"}
    same = [answer(digest, translation="The cat sat on the mat .")] * 2
    found, signatures = details.corpus(ARTICLE_DIGEST, rows, same, gold)
    assert found["translation corpus BLEU"] == pytest.approx(100) and found["translation corpus chrF++"] == pytest.approx(100)
    assert "tok:13a" in signatures["BLEU"] and "nw:2" in signatures["chrF++"] and found["translation length ratio"] == 1
    half, _ = details.corpus(ARTICLE_DIGEST, rows, [same[0], "no"], gold)
    # one of two is empty: all n-grams of the other are right, the brevity penalty is exp(1 - 14 / 7) = 0.368.
    assert half["translation corpus BLEU"] == pytest.approx(36.79, abs=0.01) and half["translation length ratio"] == 1


def test_the_funnel_loses_each_answer_at_its_stage(digest, article):
    good = answer(digest)
    cases = {
        good: (True, 5),
        f"Here it is: {good}": (False, 5),
        good[:-1]: (False, 5),  # one bracket is missing: repair closes it
        "افتتح في عدن مستشفى.": (False, 0),
        answer(digest, category="weather"): (True, 1),
        answer(digest, translation="افتتح مستشفى."): (True, 2),
        answer(digest, keywords=["مستشفى", "سريرا", "المطار"]): (True, 4),
        answer(digest, summary="افتتح في عدن مستشفى يضم 999 سريرا."): (True, 4),
    }
    for said, expected in cases.items():
        assert funnel.reached(ARTICLE_DIGEST, said, article["text"]) == expected, said
    assert funnel.reached(ARTICLE_DIGEST, good[:-1], article["text"], cut=True) == (False, 3)
    found = funnel.funnel(ARTICLE_DIGEST, [article["text"]] * len(cases), {"all": list(cases)})["all"]
    # of eight: five are JSON as they are; repair adds two; one of the seven has a wrong label (six), one a wrong language (five)
    assert found["parses"] == (62.5, 62.5) and found["after repair"] == (87.5, 62.5)
    assert found["fits the schema"] == (75, 50) and found["right language"] == (62.5, 37.5)
    assert found["grounded"] == (37.5, 12.5) and list(found) == funnel.STAGES


def test_without_repair_the_schema_stage_is_the_tables_valid(digest, article):
    gold = {article["id"]: ArticleDigest.model_validate(digest)}
    for said in (answer(digest), answer(digest)[:-1], answer(digest, category="x")):
        valid = metrics.table(ARTICLE_DIGEST, [article], {"s": [said]}, gold)["s"]["valid"][0]
        assert funnel.funnel(ARTICLE_DIGEST, [article["text"]], {"s": [said]})["s"]["fits the schema"][1] == valid


@pytest.mark.parametrize("task", [ARTICLE_DIGEST, PATIENT_INTAKE], ids=lambda task: task.name)
def test_floors_are_valid_records_that_use_the_commonest_label(task):
    labels = [record.model_dump(mode="json") for record in gold_records(task).values()]
    field = next(name for name, info in task.schema.model_fields.items() if metrics.labels(info.annotation))
    sources = [task.render(row) for row in read_rows(task)[:5]]
    made = floors.floors(task, labels, sources)
    assert set(made) == ({"floor: lead", "floor: copy"} if task is ARTICLE_DIGEST else {"floor: majority"})
    for answers in made.values():
        records = [metrics.parse(one, task.schema) for one in answers]
        assert all(records) and {getattr(one, field) for one in records} == {floors.commonest([label[field] for label in labels])}


def test_the_lead_floor_copies_the_first_sentence(digest, article):
    found = floors.floors(ARTICLE_DIGEST, [digest], ["خبر قصير من أربع كلمات. ثم خبر آخر."])
    lead, copy = (ArticleDigest.model_validate_json(answers[0]) for answers in found.values())
    assert lead.summary == lead.title == "خبر قصير من أربع كلمات." and copy.summary == "خبر قصير من أربع كلمات. ثم خبر آخر."
    assert lead.translation == digest["translation"]


def test_a_floor_falls_back_to_a_training_label_where_copied_text_breaks_a_rule():
    class Invoice(BaseModel):
        number: Annotated[str, Field(pattern="^[0-9]+$")]

    task = Task(name="own", schema=Invoice, instruction="", guidance="", data=ARTICLE_DIGEST.data)
    assert floors.floors(task, [{"number": "7"}], ["words"])["floor: copy"] == ['{"number":"7"}']


def test_an_interval_of_right_and_wrong_covers_the_truth_as_often_as_it_says():
    chance, covered = np.random.default_rng(4), {0.8: 0, 0.94: 0}
    for truth in covered:
        for _ in range(400):
            values = [100.0 * right for right in chance.random(16) < truth]
            _, low, high = metrics.bounded(values, list(range(16)))
            covered[truth] += low <= 100 * truth <= high
    assert all(hits / 400 >= 0.92 for hits in covered.values()), covered
    # by hand: 15 of 16 by Wilson (https://doi.org/10.2307/2276774) is 71.67 to 98.89, below that of 16 of 16, 80.64 to 100
    assert metrics.bounded([100.0] * 15 + [0.0], list(range(16))) == (93.75, pytest.approx(71.67, abs=0.01), pytest.approx(98.89, abs=0.01))
    assert metrics.bounded([0.0, 50.0], ["a", "b"], [0, 0]) is None, "nothing counts"


def test_the_table_has_every_system_and_field(digest, article):
    gold = {"t-1": ArticleDigest.model_validate(digest)}
    answers = {"good": [gold["t-1"].model_dump_json()], "bad": ["no"]}
    table = metrics.table(ARTICLE_DIGEST, [article], answers, gold)
    # one row of one: by Wilson 1 / (1 + 1.96 ** 2) = 20.65 % to 100 %; the bootstrap, which has one row to draw, would be sure
    assert table["good"]["valid"] == (100, pytest.approx(20.65, abs=0.01), 100)
    assert table["bad"]["headline"] == (0, 0, pytest.approx(79.35, abs=0.01))
    assert list(table["good"]) == ["valid", *ArticleDigest.model_fields, "headline"]
    beside = details.details(ARTICLE_DIGEST, [article], answers, gold)
    assert beside["bad"]["title ROUGE-L"] == table["bad"]["headline"] and beside["good"]["title ROUGE-L"] == table["good"]["valid"]
    with pytest.raises(ValueError, match="short: 0 answers to 1 rows"):
        metrics.table(ARTICLE_DIGEST, [article], {"short": []}, gold)
