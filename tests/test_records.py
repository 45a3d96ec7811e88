import sqlite3

from workbook import records
from workbook.tasks import ARTICLE_DIGEST, PATIENT_INTAKE, ArticleDigest, PatientIntake


def test_fields_become_columns_and_lists_become_tables(tmp_path, digest):
    path = tmp_path / "r.sqlite"
    records.write_records(path, ARTICLE_DIGEST, {"a": ArticleDigest.model_validate(digest)}).close()
    with sqlite3.connect(path) as plain:
        columns = [row[1] for row in plain.execute("pragma table_info(article_digest)")]
        names = plain.execute("select record_id, position, name, type from article_digest_entities order by position").fetchall()
        words = [row[0] for row in plain.execute("select value from article_digest_keywords order by position")]
    assert columns == ["id", "title", "category", "summary", "translation"]
    assert names == [("a", 0, "عدن", "location"), ("a", 1, "120 سريرا", "number")] and words == digest["keywords"]


def test_an_empty_list_and_a_second_writing_are_fine(tmp_path):
    intake = {"chief_complaint": "cough", "symptoms": [{"name": "cough", "duration_days": None, "severity": "mild"}]}
    intake |= {"medications": [], "allergies": [], "urgency": "routine", "follow_up": "See a doctor."}
    path = tmp_path / "r.sqlite"
    for _ in range(2):
        records.write_records(path, PATIENT_INTAKE, {"x": PatientIntake.model_validate(intake)}).close()
    assert records.query(path, "select urgency, count(*) as n from patient_intake group by 1") == [{"urgency": "routine", "n": 1}]
    assert records.query(path, "select duration_days from patient_intake_symptoms") == [{"duration_days": None}]
