"""The committed data is what its card says, and the checker says so when it is not."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from workbook import audit, dataset
from workbook.tasks import ARTICLE_DIGEST, DATA


@pytest.fixture(scope="module")
def checked():
    return audit.check(DATA)


def test_every_check_holds(checked):
    bad = {line.what: (line.found, line.faults[:3]) for lines in checked.values() for line in lines if not line.good}
    assert not bad and sum(map(len, checked.values())) > 50


def run(folder):
    command = [sys.executable, "-m", "workbook.dataset", "check", str(folder)]
    return subprocess.run(command, capture_output=True, text=True)


def spoil(folder: Path, name: str, row_id: str, change):
    """Change one row of a JSONL file."""
    rows = dataset.read_jsonl(folder / name)
    for row in rows:
        if row["id"] == row_id:
            change(row)
    dataset.write_jsonl(folder / name, rows)


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory):
    """What the command prints about a copy of the data with one fault of each kind."""
    folder = tmp_path_factory.mktemp("spoiled") / "data"
    shutil.copytree(DATA, folder, ignore=shutil.ignore_patterns("samples"))
    rows = dataset.read_rows(ARTICLE_DIGEST)
    gold = sorted(dataset.gold_records(ARTICLE_DIGEST))
    first, second = (row for row in rows[:2])
    sentence = first["text"].split(".")[0] + "."
    spoil(folder, "articles.jsonl", second["id"], lambda row: row.update(text=f"{sentence} {row['text']}"))
    spoil(folder, "gold/article_digest.jsonl", gold[0], lambda row: row["record"].update(translation="It rose by 987,654 tonnes."))
    spoil(folder, "gold/article_digest.jsonl", gold[1], lambda row: row["record"].update(summary=row["record"]["summary"] * 4))
    plan = dataset.read_jsonl(folder / "plan" / "events.jsonl")
    plan[0]["people"].append("اسم لا يرد في أي خبر")
    dataset.write_jsonl(folder / "plan" / "events.jsonl", plan)
    recorded = dataset.read_jsonl(folder / "teacher" / "article_digest.jsonl")
    only = next(row for row in recorded if sum(other["id"] == row["id"] for other in recorded) == 1)
    only["reply"] = only["reply"][:100]
    dataset.write_jsonl(folder / "teacher" / "article_digest.jsonl", recorded)
    return run(folder), first["id"], gold, only["id"]


def test_the_command_finds_each_fault_and_names_the_row(spoiled):
    done, _, gold, unlabelled = spoiled
    bad = [line for line in done.stdout.splitlines() if line.startswith("  BAD")]
    assert done.returncode == 1 and done.stderr == ""
    for what in ("sentences in two events", "raw after cleaning", "names that the text", "without an accepted reply", "gold records that"):
        assert any(what in line for line in bad), what
    assert f"gold {gold[1]}" in done.stdout and f"{gold[0]}: ungrounded: not in the text: 987654" in done.stdout
    assert unlabelled in done.stdout and "اسم لا يرد في أي خبر" in done.stdout


def test_the_command_prints_the_agreement_of_teacher_and_gold_that_is_in_the_card():
    done, card = run(DATA), (DATA / "README.md").read_text(encoding="utf-8")
    assert done.returncode == 0 and done.stdout.rstrip().endswith(" 0 bad")
    rows = [line for line in done.stdout.splitlines() if line.startswith(("| article_digest |", "| patient_intake |"))]
    assert len(rows) == 8 + 8 and all(row in card for row in rows)


def test_a_missing_or_broken_file_is_named(tmp_path):
    done = run(tmp_path)
    assert done.returncode == 1 and "plan/events.jsonl" in done.stderr and "Traceback" not in done.stderr
    (tmp_path / "plan").mkdir()
    (tmp_path / "plan" / "events.jsonl").write_text("{\n")
    assert "events.jsonl, line 1: not JSON" in run(tmp_path).stderr


def test_the_learning_curve_in_the_card_is_the_one_in_its_file():
    curve = json.loads((DATA.parent / "docs" / "learning_curve.json").read_text())
    card = (DATA / "README.md").read_text(encoding="utf-8")
    assert set(curve["sizes"]) == {"80", "160", "320"} and curve["test_articles"] == 60
    for size, scores in curve["sizes"].items():
        mean, low, high = scores["translation"]
        assert any(line.startswith(f"| {size} |") and f"{mean:.1f} [{low:.1f}, {high:.1f}]" in line for line in card.splitlines())
