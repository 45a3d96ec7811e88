"""What an evaluation leaves: a file for programs, a page for people, a table in the terminal; and the plots in them."""

import hashlib
import json
import re
import subprocess
import sys

import matplotlib

matplotlib.use("Agg")

import pytest

from workbook import charts, details, funnel, gallery, intervals, metrics, report
from workbook.costs import BreakEven
from workbook.profiles import load_profile
from workbook.tasks import ARTICLE_DIGEST, ArticleDigest


@pytest.fixture
def evaluated(digest, article):
    """(rows, gold, answers of three systems) for one article."""
    gold = {article["id"]: ArticleDigest.model_validate(digest)}
    wrong = digest | {"category": "politics", "summary": "افتُتح في صنعاء مستشفى يضم 120 سريرا."}
    answers = {"student": [json.dumps(wrong)], "teacher": [json.dumps(digest)], "base <1>": ["<script>alert(1)</script>"]}
    return [article], gold, answers


def first(answers):
    return {system: texts[0] for system, texts in answers.items()}


@pytest.fixture
def written(tmp_path, evaluated):
    rows, gold, answers = evaluated
    cfg = load_profile("smoke", run_dir=tmp_path, seed=3)
    results = metrics.table(ARTICLE_DIGEST, rows, answers, gold)
    figure = charts.scores(results, ["valid", "headline"])
    figure.savefig(tmp_path / "scores.png")
    cards = [gallery.card(ArticleDigest, rows[0]["text"], gold["t-1"], first(answers), "t-1")]
    beside = {
        "funnel": funnel.funnel(ARTICLE_DIGEST, [rows[0]["text"]], answers),
        "details": details.details(ARTICLE_DIGEST, rows, answers, gold),
        "corpus": {system: details.corpus(ARTICLE_DIGEST, rows, texts, gold)[0] for system, texts in answers.items()},
        "confusion": {system: details.confusion(ARTICLE_DIGEST, rows, texts, gold) for system, texts in answers.items()},
        "missed": {"student": {"category: health": (1, 1)}},
        "gain": {"form": {"difference": intervals.difference([40.0], [30.0], ["t"])}},
    }
    differences = {"teacher": intervals.difference([40.0], [100.0], ["t"])}
    report.write(
        cfg,
        ARTICLE_DIGEST,
        rows,
        results,
        differences,
        {"student": 10.0},
        beside=beside,
        figures={"scores": tmp_path / "scores.png"},
        gallery="".join(cards),
        files=[tmp_path / "scores.png", tmp_path / "not_there"],
    )
    return tmp_path


def test_the_file_has_every_part(written):
    found = json.loads((written / "report.json").read_text(encoding="utf-8"))
    assert found["scores"]["student"]["category"] == {"mean": 0, "low": 0, "high": 79.35}
    assert found["student_minus"]["teacher"]["mean"] == -60 and 0 < found["student_minus"]["teacher"]["p"] <= 1
    assert found["funnel"]["base <1>"]["parses"] == [0, 0] and found["confusion"]["student"]["category"]["health"] == {"politics": 1}
    assert found["settings"]["seed"] == 3 and found["versions"]["sacrebleu"] and len(found["data_sha256"]) == 4
    assert found["data_sha256"][f"{written.name}/scores.png"] == hashlib.sha256((written / "scores.png").read_bytes()).hexdigest()
    assert found["corpus"]["teacher"]["translation length ratio"] == 1 and "entities by name" in found["details"]["student"]


def test_the_page_stands_alone_and_what_models_wrote_cannot_run_in_it(written):
    page = (written / "report.html").read_text(encoding="utf-8")
    assert "data:image/png;base64," in page and not re.search(r'(src|href)="(?!data:)', page) and "<script" not in page
    assert "color-scheme:light dark" in page and 'dir="rtl"' in page and "<mark>صنعاء</mark>" in page and "&lt;script&gt;" in page
    assert "1 of 1" in page and "Funnel" in page and "NOT A RESULT" in page
    assert "+10.0 [+10.0, +10.0], p = 1.000" in page


def run(folder):
    return subprocess.run([sys.executable, "-m", "workbook.report", str(folder)], capture_output=True, text=True)


def test_the_command_prints_the_table_and_names_a_file_that_is_missing(written):
    done = run(written)
    assert done.returncode == 0 and re.search(r"^student +100\.0 \[20\.6, 100\.0\] +0\.0", done.stdout, re.MULTILINE)
    assert "student minus teacher: -60.0 [-60.0, -60.0], p = 1.000" in done.stdout
    (written / "report.json").write_text("{}")
    assert "not a report of notebook 05" in run(written).stderr
    (written / "report.json").unlink()
    done = run(written)
    assert done.returncode == 1 and "report.json: not there" in done.stderr and "Traceback" not in done.stderr


