"""The notebooks as files, and all five by papermill in `smoke` with the network blocked, judged by the artifacts they leave."""

import json
import os
import re
import subprocess
import sys
import sysconfig
from html import escape
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("0*.ipynb"))
PATHS = os.pathsep.join(map(str, (ROOT / "tests" / "offline", ROOT / "lib")))  # the library of this tree, whichever is installed
ENVIRONMENT = os.environ | {"PYTHONPATH": PATHS, "HF_HUB_OFFLINE": "0", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}


def source(cell):
    return "".join(cell["source"])


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def test_there_are_five():
    names = ["01_tokenizer", "02_base_vs_instruct", "03_distill_data", "04_lora_train", "05_eval"]
    assert [path.stem for path in NOTEBOOKS] == names


def test_a_notebook_is_valid_and_stored_without_outputs(notebook):
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code) and "widgets" not in notebook.metadata
    assert max(len(source(cell).splitlines()) for cell in code) <= 15
    assert not any(word in source(cell) for cell in code for word in ("sys.path", "!pip", "%pip", "drive.mount", "login("))


def test_a_notebook_has_its_eight_parts(notebook):
    cells, text = notebook.cells, [source(cell) for cell in notebook.cells]
    tagged = [i for i, cell in enumerate(cells) if "parameters" in cell.metadata.get("tags", [])]
    assert (
        text[0].startswith("# ")
        and "**Measured:** " in text[0]
        and "**Goals**" in text[0]
        and all(f"\n{i}. " in text[0] for i in (1, 2, 3))
    )
    assert tagged == [1] and all(":" in line and "#" in line for line in text[1].splitlines() if line.strip())
    assert any("start(globals()" in part for part in text[2:6])
    prose = "\n".join(part for part, cell in zip(text, cells, strict=True) if cell.cell_type == "markdown")
    assert "What to notice" in prose and "redict before you run" in prose and prose.count("Exercise ") >= 2
    assert sum("checks." in part and "answer = ..." in part for part in text) >= 2
    assert sum("assert " in part for part in text) >= 1 and '<div dir="rtl">' in text[-1] and "**Next" in text[-1]
    assert "MINUTES" not in text[0] and "MEMORY" not in text[0]
    markdown = sum(cell.cell_type == "markdown" for cell in cells)
    assert markdown >= len(cells) - markdown and 35 <= len(cells) <= 64


RTL = re.compile(r'<div dir="rtl">\n(.*?)</div>', re.S)


def points(text):
    """The numbered points of a cell, each as one line; a point ends where the next one or an empty line begins."""
    found = re.findall(r"^(\d)\. (.*?)(?=^\d\. |^\n|\Z)", text, re.S | re.M)
    assert [number for number, _ in found] == ["1", "2", "3"], f"three numbered points are wanted in:\n{text}"
    return [" ".join(point.split()) for _, point in found]


def stems(point):
    """The beginnings of the longer words of a point: no vowel marks, article or long vowels in Arabic, so that رموز and الرمز are alike."""
    words = re.findall(r"[^\W\d_]+", re.sub(r"[\u064b-\u0652]", "", point.lower()))
    bare = [re.sub(r"[اويىأإآؤئءة]", "", re.sub(r"^[وفبكل]?ال|^لل", "", word)) for word in words]
    return {word[:5] if word.isascii() else word[:3] for word in bare if len(word) > 2 + word.isascii()}


def mirrors(goals, recap):
    """Whether each point of the recap takes up at least two words of its own goal, and more of them than of any other goal."""
    common = set.intersection(*map(stems, goals))
    shared = [[len((stems(goal) - common) & stems(point)) for goal in goals] for point in recap]
    return all(row[i] >= 2 and row[i] > max(row[:i] + row[i + 1 :]) for i, row in enumerate(shared)), shared


@pytest.mark.parametrize("language", ["English", "Arabic"])
def test_the_recap_takes_up_the_goals_in_their_order(notebook, language):
    first, last = source(notebook.cells[0]), source(notebook.cells[-1])
    one, other = ("\n".join(RTL.findall(cell)) if language == "Arabic" else RTL.sub("", cell) for cell in (first, last))
    assert all(block.startswith("<b>") for cell in (first, last) for block in RTL.findall(cell)), (
        "a paragraph would be set to the left by Jupyter"
    )
    goals, recap = points(one), points(other)
    arabic = [len(re.findall(r"[\u0620-\u064a]", point)) > len(point) / 3 for point in goals + recap]
    assert all(arabic) if language == "Arabic" else not any(arabic)
    fine, shared = mirrors(goals, recap)
    assert fine, f"words that each recap point (row) shares with each goal: {shared}"
    assert not mirrors(goals, recap[1:] + recap[:1])[0], "another order is told apart"


def first_import(notebook):
    return next(source(cell) for cell in notebook.cells if cell.cell_type == "code" and "import" in source(cell))


