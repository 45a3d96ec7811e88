"""What an evaluation leaves behind: report.json for programs, report.html for people, each complete in one file.

`python -m workbook.report runs/laptop` prints the main table of a finished run.
"""

import argparse
import base64
import hashlib
import json
import platform
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from html import escape
from importlib.metadata import version
from pathlib import Path

import pandas as pd

from workbook.gallery import STYLE
from workbook.profiles import ROOT, Profile
from workbook.tasks import Task

HEADLINE = ["valid", "category", "urgency", "translation", "headline"]
_COLUMN = {"valid": "schema-valid %", "translation": "translation chrF++", "headline": "mean of fields"}
_PACKAGES = ("torch", "transformers", "trl", "peft", "sacrebleu", "json-repair", "numpy")
_TITLES = {
    "funnel": "Funnel: share of answers that pass each stage and all before it, in percent (in brackets: without repair)",
    "details": "Beside the headline: means with 95 % intervals",
    "corpus": "Over all articles together",
    "missed": "Missed: rows of the grave label that got another label or no record, out of how many",
    "ablation": "Form and content: each system free, and held to the schema's grammar",
    "gain": "The steps of a gain: paired differences in the headline",
    "seeds": "The headline of students trained with other seeds",
    "costs": "What an answer costs",
    "forgetting": "Perplexity on unrelated text",
    "unseen": "A schema that the student was not trained on: share of answers, in percent",
    "second_task": "The second task",
    "judge": "A language model as a judge",
}


def write(
    profile: Profile,
    task: Task,
    rows: list[dict],
    results: dict,
    differences: dict,
    prompt_tokens: dict,
    *,
    beside: dict[str, dict] | None = None,
    figures: dict[str, Path] | None = None,
    gallery: str = "",
    files: Iterable[Path] = (),
) -> Path:
    """Write run_dir/report.json and run_dir/report.html from `metrics.table` results; returns the JSON's path.

    differences: {system: intervals.Difference} of student minus that system in the headline score. prompt_tokens: {system: mean}.
    beside: further parts as {key: {system: {name: value}}} ('funnel', 'details', 'corpus', 'confusion', 'costs', ...): each becomes a key
    of the JSON, and those in _TITLES a table of the page. figures: {title: PNG file} and gallery (HTML) stand in the page only.
    files: what else the numbers come from; like the task's own files they are named with their sha256.
    """
    fields = [name for name in HEADLINE if name in next(iter(results.values()))]
    report = {
        "task": task.name,
        "profile": profile.name,
        "meaningful": profile.meaningful,
        "articles": len(rows),
        "headline": fields,
        "columns": {name: _COLUMN.get(name, name) for name in fields},
        "scores": {system: {name: _named(values) for name, values in scores.items()} for system, scores in results.items()},
        "student_minus": {system: _named(values) for system, values in differences.items()},
        "prompt_tokens": prompt_tokens,
        **(beside or {}),
        "settings": profile.model_dump(mode="json", exclude={"run_dir"}),
        "data_sha256": _hashes([getattr(task, kind) for kind in ("data", "gold", "recordings")]) | _hashes(files),
        "versions": {name: version(name) for name in _PACKAGES} | {"python": platform.python_version()},
        "git_commit": _commit(),
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    report = json.loads(json.dumps(report, allow_nan=False))  # tuples and counters as what they are in the file
    path = profile.run_dir / "report.json"
    path.write_text(json.dumps(report, ensure_ascii=False, indent=1), encoding="utf-8")
    (profile.run_dir / "report.html").write_text(_page(report, figures or {}, gallery), encoding="utf-8")
    return path


def _named(values) -> dict:
    return dict(zip(("mean", "low", "high", "p"), values, strict=False))


def _hashes(files: Iterable[Path | None]) -> dict[str, str]:
    """{folder/file: sha256} of those that are there."""
    return {f"{path.parent.name}/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest() for path in files if path and path.exists()}


def headline(report: dict) -> str:
    """The report's main table as text: one line per system, each score with its 95 % interval; then the student against the others."""
    wide = max([16, *(len(system) + 2 for system in report["scores"])])
    lines = [_title(report), " " * wide + "".join(f"{report['columns'][name]:>24}" for name in report["headline"])]
    for system, scores in report["scores"].items():
        lines.append(f"{system:{wide}}" + "".join(f"{_cell(scores[name]):>24}" for name in report["headline"]))
    for system, one in report.get("student_minus", {}).items():
        lines.append(f"student minus {system}: {_signed(one)}")
    return "\n".join(lines)


def _title(report: dict) -> str:
    warning = "" if report["meaningful"] else " · NOT A RESULT: it only shows that the code runs"
    return f"{report['task']} · {report['articles']} test articles · profile {report['profile']}{warning}"


def _cell(score: dict) -> str:
    return f"{score['mean']:.1f} [{score['low']:.1f}, {score['high']:.1f}]"


def _signed(one: dict) -> str:
    """A difference with its interval and, where it was tested, its p-value."""
    shown = f"{one['mean']:+.1f} [{one['low']:+.1f}, {one['high']:+.1f}]"
    if "p" not in one:
        return shown
    return shown + (", p < 0.001" if one["p"] < 0.001 else f", p = {one['p']:.3f}")


def shown(value) -> str:
    """A value of any part as text: a number, a score with its interval, a difference with its p, a share with the part that needed no
    repair, a count of a whole."""
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, dict):
        return _cell(value)
    if isinstance(value, (list, tuple)) and len(value) > 2:
        return (_signed if len(value) > 3 else _cell)(_named(value))
    if isinstance(value, (list, tuple)):
        first, second = value
        return f"{first} of {second}" if isinstance(first, int) else f"{first:.0f} ({second:.0f})"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.{1 if abs(value) >= 10 else 2}f}"