def test_marks_fall_on_what_differs_and_not_on_spelling():
    assert gallery.marked("افتُتح في صنعاء مستشفى", "افتتح في عدن مستشفى") == "افتُتح في <mark>صنعاء</mark> مستشفى"
    assert gallery.marked("a b, c d", "a b x") == "a b, <mark>c d</mark>" and gallery.marked("", "x") == ""
    assert gallery.marked("<b> tag", "other tag") == "<mark>&lt;b&gt;</mark> tag"


def test_a_card_shows_wrong_labels_items_and_answers_that_are_no_record(digest, evaluated):
    rows, gold, answers = evaluated
    page = gallery.card(ArticleDigest, rows[0]["text"], gold["t-1"], first(answers))
    assert "<mark>politics</mark>" in page and "<mark>no valid record</mark>" in page and page.count("<mark>") == 3
    assert "not one JSON object" in page, "it says why"
    six = json.dumps(digest | {"keywords": ["a"] * 6})
    assert gallery.fault(six, ArticleDigest).startswith("keywords: ") and gallery.fault(json.dumps(digest), ArticleDigest) == ""
    assert gallery.worst([{"headline": 5}, {"headline": 1}, {"headline": 3}], 2) == [1, 2]


def test_plots_show_what_they_are_given_for_any_number_of_systems():
    results = {f"system {i}": {"valid": (10 * i, 5 * i, 12 * i), "headline": (i, i, i)} for i in range(8)}
    valid, headline = charts.scores(results, ["valid", "headline"]).axes
    assert [bar.get_width() for bar in valid.patches] == [10 * i for i in range(8)] and headline.get_title() == "headline"
    stages = {"a": {"parses": (50.0, 50.0), "after repair": (75.0, 50.0)}, "b": {"parses": (0.0, 0.0), "after repair": (0.0, 0.0)}}
    first = charts.funnel(stages).axes[0]
    assert [bar.get_width() for bar in first.patches] == [50, 75, 50, 50]
    matrix = {"x": {"x": 2, "y": 1}, "y": {details.NO_RECORD: 1}, "z": {}}
    axes = charts.confusion(matrix)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["x", "y", details.NO_RECORD]
    assert [text.get_text() for text in axes.texts] == ["2", "1", "", "", "", "1"]
    assert [label.get_text() for label in charts.differences({"base": (1, 0.5, 2, 0.01)}).get_yticklabels()] == ["base"]


def test_form_and_content_stand_side_by_side_and_a_curve_has_its_sizes_in_order():
    row = {"valid": (40, 30, 50), "valid, constrained": (90, 80, 95), "headline": (5, 1, 9), "headline, constrained": (8, 4, 12)}
    valid, headline = charts.ablation({"base": row, "student": row}).axes
    assert [bar.get_height() for bar in valid.patches] == [40, 40, 90, 90] and headline.get_title() == "headline"
    axes = charts.against_prompt({"base": {"headline": (5, 1, 9)}, "student": {"headline": (40, 30, 50)}}, {"base": 700, "student": 200})
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["base", "student"]
    curve = {"test_articles": 60, "sizes": {"160": {"valid": (95, 90, 99)}, "80": {"valid": (70, 60, 80)}}}
    line = charts.learning_curve(curve, ("valid",)).lines[0]
    assert list(line.get_xdata()) == [80, 160] and list(line.get_ydata()) == [70, 95]


def test_break_even_by_hand():
    # 0.0005 USD a record by the API, 0.10 USD an hour for the machine: 0.10 / 0.0005 = 200 records an hour
    point = BreakEven(api_usd=0.0005, usd_per_hour=0.10, capacity=900)
    assert point.records_per_hour == pytest.approx(200) and point.pays
    assert not BreakEven(0.0005, 0.10, 150).pays and not BreakEven(0, 0.10, 900).pays
    for one in (point, BreakEven(0, 0.10, 900), BreakEven(0.0005, 0.10, 0)):
        assert charts.break_even(one).get_ylabel() == "USD per 1,000 records"


def test_values_are_shown_as_what_they_are():
    row = {
        "score": (40.04, 5, 90),
        "step": intervals.Difference(3.1, -0.4, 6.5, 0.06),
        "gate": (75.0, 50.0),
        "missed": (2, 3),
        "ratio": 0.98765,
        "tokens": 1234.5,
        "none": None,
    }
    assert list(report.frame({"a": row}).loc["a"]) == [
        "40.0 [5.0, 90.0]",
        "+3.1 [-0.4, +6.5], p = 0.060",
        "75 (50)",
        "2 of 3",
        "0.99",
        "1,234.5",
        "",
    ]
    assert list(report.frame({"a": {"x": 1}, "b": {"y": 2}}).loc["a"]) == ["1", ""]
