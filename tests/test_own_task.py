"""A task of the reader's own, as the README shows it, through 03, 04 and 05 in `smoke`, with a live teacher on loopback."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from server import KEY, serving

from workbook import dataset

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CODE = next(block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "TASK = Task(" in block)
COMMANDS = [line.split() for line in README.splitlines() if line.startswith("papermill notebooks/") and "runs/invoices" in line]
PEOPLE = ["Nile Paper Works", "Delta Office Supply", "Cedar Trading House", "Petra Stone Mill", "Atlas Print Shop", "Oasis Garden Centre"]
GOODS = ["folding chairs", "ink cartridges", "marble tiles", "desk lamps", "olive seedlings", "paper rolls", "copper wire"]


def invoices():
    for i in range(24):
        supplier, item, other = PEOPLE[i % 6], GOODS[i % 7], GOODS[(3 * i + 1) % 7]
        currency, total = ("EGP", "EUR", "USD")[i % 3], 120.5 + 37 * i
        words = (
            f"Invoice {4100 + i} from {supplier}, issued on day {i + 1} of the month. We delivered {i + 2} boxes of {item} "
            f"and {2 * i + 1} of {other} to your store. The amount due is {total:.2f} {currency}, payable within {20 + i} days."
        )
        label = {"supplier": supplier, "currency": currency, "total": total, "items": sorted({item, other})}
        yield {"id": f"inv-{i}", "text": words}, label


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """(the folder in which the three commands of the README were run, the server that taught)."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "invoices.py").write_text(CODE, encoding="utf-8")
    (folder / "notebooks").symlink_to(ROOT / "notebooks")
    (folder / "out").mkdir()
    pairs = list(invoices())
    dataset.write_jsonl(folder / "invoices.jsonl", [row for row, _ in pairs])
    labels, offline = {row["text"]: json.dumps(label) for row, label in pairs}, str(ROOT / "tests" / "offline")
    with serving() as server:
        server.answer = lambda body: labels[body["messages"][1]["content"]]
        environment = (
            os.environ | server.environment | {"PYTHONPATH": offline, "HF_HUB_OFFLINE": "0", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
        )
        for command in COMMANDS:
            smoke = [sys.executable, "-m", *command, "-p", "profile", "smoke", "--no-progress-bar"]
            done = subprocess.run(smoke, capture_output=True, text=True, env=environment, cwd=folder)
            assert done.returncode == 0, done.stderr[-3000:]
        yield folder, server


def test_the_readme_shows_three_commands_and_twenty_lines_of_code():
    assert len(COMMANDS) == 3 and len([line for line in CODE.splitlines() if line.strip()]) <= 20


def test_every_invoice_was_labelled_once_and_a_report_says_that_there_is_no_gold(ran):
    folder, server = ran
    run = folder / "runs" / "invoices"
    ledger = dataset.read_jsonl(run / "ledger.jsonl")
    assert len(ledger) == 24 and all(line["accepted"] for line in ledger)
    requests = [json.dumps(seen["body"], sort_keys=True) for seen in server.seen]
    assert len(requests) == len(set(requests)) == 24, "no invoice is asked for twice"
    assert all(dataset.read_jsonl(run / "distilled" / f"{side}.jsonl") for side in ("train", "validation", "test"))
    assert json.loads((run / "report.json").read_text())["task"] == "invoices"
    assert "This task has no gold labels" in (folder / "out" / "05.ipynb").read_text(encoding="utf-8")


def test_the_key_is_in_no_file_of_the_run(ran):
    folder, server = ran
    files = [path for path in folder.rglob("*") if path.is_file() and "notebooks" not in path.parts]
    assert server.keys == {f"Bearer {KEY}"} and len(files) > 20
    assert not [path for path in files if KEY.encode() in path.read_bytes()]