def frame(part: dict[str, dict]) -> pd.DataFrame:
    """{system: {name: value}} as a table to show in a notebook, written as in the report."""
    return pd.DataFrame({system: {name: shown(value) for name, value in row.items()} for system, row in part.items()}).T.fillna("")


def _table(part: dict[str, dict], caption: str = "") -> str:
    """{row: {column: value}} as an HTML table."""
    names = list(dict.fromkeys(name for row in part.values() for name in row))
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join(
        f"<tr><th>{escape(title)}</th>{''.join(f'<td>{escape(shown(row.get(name)))}</td>' for name in names)}</tr>"
        for title, row in part.items()
    )
    return f"<h2>{escape(caption)}</h2><table><tr><th></th>{head}</tr>{body}</table>"


def _page(report: dict, figures: dict[str, Path], gallery: str) -> str:
    differences = {system: {"difference": _signed(one)} for system, one in report["student_minus"].items()}
    tables = "".join(_table(report[key], title) for key, title in _TITLES.items() if report.get(key))
    grids = "".join(
        _table(matrix, f"{field}: {system} (rows: reference, columns: said)")
        for system, fields in report.get("confusion", {}).items()
        for field, matrix in fields.items()
    )
    images = "".join(
        f'<figure><img alt="{escape(title)}" src="data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}">'
        f"<figcaption>{escape(title)}</figcaption></figure>"
        for title, path in figures.items()
    )
    facts = ("parameters", "settings", "prompt_tokens", "signatures", "data_sha256", "versions", "git_commit", "made")
    details = escape(json.dumps({key: report[key] for key in facts if key in report}, ensure_ascii=False, indent=1))
    return f"""<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Report</title>
<style>:root{{color-scheme:light dark}} body{{font:15px/1.6 system-ui,sans-serif;max-width:92rem;margin:2rem auto;padding:0 1rem}}
table{{border-collapse:collapse;display:block;overflow-x:auto;font-size:.9em}}
td,th{{padding:.3rem .5rem;border-bottom:1px solid #8886;text-align:end}}
td,tr>:first-child{{white-space:nowrap}} .gallery td{{white-space:normal}} .gallery table{{display:table}}
 h2{{font-size:1.1rem;margin-top:2rem}} img{{max-width:100%;background:#fff}} figure{{margin:1rem 0}}</style>
{STYLE}
<h1>{escape(_title(report))}</h1>
<p>Mean over the test articles, 0 to 100, with its 95 % interval (bootstrap over events). Free text: chrF++. Lists: F1.
An answer that is not a valid record scores zero.</p>
{_table(report["scores"], "Scores")}
{_table(differences, "Student minus the other, headline: 95 % interval, p by flipping the signs of events") if differences else ""}
{images}{tables}<details><summary>Confusion matrices</summary>{grids}</details>
{f"<h2>Answers, the student's worst first; what differs from the reference is marked</h2>{gallery}" if gallery else ""}
<pre>{details}</pre>"""


def _commit() -> str:
    """The repository's commit, with '+' if the tree has changes; '' outside a repository."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12"], cwd=ROOT, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m workbook.report", description="Print the main table of a finished run.")
    parser.add_argument("run_dir", type=Path, help="the folder of the run")
    path = parser.parse_args().run_dir / "report.json"
    try:
        print(headline(json.loads(path.read_text(encoding="utf-8"))))
    except FileNotFoundError:
        raise SystemExit(f"{path}: not there; notebook 05 writes it") from None
    except (ValueError, KeyError) as error:
        raise SystemExit(f"{path}: not a report of notebook 05 ({type(error).__name__}: {error}); run 05 again") from None


if __name__ == "__main__":
    main()
