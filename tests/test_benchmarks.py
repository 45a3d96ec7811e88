"""The benchmarks as processes, on the tiny model and a handful of short rows: what they write, and that they keep what is finished."""

import importlib
import json
import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

from workbook.tasks import ARTICLE_DIGEST as TASK

sys.path.insert(0, str(ROOT / "benchmarks"))
import publish


@pytest.fixture
def bench(tmp_path, tiny_model):
    """Run a benchmark on short rows of two categories; what it writes comes to tmp_path."""
    rows = [
        {"id": str(i), "prompt": f"{TASK.instruction}\n\n{word} {i}", "completion": json.dumps({"category": word})}
        for i, word in enumerate(["sports", "health"] * 6)
    ]
    for side in ("train", "validation"):
        (tmp_path / f"{side}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(script: str, *arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, ROOT / "benchmarks" / script, "--model", tiny_model, "--data", tmp_path, "--docs", tmp_path, *arguments]
        path = os.pathsep.join([str(ROOT / "lib"), os.environ.get("PYTHONPATH", "")])
        return subprocess.run(list(map(str, command)), capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path})

    return run


def test_methods_train_for_their_time_and_finished_runs_are_kept(tmp_path, bench):
    (tmp_path / "training.md").write_text("<!-- methods -->\n\n<!-- /methods -->\n")
    first = bench("methods.py", "--seconds", "0.5", "--methods", "none", "lora", "head")
    assert first.returncode == 0, first.stderr
    runs = {run["method"]: run for run in json.loads((tmp_path / "methods.json").read_text()).values()}
    assert runs["lora"]["validation_loss"] < runs["none"]["validation_loss"] and runs["lora"]["steps"] > 1
    assert 0 < runs["head"]["stored_bytes"] < runs["lora"]["stored_bytes"] and 0 <= runs["head"]["accuracy"] <= 1
    assert all(run["peak_bytes"] > 0 for name, run in runs.items() if name != "none")
    assert "| LoRA |" in (tmp_path / "training.md").read_text()
    again = bench("methods.py", "--seconds", "0.5", "--methods", "none", "lora", "head")
    assert again.stdout == first.stdout[first.stdout.index("| trained |") :], "nothing was trained again"


def test_training_is_timed_beside_stock_trl_with_the_same_losses(tmp_path, bench):
    (tmp_path / "training.md").write_text("<!-- speed -->\n\n<!-- /speed -->\n")
    done = bench("train.py", "--steps", "3", "--rounds", "1")
    assert done.returncode == 0, done.stderr
    ours, stock, _ = json.loads((tmp_path / "train.json").read_text())["systems"]
    assert ours["system"].startswith("ours") and ours["tokens_per_second"] > 0 and ours["peak_bytes"] > 0
    assert ours["first_loss"] == pytest.approx(stock["first_loss"], rel=0.01)
    assert ours["last_loss"] == pytest.approx(stock["last_loss"], rel=0.01)
    assert "| stock TRL, float32 |" in (tmp_path / "training.md").read_text()


@pytest.fixture
def copy(tmp_path):
    """A repository with the README, a notebook and the committed adapter, and a finished run beside it; returns (run, repository)."""
    run, root = tmp_path / "run", tmp_path / "repository"
    for folder in ("notebooks", "docs"):
        (root / folder).mkdir(parents=True)
    shutil.copy(ROOT / "README.md", root)
    shutil.copy(ROOT / "notebooks" / "05_eval.ipynb", root / "notebooks")
    shutil.copytree(ROOT / "data" / "samples", run)
    (run / "scores.png").write_bytes(b"a picture")
    score = {"mean": 12.34, "low": 5, "high": 20}
    report = {"meaningful": True, "profile": "laptop", "articles": 7, "headline": ["valid"], "columns": {"valid": "schema-valid %"}}
    report |= {"scores": {"student": {"valid": score}}, "funnel": {"student": {"grounded": [9.1, 6.2]}}}
    (run / "report.json").write_text(json.dumps(report))
    (run / "done.json").write_text(json.dumps({"05_eval": {"seconds": 126, "peak_gib": 3.21, "fingerprint": "x"}}))
    return run, root


def test_the_readme_gets_its_numbers_from_the_report_of_a_run(copy):
    run, root = copy
    publish.publish(run, root)
    readme = (root / "README.md").read_text(encoding="utf-8")
    assert "| 7 test articles | schema-valid % | grounded % |" in readme and "| student | 12.3 [5.0, 20.0] | 6 |" in readme
    assert "| 05_eval | 2.1 | 3.2 GiB |" in readme and "| all five | 2.1 | |" in readme and "base, few-shot |" not in readme
    notebook = json.loads((root / "notebooks" / "05_eval.ipynb").read_text(encoding="utf-8"))
    assert "**Measured:** 2.1 minutes, 3.2 GiB of memory, in `laptop`" in "".join(notebook["cells"][0]["source"])
    assert (root / "docs" / "scores.png").read_bytes() == b"a picture"
    assert (root / "data" / "samples" / "adapter" / "adapter_model.safetensors").exists()
    assert_numbers_are_those_of_the_report(root)


def test_a_smoke_run_is_not_published(copy):
    run, root = copy
    before = (root / "README.md").read_text(encoding="utf-8")
    (run / "report.json").write_text((run / "report.json").read_text().replace("true", "false"))
    with pytest.raises(SystemExit, match="a smoke run is not a result"):
        publish.publish(run, root)
    assert (root / "README.md").read_text(encoding="utf-8") == before and not (root / "docs" / "report.json").exists()


def assert_numbers_are_those_of_the_report(root):
    report = json.loads((root / "docs" / "report.json").read_text(encoding="utf-8"))
    for mark, table in publish.tables(report).items():
        assert publish.fill(root / "README.md", mark, table) == (root / "README.md").read_text(encoding="utf-8"), mark


@pytest.mark.skipif(not (ROOT / "docs" / "report.json").exists(), reason="no run was published yet: python benchmarks/publish.py")
def test_the_numbers_in_the_readme_are_those_of_the_published_report():
    assert_numbers_are_those_of_the_report(ROOT)


@pytest.mark.parametrize(
    ("mark", "page", "script", "measured"),
    [
        ("sweep", "docs/training.md", "sweep", lambda runs: runs),
        ("methods", "docs/training.md", "methods", lambda runs: list(runs.values())),
        ("speed", "docs/training.md", "train", lambda found: found["systems"]),
        ("shortlist", "docs/training.md", "shortlist", lambda found: found),
        ("spelling", "data/README.md", "spelling", lambda found: found),
        ("curve", "data/README.md", "learning_curve", lambda curve: curve),
    ],
)
def test_a_table_in_the_docs_is_that_of_its_measurement(mark, page, script, measured):
    found = measured(json.loads((ROOT / "docs" / f"{script}.json").read_text()))
    written = (ROOT / page).read_text(encoding="utf-8")
    assert publish.fill(ROOT / page, mark, importlib.import_module(script).table(found)) == written
