"""The first page of a run: what each notebook found, in one line from the files that it left, its cost, the scores, and links."""

import json
from html import escape
from pathlib import Path

import psutil
import torch

from workbook.dataset import read_jsonl
from workbook.distill import yield_by_reason
from workbook.report import frame

_STYLE = """:root{color-scheme:light dark} body{font:16px/1.6 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem}
h1{margin-bottom:0} div{overflow-x:auto} table{border-collapse:collapse;width:100%} td,th{padding:.5rem .7rem;border-bottom:1px solid #8886}
td,th{text-align:start;vertical-align:top} .scores td,.scores thead th,td+td+td{text-align:end;white-space:nowrap}
img{max-width:100%;background:#fff;border-radius:6px;margin-top:1.5rem} .warning{background:#ffd54a;color:#111;padding:.4rem .8rem}"""


def _json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def _tokens(run_dir: Path) -> str:
    costs = [f"{kinds['Arabic articles']:.1f} under {name}" for name, kinds in _json(run_dir / "tokens.json").items()]
    return f"Tokens that a word of Arabic news costs: {', '.join(costs)}."


def _obeyed(run_dir: Path) -> str:
    found = _json(run_dir / "base_vs_instruct.json")
    shown = []
    for name, system in {"base": "base, plain prompt", "the same weights with an adapter": "base + adapter, chat template"}.items():
        low, high = found["intervals_percent"][system]["obeys"]
        shown.append(f"{name} {100 * found['shares'][system]['obeys']:.0f} % [{low:.0f}, {high:.0f}]")
    return f"Obeyed, of {found['prompts']} prompts: {', '.join(shown)}."


def _kept(run_dir: Path) -> str:
    ledger = read_jsonl(run_dir / "ledger.jsonl")
    ended, spent = yield_by_reason(ledger), sum(line.get("usd") or 0 for line in ledger)
    kept, mended = sum(bool(line["accepted"]) for line in ledger), ended.get("accepted after repair", 0)
    return f"{kept} of {len(ledger)} rows became records, {mended} of them at the second attempt, for {spent:.3f} USD."


def _trained(run_dir: Path) -> str:
    losses = [row["eval_loss"] for row in read_jsonl(run_dir / "training.jsonl") if "eval_loss" in row]
    peaks = {name: parts["peak"] / 2**30 for name, parts in _json(run_dir / "memory.json")["predicted"].items()}
    peak = f"A training step holds {peaks['full']:.1f} GiB in full fine-tuning, {peaks['lora']:.1f} with LoRA."
    return f"Loss on validation rows: {losses[0]:.2f}, at best {min(losses):.2f}. {peak}"


def _scored(run_dir: Path) -> str:
    found = _json(run_dir / "report.json")
    means = [f"{system}: {scores['headline']['mean']:.1f}" for system, scores in found["scores"].items() if not system.startswith("floor")]
    return f"Mean of the field scores, of {found['articles']} test articles. {'; '.join(means)}."


FOUND = {"01_tokenizer": _tokens, "02_base_vs_instruct": _obeyed, "03_distill_data": _kept, "04_lora_train": _trained, "05_eval": _scored}


def found(name: str, run_dir: Path) -> str:
    """What the notebook `name` found, in one line; '' where it left no file, or has no such line."""
    try:
        return FOUND[name](run_dir)
    except (FileNotFoundError, KeyError, IndexError):  # another notebook, or a task that leaves other things
        return ""


def _title(notebook: Path) -> str:
    """The first line of a notebook, which is its title; else its name."""
    first = "".join(_json(notebook)["cells"][0]["source"]).partition("\n")[0]
    return first.removeprefix("# ") if first.startswith("# ") else notebook.stem


def _device() -> str:
    memory = f"{psutil.virtual_memory().total / 2**30:.0f} GiB of memory"
    return f"{torch.cuda.get_device_name() if torch.cuda.is_available() else f'{psutil.cpu_count()} CPU cores'}, {memory}"


def write(run_dir: Path, profile: str, notebooks: list[Path], done: dict, report: dict) -> Path:
    """Write run_dir/index.html and return its path. done: {notebook: seconds, peak_gib, finished}; report: that of notebook 05."""
    rows = ""
    for notebook in notebooks:
        facts, line = done[notebook.stem], escape(found(notebook.stem, run_dir))
        rows += f'<tr><td><a href="notebooks/{notebook.stem}.html">{escape(_title(notebook))}</a></td><td>{line}</td>'
        rows += f"<td>{facts['seconds'] / 60:.1f} min<br>{facts['peak_gib']:.1f} GiB</td></tr>"
    scores = {system: {report["columns"][name]: row[name] for name in report["headline"]} for system, row in report["scores"].items()}
    minutes, last = sum(facts["seconds"] for facts in done.values()) / 60, max(facts["finished"] for facts in done.values())
    warning = "" if report["meaningful"] else '<p class="warning">This run only shows that the code runs. Its scores are not results.</p>'
    image = '<img src="scores.png" alt="Scores of each system with their intervals">' if (run_dir / "scores.png").exists() else ""
    page = f"""<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Fine-tuning workbook: {profile}</title><style>{_STYLE}</style>
<h1>Fine-tuning workbook</h1><p>Profile {profile} · {last} · {escape(_device())} · {minutes:.1f} minutes in all</p>{warning}
<div><table><tr><th>Notebook</th><th>What it found</th><th></th></tr>{rows}</table></div>
<h2>{escape(report["task"])}: {report["articles"]} test articles, means with 95 % intervals</h2>
<div class="scores">{frame(scores).to_html(border=0)}</div>{image}
<p><a href="report.html">The whole report</a>, with real answers · <a href="report.json">the same as JSON</a></p>"""
    path = run_dir / "index.html"
    path.write_text(page, encoding="utf-8")
    return path