def test_without_the_library_the_first_import_says_in_one_line_what_to_type(notebook):
    done = subprocess.run([sys.executable, "-I", "-S", "-c", first_import(notebook)], capture_output=True, text=True)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done.stderr
    assert all(word in done.stderr for word in ("No module named 'workbook'", "git clone", "make setup lab"))


def test_a_notebook_shows_that_line_and_stops_there(tmp_path, monkeypatch):
    """In a kernel that finds all packages but, as it does not read .pth files (-S), not the library, which is installed by one."""
    kernel = {
        "argv": [sys.executable, "-S", "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "bare",
        "language": "python",
    }
    (tmp_path / "kernels" / "bare").mkdir(parents=True)
    (tmp_path / "kernels" / "bare" / "kernel.json").write_text(json.dumps(kernel | {"env": {"PYTHONPATH": sysconfig.get_path("purelib")}}))
    monkeypatch.setitem(ENVIRONMENT, "JUPYTER_PATH", str(tmp_path))
    given = ["-k", "bare", "-p", "profile", "smoke", "-p", "run_dir", str(tmp_path / "run")]
    done = papermill("notebooks/01_tokenizer.ipynb", *given, cwd=ROOT, out=tmp_path / "out.ipynb")
    assert done.returncode != 0 and not (tmp_path / "run").exists()
    shown = [out for cell in nbformat.read(tmp_path / "out.ipynb", as_version=4).cells for out in cell.get("outputs", [])]
    (error,) = [out for out in shown if out.output_type == "error"]
    assert error.ename == "SystemExit" and "git clone" in error.evalue and "Traceback" not in "".join(error.traceback)


def test_the_guide_has_its_parts_for_each_notebook():
    guide = (ROOT / "docs" / "instructor.md").read_text(encoding="utf-8")
    for path in NOTEBOOKS:
        section = re.search(rf"^## {path.stem[:2]} ·.*?(?=^## )", guide, re.S | re.M)[0]
        assert all(f"**{part}" in section for part in ("Minutes:", "Show live:", "Turn:", "Misconceptions.")), path.stem
        assert re.search(r"\*\*Turn:\*\*.*?\d.*?\n\n", section, re.S), f"{path.stem}: what to turn, and the numbers that follow"
        assert len(re.findall(r"^\| [^|]+\? \| [^|]+ \|$", section, re.M)) == 3, f"{path.stem}: three questions with answers"
    steps = guide[guide.index("### The memory demonstration") : guide.index("## 05")]
    assert re.findall(r"^(\d)\. \*\*", steps, re.M) == list("123456")
    assert all(f"## {title}" in guide for title in ("Ninety minutes", "Two days", "Thirty people, no internet"))


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """A whole run in `smoke` by the command of the README, the network blocked in every process; returns (its output, run_dir)."""
    run_dir = tmp_path_factory.mktemp("runs") / "smoke"
    command = [sys.executable, "-m", "workbook.run", "--profile", "smoke", "--run-dir", str(run_dir)]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, cwd=run_dir.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, run_dir


def test_the_block_on_the_network_holds():
    script = "import urllib.request as u; u.urlopen('http://example.org', timeout=5)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode != 0 and "the network is blocked" in done.stderr


def test_a_run_prints_its_table_and_leaves_pages_for_all(smoke):
    from workbook import overview

    out, run_dir = smoke
    assert "NOT A RESULT" in out and "translation chrF++" in out and out.rstrip().endswith(f"open {run_dir / 'index.html'}")
    index = (run_dir / "index.html").read_text(encoding="utf-8")
    for path in NOTEBOOKS:
        assert f"notebooks/{path.stem}.html" in index and (run_dir / "notebooks" / f"{path.stem}.html").stat().st_size > 10_000
        found = overview.found(path.stem, run_dir)
        assert len(found) > 40 and escape(found) in index and overview.found(path.stem, run_dir / "nothing") == ""


def test_the_tokenizer_and_instruct_notebooks_leave_their_measurements(smoke):
    measured = json.loads((smoke[1] / "tokens.json").read_text(encoding="utf-8"))
    assert all(value > 0.5 for kinds in measured.values() for value in kinds.values())
    assert json.loads((smoke[1] / "base_vs_instruct.json").read_text(encoding="utf-8"))


def test_distillation_accounts_for_every_article(smoke):
    from workbook import cleaning, dataset, records
    from workbook.tasks import ARTICLE_DIGEST

    ledger, (raw, broken) = dataset.read_jsonl(smoke[1] / "ledger.jsonl"), cleaning.read_raw(ARTICLE_DIGEST.raw)
    assert sorted(line["id"] for line in ledger) == sorted([row["id"] for row in raw] + list(broken)) and len(ledger) == 440
    assert sum(line["accepted"] for line in ledger) == 400 and all(line["accepted"] or line["reasons"] for line in ledger)
    parts = {name: dataset.read_jsonl(smoke[1] / "distilled" / f"{name}.jsonl") for name in ("train", "validation", "test")}
    for row in parts["train"][:20]:
        ARTICLE_DIGEST.schema.model_validate_json(row["completion"])
    sources = [{row["source"] for row in part} for part in parts.values()]
    assert all(sources) and not (sources[0] & sources[1] or sources[0] & sources[2] or sources[1] & sources[2])
    (count,) = records.query(smoke[1] / "records.sqlite", "select count(*) as n from article_digest")
    assert count["n"] == sum(line["accepted"] for line in ledger) == sum(map(len, parts.values()))
    assert (smoke[1] / "llamafactory" / "train.yaml").exists()


def test_training_leaves_an_adapter_that_loads(smoke):
    from workbook import lora, models

    model, _ = models.open_model(smoke[1] / "adapter")
    assert lora.trainable_share(model)[1] > 250e6 and json.loads((smoke[1] / "memory.json").read_text())["predicted"]
    assert len((smoke[1] / "training.jsonl").read_text().splitlines()) >= 2


def test_the_report_has_its_shape(smoke):
    report = json.loads((smoke[1] / "report.json").read_text(encoding="utf-8"))
    assert not report["meaningful"] and {"base", "student", "teacher"} <= set(report["scores"])
    for scores in report["scores"].values():
        assert {"valid", "translation", "headline"} <= set(scores)
        assert all(0 <= cell["low"] <= cell["mean"] <= cell["high"] <= 100 for cell in scores.values())
    assert {"versions", "git_commit", "data_sha256", "settings", "student_minus"} <= set(report)
    assert "data:image/png" in (smoke[1] / "report.html").read_text(encoding="utf-8")


def test_a_second_run_keeps_what_is_finished(smoke):
    command = [sys.executable, "-m", "workbook.run", "--profile", "smoke", "--run-dir", str(smoke[1])]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0 and done.stdout.count(", kept") == 5


def test_a_run_writes_nothing_beside_its_folder(smoke):
    assert {path.name for path in smoke[1].parent.iterdir()} == {"smoke"}


def papermill(notebook, *parameters, cwd, out):
    command = [sys.executable, "-m", "papermill", notebook, str(out), "--no-progress-bar", *parameters]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, cwd=cwd)


