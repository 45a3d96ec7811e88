"""Take what the repository shows and carries from a finished run: `python benchmarks/publish.py runs/laptop`.

Writes data/samples/ (training files and adapter, so that each notebook runs alone), docs/scores.png, docs/report.json with the times
of the run, from it the two tables between their marks in README.md, and the line "Measured" of each notebook. The adapter's numbers
are stored in bfloat16, which halves its file.
With a second folder, `python benchmarks/publish.py runs/intake data/intake_adapter`, only the run's adapter is stored there.
"""

import json
import re
import shutil
import sys
from pathlib import Path

from safetensors.torch import load_file, save_file

ROOT = Path(__file__).parents[1]


def samples(run: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(run / "distilled", target / "distilled")
    store_adapter(run / "adapter", target / "adapter")


def store_adapter(adapter: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    shutil.copy(adapter / "adapter_config.json", target)
    weights = {name: tensor.bfloat16() for name, tensor in load_file(adapter / "adapter_model.safetensors").items()}
    save_file(weights, target / "adapter_model.safetensors", metadata={"format": "pt"})


def score_table(report: dict) -> str:
    names = report["headline"]
    lines = [f"| {report['articles']} test articles | " + " | ".join(report["columns"][name] for name in names) + " | grounded % |"]
    lines.append("|---|" + "---|" * (len(names) + 1))
    for system, scores in report["scores"].items():
        cells = (f"{scores[n]['mean']:.1f} [{scores[n]['low']:.1f}, {scores[n]['high']:.1f}]" for n in names)
        grounded = report["funnel"][system]["grounded"][1]
        lines.append(f"| {system} | " + " | ".join(cells) + f" | {grounded:.0f} |")
    return "\n".join(lines)


def time_table(done: dict) -> str:
    lines = ["| notebook | minutes | peak memory |", "|---|---|---|"]
    for name, facts in done.items():
        lines.append(f"| {name} | {facts['seconds'] / 60:.1f} | {facts['peak_gib']:.1f} GiB |")
    lines.append(f"| all five | {sum(facts['seconds'] for facts in done.values()) / 60:.1f} | |")
    return "\n".join(lines)


def tables(report: dict) -> dict[str, str]:
    """{mark in the README: the table that belongs there}, from docs/report.json alone."""
    return {"scores": score_table(report), "times": time_table(report["times"])}


def fill(path: Path, mark: str, content: str) -> str:
    """The text of `path` with `content` between <!-- mark --> and <!-- /mark -->."""
    mould, text = f"(<!-- {mark} -->\n).*?(\n<!-- /{mark} -->)", path.read_text(encoding="utf-8")
    filled, times = re.subn(mould, lambda m: m[1] + content + m[2], text, flags=re.DOTALL)
    if times != 1:
        raise SystemExit(f"{path.name}: expected the mark <!-- {mark} --> once, found it {times} times")
    return filled


def measured(notebook: Path, facts: dict, profile: str) -> None:
    """Write a notebook's minutes and peak memory into its first cell."""
    content = json.loads(notebook.read_text(encoding="utf-8"))
    line = f"**Measured:** {facts['seconds'] / 60:.1f} minutes, {facts['peak_gib']:.1f} GiB of memory, in `{profile}` on two CPU cores.\n"
    source = content["cells"][0]["source"]
    content["cells"][0]["source"] = [line if part.startswith("**Measured:**") else part for part in source]
    notebook.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def publish(run: Path, root: Path = ROOT) -> None:
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    if not report["meaningful"]:
        raise SystemExit(f"{run}: a smoke run is not a result; run another profile")
    done = json.loads((run / "done.json").read_text(encoding="utf-8"))
    report["times"] = {name: {"seconds": facts["seconds"], "peak_gib": facts["peak_gib"]} for name, facts in done.items()}
    samples(run, root / "data" / "samples")
    shutil.copy(run / "scores.png", root / "docs" / "scores.png")
    (root / "docs" / "report.json").write_text(json.dumps(report, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    for name, facts in done.items():
        measured(root / "notebooks" / f"{name}.ipynb", facts, report["profile"])
    for mark, content in tables(report).items():
        (root / "README.md").write_text(fill(root / "README.md", mark, content), encoding="utf-8")


def main() -> None:
    if len(sys.argv) not in (2, 3):
        raise SystemExit("usage: python benchmarks/publish.py RUN_FOLDER [FOLDER_FOR_ITS_ADAPTER]")
    run = Path(sys.argv[1])
    if len(sys.argv) == 3:
        return store_adapter(run / "adapter", Path(sys.argv[2]))
    publish(run)


if __name__ == "__main__":
    main()
