"""The solutions notebooks: each runs in a kernel of its own, each check in it says "Right.", and no exercise is without a solution."""

import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from workbook import checks

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("0*.ipynb"))
SOLUTIONS = ROOT / "notebooks" / "solutions"
CALL = re.compile(r"^checks\.(\w+)\(", re.M)


def code_of(path: Path) -> str:
    return "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code")


@pytest.mark.parametrize("course", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_exercise_has_a_solution_that_its_check_accepts(course, tmp_path, monkeypatch):
    path = SOLUTIONS / course.name
    exercises, notebook = CALL.findall(code_of(course)), nbformat.read(path, as_version=4)
    assert len(exercises) >= 2 and set(exercises) <= set(CALL.findall(code_of(path)))
    assert not any(cell.outputs or cell.execution_count for cell in notebook.cells if cell.cell_type == "code")
    before = [ROOT / "tests" / "offline", ROOT / "lib", *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, before)))
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code" and (called := CALL.findall(cell.source)):
            out = "".join(output.get("text", "") for output in cell.outputs)
            assert len(re.findall(r"^Right\.$", out, re.M)) == len(called), f"{called}: {out}"


def test_every_check_belongs_to_an_exercise():
    known = {name for name, value in vars(checks).items() if callable(value) and getattr(value, "__module__", "") == checks.__name__}
    solved = {name for path in SOLUTIONS.glob("*.ipynb") for name in CALL.findall(code_of(path))}
    assert {name for name in known if not name.startswith("_")} == solved
