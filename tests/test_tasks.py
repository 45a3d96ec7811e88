import pytest
from pydantic import ValidationError

from workbook.tasks import ARTICLE_DIGEST, ArticleDigest, PatientIntake, load_task


def test_schema_refuses_what_a_column_cannot_hold(digest):
    ArticleDigest.model_validate(digest)
    for change in ({"category": "weather"}, {"keywords": ["one"]}, {"title": ""}, {"title": "ع" * 121}, {"extra": 1}):
        with pytest.raises(ValidationError):
            ArticleDigest.model_validate(digest | change)
    with pytest.raises(ValidationError):
        PatientIntake.model_validate({"chief_complaint": "x", "symptoms": [{"name": "y", "duration_days": -1, "severity": "mild"}]})


def test_checks_of_content(digest, article):
    good = ArticleDigest.model_validate(digest)
    source = ARTICLE_DIGEST.render(article)
    assert ARTICLE_DIGEST.ungrounded(good, source) == [] == ARTICLE_DIGEST.invented_numbers(good, source)
    assert ARTICLE_DIGEST.wrong_language(good) == []
    bad = ArticleDigest.model_validate(digest | {"keywords": ["مستشفى", "زلزال", "المرضى"], "translation": "A hospital with 900 beds."})
    assert ARTICLE_DIGEST.ungrounded(bad, source) == ["زلزال"]
    assert ARTICLE_DIGEST.invented_numbers(bad, source) == ["900"]


def test_tasks_are_found_by_name_or_address(tmp_path, monkeypatch):
    assert load_task("article_digest") is ARTICLE_DIGEST
    (tmp_path / "mine.py").write_text("from workbook.tasks import PATIENT_INTAKE as TASK\nOTHER = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert load_task("mine:TASK").name == "patient_intake"
    for name, says in [
        ("nonsense", "article_digest, patient_intake"),
        ("mine:NONE", "mine:NONE"),
        ("mine:OTHER", "int"),
        ("no.such:T", "no.such"),
    ]:
        with pytest.raises(ValueError, match=says):
            load_task(name)
