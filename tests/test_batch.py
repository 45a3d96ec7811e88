"""The batch queue by its command line, against a server of ours: written, submitted, collected once, refused replies asked again."""

import json
import os
import subprocess
import sys

import pytest

from workbook import dataset, distill
from workbook.costs import Price
from workbook.tasks import load_task
from workbook.teacher import open_teacher


def batch(server, command, run_dir, data):
    arguments = [sys.executable, "-m", "workbook.distill", f"batch-{command}", "--run-dir", run_dir, "--teacher", "local", "--data", data]
    done = subprocess.run(list(map(str, arguments)), capture_output=True, text=True, env=os.environ | server.environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_batch_job_gives_the_same_ledger_and_is_never_paid_twice(server, article, digest, tmp_path):
    others = [
        "أغلقت مدارس الساحل أبوابها يومين بسبب الرياح، وطلبت الوزارة من مستشفى عدن "
        "تجهيز 120 سريرا لاستقبال المرضى إن وقعت إصابات بين السكان.",
        "في عدن يجمع متطوعون 120 سريرا من أثاث قديم لإصلاحها، ثم يهدونها إلى كل مستشفى ريفي يحتاج إليها المرضى قبل حلول الشتاء المقبل.",
    ]
    texts = [article["text"], *others]
    rows = [article | {"id": f"t-{i}", "source": f"t-{i}", "text": text} for i, text in enumerate(texts)]
    data, run = dataset.write_jsonl(tmp_path / "rows.jsonl", rows), tmp_path / "run"
    good, bad = json.dumps(digest, ensure_ascii=False), json.dumps(digest | {"category": "weather"}, ensure_ascii=False)

    def answer(body):
        first = len(body["messages"]) == 2
        return bad if first and "الرياح" in body["messages"][1]["content"] else good

    server.answer = answer
    assert "3 requests" in batch(server, "write", run, data)
    assert "nothing is missing" in batch(server, "write", run, data), "what waits to be submitted is not written again"
    assert "submitted requests-001.jsonl as batch-0" in batch(server, "submit", run, data)
    assert "no file to submit" in batch(server, "submit", run, data) and len(server.batches) == 1
    assert "in_progress, 0 replies" in batch(server, "collect", run, data)
    server.run_batches()
    assert "completed, 3 replies kept, 0 errors" in batch(server, "collect", run, data)
    assert "no job is open" in batch(server, "collect", run, data)

    assert "1 requests" in batch(server, "write", run, data), "the refused reply is asked for again, with the complaint"
    batch(server, "submit", run, data)
    server.run_batches()
    assert "1 replies kept" in batch(server, "collect", run, data)
    assert "nothing is missing: run notebook 03" in batch(server, "write", run, data)

    task = load_task("article_digest", str(data))
    ledger = distill.distill(task, rows, open_teacher("local", task, server.environment, price=Price(10, 10)), run, progress=False)
    assert [(line["accepted"], line["attempts"], line["sent"], line["prompt_tokens"]) for line in ledger] == [
        (True, 1, 0, 100),
        (True, 2, 0, 200),
        (True, 1, 0, 100),
    ]
    assert ledger[0]["usd"] == pytest.approx(110 * 10 / 1e6 / 2), "a batch queue charges half"
    assert server.seen == [], "no request beside the batches"


def test_the_command_says_what_is_wrong_in_one_line(tmp_path):
    command = [sys.executable, "-m", "workbook.distill", "batch-write", "--run-dir", str(tmp_path)]
    environment = {name: value for name, value in os.environ.items() if name != "OPENAI_API_KEY"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 1 and done.stderr == "teacher openai: set OPENAI_API_KEY in the environment\n"
    done = subprocess.run([*command, "--data", "nowhere.jsonl"], capture_output=True, text=True, env=environment)
    assert done.stderr.startswith("data: there is no file nowhere.jsonl")
