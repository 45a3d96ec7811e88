"""What an evaluation leaves behind: report.json for programs, report.html for people, each complete in one file."""

import base64
import hashlib
import json
import platform
import subprocess
from datetime import UTC, datetime
from html import escape
from importlib.metadata import version
from pathlib import Path

from workbook.profiles import ROOT, Profile
from workbook.tasks import Task

HEADLINE = ["valid", "category", "translation", "headline"]
_COLUMN = {"valid": "schema-valid %", "translation": "translation chrF++", "headline": "mean of fields"}


def write(profile: Profile, task: Task, rows: list[dict], results: dict, differences: dict, prompt_tokens: dict) -> Path:
    """Write run_dir/report.json and run_dir/report.html from `metrics.table` results; returns the JSON's path.

    differences: {system: (mean, low, high)} of student minus that system in the headline score. prompt_tokens: {system: mean}.
    """
    fields = [name for name in HEADLINE if name in next(iter(results.values()))]
    triple = lambda values: dict(zip(("mean", "low", "high"), values, strict=True))  # noqa: E731
    report = {
        "task": task.name,
        "profile": profile.name,
        "meaningful": profile.meaningful,
        "articles": len(rows),
        "headline": fields,
        "columns": {name: _COLUMN.get(name, name) for name in fields},
        "scores": {system: {name: triple(values) for name, values in scores.items()} for system, scores in results.items()},
        "student_minus": {system: triple(values) for system, values in differences.items()},
        "prompt_tokens": prompt_tokens,
        "settings": profile.model_dump(mode="json", exclude={"run_dir"}),
        "data_sha256": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (task.data, task.gold) if path},
        "versions": {name: version(name) for name in ("torch", "transformers", "trl", "peft", "sacrebleu")}
        | {"python": platform.python_version()},
        "git_commit": _commit(),
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    path = profile.run_dir / "report.json"
    path.write_text(json.dumps(report, ensure_ascii=False, indent=1), encoding="utf-8")
    (profile.run_dir / "report.html").write_text(_page(report, profile.run_dir / "scores.png"), encoding="utf-8")
    return path


def headline(report: dict) -> str:
    """The report's main table as text: one line per system, each score with its 95 % interval."""
    lines = [_title(report), f"{'':16}" + "".join(f"{report['columns'][name]:>24}" for name in report["headline"])]
    for system, scores in report["scores"].items():
        lines.append(f"{system:16}" + "".join(f"{_cell(scores[name]):>24}" for name in report["headline"]))
    return "\n".join(lines)


def _title(report: dict) -> str:
    warning = "" if report["meaningful"] else " · NOT A RESULT: it only shows that the code runs"
    return f"{report['task']} · {report['articles']} test articles · profile {report['profile']}{warning}"


def _cell(score: dict) -> str:
    return f"{score['mean']:.1f} [{score['low']:.1f}, {score['high']:.1f}]"


def _page(report: dict, figure: Path) -> str:
    names = list(next(iter(report["scores"].values())))
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join(
        f"<tr><th>{escape(system)}</th>" + "".join(f"<td>{_cell(scores[name])}</td>" for name in names) + "</tr>"
        for system, scores in report["scores"].items()
    )
    image = base64.b64encode(figure.read_bytes()).decode() if figure.exists() else ""
    facts = {key: report[key] for key in ("settings", "student_minus", "prompt_tokens", "data_sha256", "versions", "git_commit", "made")}
    details = escape(json.dumps(facts, ensure_ascii=False, indent=1))
    return f"""<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Report</title>
<style>:root{{color-scheme:light dark}} body{{font:15px/1.6 system-ui,sans-serif;max-width:75rem;margin:2rem auto;padding:0 1rem}}
table{{border-collapse:collapse;display:block;overflow-x:auto}} td,th{{padding:.3rem .7rem;border-bottom:1px solid #8886;text-align:end}}
img{{max-width:100%;background:#fff}}</style>
<h1>{escape(_title(report))}</h1>
<p>Mean over the test articles, 0 to 100, with its 95 % interval (bootstrap over events). Free text: chrF++. Lists: F1.
An answer that is not a valid record scores zero.</p>
<table><tr><th></th>{head}</tr>{body}</table>
<p><img alt="scores per system with intervals" src="data:image/png;base64,{image}"></p>
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
