"""The benchmarks as processes, on the tiny model and a handful of short rows: what they write, and that they keep what is finished."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT

from workbook.tasks import ARTICLE_DIGEST as TASK


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
