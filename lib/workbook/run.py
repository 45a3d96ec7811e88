"""Run the five notebooks in order: `python -m workbook.run --profile laptop`. Finished ones are kept, a failed one is where it resumes."""

import argparse
import hashlib
import json
import os
import shutil
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import papermill
import psutil
from nbconvert import HTMLExporter
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError

from workbook import overview
from workbook.models import ALIASES, PACKAGED, ModelError, packaged_folder
from workbook.profiles import ROOT, Profile, load_profile
from workbook.report import headline

NOTEBOOKS = sorted((ROOT / "notebooks").glob("0*.ipynb"))


class Line:
    """One live line: notebook, cell i of n, seconds. On a terminal it ticks; in a log it prints start and end.

    peak: the most memory, in bytes, that the notebook's processes held together, looked at once a second.
    """

    def __init__(self, name: str):
        self.name, self.cell, self.cells, self.begun, self.peak = name, 0, 0, time.monotonic(), 0
        self.live, self.ended = sys.stdout.isatty(), threading.Event()
        threading.Thread(target=self._tick, daemon=True).start()
        if not self.live:
            print(f"{name:24} started", flush=True)

    def _text(self) -> str:
        minutes, seconds = divmod(int(time.monotonic() - self.begun), 60)
        return f"{self.name:24} cell {self.cell:2} of {self.cells:2}   {minutes}:{seconds:02}"

    def _tick(self) -> None:
        while not self.ended.wait(1):
            self.peak = max(self.peak, sum(_resident(child) for child in psutil.Process().children(recursive=True)))
            if self.live:
                print(f"\r{self._text()}", end="", flush=True)

    def end(self, word: str) -> None:
        self.ended.set()
        print(f"{chr(13) if self.live else ''}{self._text()}   {word}", flush=True)


def _resident(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.Error:  # it ended between the two calls
        return 0


class LiveEngine(NBClientEngine):
    """Papermill's own engine, telling the live line which cell begins."""

    line: Line

    @classmethod
    def execute_managed_notebook(cls, nb_man, kernel_name, **kwargs):
        begin = nb_man.cell_start
        cls.line.cells = len(nb_man.nb.cells)

        def cell_start(cell, cell_index=None, **more):
            cls.line.cell = (cell_index or 0) + 1
            return begin(cell, cell_index=cell_index, **more)

        nb_man.cell_start = cell_start
        return super().execute_managed_notebook(nb_man, kernel_name, **kwargs)


papermill_engines.register("live", LiveEngine)


def fingerprints(parameters: dict) -> dict[str, str]:
    """{notebook: a hash of all that decides its result}: the library, the data, the parameters, and the notebooks up to it."""
    digest = hashlib.sha256(json.dumps(parameters, sort_keys=True).encode())
    inputs = [*(ROOT / "lib" / "workbook").glob("*.py"), *(ROOT / "data").rglob("*"), *ROOT.glob("*.txt")]
    for file in sorted(path for path in inputs if path.is_file() and "samples" not in path.parts):
        digest.update(file.name.encode() + file.read_bytes())
    prints = {}
    for notebook in NOTEBOOKS:
        digest.update(notebook.read_bytes())
        prints[notebook.stem] = digest.hexdigest()
    return prints


def prepare(profile: Profile) -> None:
    """Convert the packaged models that the profile names, once, where the progress bar can be seen. Raises ModelError."""
    for name in (profile.base, profile.instruct):
        if ALIASES.get(name, name) in PACKAGED:
            packaged_folder(ALIASES.get(name, name))


def run(profile: str, run_dir: Path, *, fresh: bool = False) -> int:
    """Execute, convert and index the notebooks; returns the exit code: 0, or 1 when a cell failed."""
    if fresh and run_dir.exists():
        shutil.rmtree(run_dir)
    executed = run_dir / "notebooks"
    executed.mkdir(parents=True, exist_ok=True)
    parameters = {"profile": profile, "run_dir": str(run_dir)}
    wanted, done_file = fingerprints(parameters), run_dir / "done.json"
    done = json.loads(done_file.read_text()) if done_file.exists() else {}
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    for notebook in NOTEBOOKS:
        name = notebook.stem
        if done.get(name, {}).get("fingerprint") == wanted[name]:
            print(f"{name:24} finished {done[name]['finished']}, kept", flush=True)
            continue
        LiveEngine.line = Line(name)
        try:
            papermill.execute_notebook(
                notebook,
                executed / f"{name}.ipynb",
                parameters,
                engine_name="live",
                kernel_name="python3",
                progress_bar=False,
                extra_arguments=["--IPKernelApp.log_level=40"],  # no notice about unencrypted loopback sockets
            )
        except PapermillExecutionError as error:
            LiveEngine.line.end("failed")
            cell = LiveEngine.line.cell
            print(f"notebook  {name}: {executed / f'{name}.ipynb'}\ncell      {cell}: {_first_line(error.source)}")
            print(f"error     {error.ename}: {_first_line(error.evalue)}")
            return 1
        LiveEngine.line.end("done")
        _to_html(executed / f"{name}.ipynb")
        finished = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
        seconds = round(time.monotonic() - LiveEngine.line.begun, 1)
        done[name] = {
            "fingerprint": wanted[name],
            "finished": finished,
            "seconds": seconds,
            "peak_gib": round(LiveEngine.line.peak / 2**30, 2),
        }
        temporary = done_file.with_suffix(".tmp")
        temporary.write_text(json.dumps(done, indent=1))
        os.replace(temporary, done_file)
    report = json.loads((run_dir / "report.json").read_text(encoding="utf-8"))
    index = overview.write(run_dir, profile, NOTEBOOKS, done, report)
    print(f"\n{headline(report)}\n\nopen {index}")
    return 0


def _first_line(text: str) -> str:
    return next((line for line in str(text).splitlines() if line.strip() and not line.lstrip().startswith("#")), "")[:300]


def _to_html(notebook: Path) -> None:
    body, _ = HTMLExporter(template_name="lab").from_filename(str(notebook))
    notebook.with_suffix(".html").write_text(body, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Run the five notebooks in order.")
    parser.add_argument("--profile", default="laptop")
    parser.add_argument("--run-dir", type=Path, help="default: runs/<profile> in the repository")
    parser.add_argument("--fresh", action="store_true", help="forget what an earlier run finished")
    options = parser.parse_args()
    try:
        profile = load_profile(options.profile, run_dir=options.run_dir)
        prepare(profile)
    except (ValueError, ModelError) as error:
        raise SystemExit(str(error)) from None
    raise SystemExit(run(profile.name, profile.run_dir, fresh=options.fresh))


if __name__ == "__main__":
    main()