def test_a_misspelt_parameter_fails_with_its_name(tmp_path):
    done = papermill(
        "04_lora_train.ipynb", "-p", "profile", "smoke", "-p", "epoch", "1", cwd=ROOT / "notebooks", out=tmp_path / "out.ipynb"
    )
    assert done.returncode == 1 and "parameter epoch: this notebook has no such parameter" in done.stderr


def test_a_notebook_runs_alone_from_committed_samples(tmp_path):
    given = ["-p", "profile", "smoke", "-p", "run_dir", str(tmp_path / "run"), "-p", "test_articles", "1"]
    done = papermill("notebooks/05_eval.ipynb", *given, cwd=ROOT, out=tmp_path / "out.ipynb")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "the committed sample is used" in (tmp_path / "out.ipynb").read_text(encoding="utf-8")
    assert (tmp_path / "run" / "report.json").exists()


def test_a_failing_cell_stops_the_run_in_three_lines_and_it_resumes_there(tmp_path, monkeypatch, capsys):
    from workbook import run

    def write(name, code):
        cells = [
            nbformat.v4.new_code_cell('profile = "smoke"\nrun_dir = ""', metadata={"tags": ["parameters"]}),
            nbformat.v4.new_code_cell(code),
        ]
        path = tmp_path / "notebooks" / f"{name}.ipynb"
        path.parent.mkdir(exist_ok=True)
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)
        return path

    first = write("01_first", "open(run_dir + '/first', 'a').write('x')")
    second = write("02_second", "# a comment\nopen(run_dir + '/second', 'a').write('x')\nraise ValueError('the third letter is wrong')")
    monkeypatch.setattr(run, "NOTEBOOKS", [first, second])
    run_dir = tmp_path / "run"
    assert run.run("smoke", run_dir) == 1
    lines = capsys.readouterr().out.splitlines()[-3:]
    assert lines[0].startswith("notebook  02_second") and lines[1].startswith("cell      3: open(run_dir")
    assert lines[2] == "error     ValueError: the third letter is wrong"
    assert (run_dir / "notebooks" / "01_first.html").exists() and (run_dir / "first").read_text() == "x"

    write("02_second", "pass")
    report = {"task": "t", "articles": 1, "profile": "smoke", "meaningful": False, "headline": [], "columns": {}, "scores": {}}
    (run_dir / "report.json").write_text(json.dumps(report))
    assert run.run("smoke", run_dir) == 0
    assert "01_first" in capsys.readouterr().out and (run_dir / "first").read_text() == "x", "the finished notebook did not run again"
