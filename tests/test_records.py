import sqlite3
from pathlib import Path
from typing import Literal

import pytest
from pydantic import BaseModel

from workbook import records
from workbook.tasks import ARTICLE_DIGEST, PATIENT_INTAKE, ArticleDigest, PatientIntake, Task


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


def intake(**change):
    symptom = {"name": "cough", "duration_days": None, "severity": "mild"}
    whole = {
        "chief_complaint": "cough",
        "symptoms": [symptom],
        "medications": [],
        "allergies": [],
        "urgency": "routine",
        "follow_up": "None.",
    }
    return PatientIntake.model_validate(whole | change)


def test_a_column_keeps_its_type_though_its_first_value_is_missing(tmp_path):
    database = records.open_database(tmp_path / "r.sqlite", PATIENT_INTAKE)
    records.add_records(database, PATIENT_INTAKE, {"x": intake()})
    later = [{"name": "fever", "duration_days": 3, "severity": "mild"}]
    records.add_records(database, PATIENT_INTAKE, {"y": intake(symptoms=later)})
    database.close()
    days = records.query(tmp_path / "r.sqlite", "select duration_days from patient_intake_symptoms order by record_id")
    assert days == [{"duration_days": None}, {"duration_days": 3}]
    assert records.query(tmp_path / "r.sqlite", "select * from patient_intake_medications") == []


def test_a_record_is_replaced_with_its_lists_or_not_at_all(tmp_path):
    path = tmp_path / "r.sqlite"
    database = records.open_database(path, PATIENT_INTAKE)
    records.add_records(database, PATIENT_INTAKE, {"x": intake(medications=["a", "b", "c"])})
    records.add_records(database, PATIENT_INTAKE, {"x": intake(medications=["d"])})
    assert records.query(path, "select value from patient_intake_medications") == [{"value": "d"}]
    with pytest.raises(RuntimeError), database.atomic():
        records.add_records(database, PATIENT_INTAKE, {"x": intake(urgency="urgent", medications=[])})
        raise RuntimeError
    database.close()
    assert records.query(path, "select urgency, value from patient_intake join patient_intake_medications on record_id = id") == [
        {"urgency": "routine", "value": "d"}
    ]


def test_lists_of_any_shape_and_numbers_of_any_kind_have_a_place(tmp_path):
    class Odd(BaseModel):
        level: Literal[1, 2]
        share: float | None
        sure: bool
        pairs: list[tuple[int, str]]
        loose: list[dict] | None = None
        tags: set[int] = set()

    task = Task(name="odd", schema=Odd, instruction="", guidance="", data=Path("none"))
    odd = {
        "a": Odd(level=2, share=None, sure=True, pairs=[(1, "x")], loose=[{"new": 1}], tags={4}),
        "b": Odd(level=1, share=0.5, sure=0, pairs=[]),
    }
    records.write_records(tmp_path / "r.sqlite", task, odd).close()
    ask = lambda table: records.query(tmp_path / "r.sqlite", f"select * from odd{table} order by 1")  # noqa: E731
    assert ask("") == [{"id": "a", "level": 2, "share": None, "sure": 1}, {"id": "b", "level": 1, "share": 0.5, "sure": 0}]
    assert ask("_pairs")[0]["value"] == '[1, "x"]' and ask("_loose")[0]["new"] == 1 and ask("_tags")[0]["value"] == 4
