"""The same work as an OpenAI Batch job, at half the price within a day: write the missing requests, submit them, collect the replies.

    python -m workbook.distill batch-write   --run-dir runs/gpu --teacher openai
    python -m workbook.distill batch-submit  --run-dir runs/gpu --teacher openai
    python -m workbook.distill batch-collect --run-dir runs/gpu --teacher openai

Collected replies go into the cache that notebook 03 reads, so its ledger counts them as any other. A reply that was refused is
asked for again by the next batch-write; when that finds nothing missing, run notebook 03. See
https://platform.openai.com/docs/guides/batch; any server with the same endpoints will do.
"""

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path

import openai

from workbook import cleaning
from workbook.cache import Cache, digest
from workbook.costs import PRICES_FROM, price_of
from workbook.dataset import read_jsonl, write_jsonl
from workbook.distill import walk
from workbook.tasks import TASKS, Task, load_task
from workbook.teacher import NO_COMPLETION, PROVIDER, Teacher, TeacherError, open_teacher, read_reply, reason

MOST_REQUESTS = 50_000  # in one batch, by OpenAI's limits
ENDED = ("completed", "failed", "expired", "cancelled")


def write(task: Task, rows: list[dict], teacher: Teacher, folder: Path, cache: Cache) -> list[Path]:
    """Write the requests that no reply on disk answers and no open job carries, at most `MOST_REQUESTS` a file; returns the files."""
    waiting = {row["custom_id"] for name, job in _jobs(folder).items() if not job["collected"] for row in read_jsonl(folder / name)}
    waiting |= {row["custom_id"] for path in _unsent(folder) for row in read_jsonl(path)}
    missing = {}
    for row in rows:
        _, request = walk(task, task.render(row), teacher, cache)
        if request is not None and digest(request) not in waiting:
            missing[digest(request)] = request
    lines = [{"custom_id": key, "method": "POST", "url": "/v1/chat/completions", "body": body} for key, body in missing.items()]
    number, files = len(list(folder.glob("requests-*.jsonl"))), []
    for first in range(0, len(lines), MOST_REQUESTS):
        number += 1
        files.append(write_jsonl(folder / f"requests-{number:03}.jsonl", lines[first : first + MOST_REQUESTS]))
    return files


def submit(client: openai.OpenAI, folder: Path) -> dict[str, str]:
    """Upload each file that was not submitted yet and start its job; returns {file: job id} of the new ones."""
    started, unknown = {}, [name for name, job in _jobs(folder).items() if job["id"] is None]
    if unknown:
        raise RuntimeError(
            f"{folder / 'jobs.json'}: {unknown[0]} was being submitted when it broke off; look at the provider's list of batches and "
            f"put its id there, or delete the entry if it has none"
        )
    for path in _unsent(folder):
        with path.open("rb") as stream:
            uploaded = client.files.create(file=stream, purpose="batch")
        _write_jobs(folder, _jobs(folder) | {path.name: {"id": None, "collected": False}})  # so that a break here starts no second job
        once = client.with_options(max_retries=0)
        job = once.batches.create(input_file_id=uploaded.id, endpoint="/v1/chat/completions", completion_window="24h")
        _write_jobs(folder, _jobs(folder) | {path.name: {"id": job.id, "collected": False}})
        started[path.name] = job.id
    return started


def collect(client: openai.OpenAI, folder: Path, cache: Cache) -> dict[str, dict]:
    """Put the replies of ended jobs into the cache; returns {file: {"status", "replies", "errors"}} of all jobs not collected before."""
    found = {}
    for name, job in _jobs(folder).items():
        if job["collected"] or job["id"] is None:
            continue
        state = client.batches.retrieve(job["id"])
        found[name] = {"status": state.status, "replies": 0, "errors": 0}
        if state.status not in ENDED:
            continue
        requests = {row["custom_id"]: row["body"] for row in read_jsonl(folder / name)}
        for file_id in filter(None, (state.output_file_id, state.error_file_id)):
            for line in filter(str.strip, client.files.content(file_id).text.split("\n")):
                answer = json.loads(line)
                request, response = requests[answer["custom_id"]], answer.get("response") or {}
                if response.get("status_code") != 200:
                    found[name]["errors"] += 1
                elif cache.get(request) is None:
                    try:
                        reply = read_reply(response["body"], 0.0, "schema")
                    except NO_COMPLETION:
                        found[name]["errors"] += 1
                        continue
                    cache.add(request, replace(reply, batch=True))
                    found[name]["replies"] += 1
        _write_jobs(folder, _jobs(folder) | {name: job | {"collected": True}})
    return found


def _jobs(folder: Path) -> dict[str, dict]:
    path = folder / "jobs.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _write_jobs(folder: Path, jobs: dict) -> None:
    temporary = folder / "jobs.tmp"
    temporary.write_text(json.dumps(jobs, indent=1))
    os.replace(temporary, folder / "jobs.json")


def _unsent(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob("requests-*.jsonl")) if path.name not in _jobs(folder)]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m workbook.distill", description="Label articles through a batch queue.")
    parser.add_argument("command", choices=["batch-write", "batch-submit", "batch-collect"])
    parser.add_argument("--run-dir", type=Path, required=True, help="the run folder that notebook 03 uses")
    parser.add_argument("--task", default="article_digest", help=f"{' | '.join(TASKS)} | package.module:TASK")
    parser.add_argument("--data", default="", help="JSONL file of rows, instead of the task's own")
    parser.add_argument("--teacher", default="openai", help="openai, or local for a server with the same endpoints")
    options = parser.parse_args()
    try:
        _run(options)
    except (TeacherError, ValueError, OSError, RuntimeError) as error:
        raise SystemExit(str(error)) from None
    except openai.APIError as error:
        raise SystemExit(f"teacher {options.teacher}: {reason(error)}; run the command again") from None


def _run(options: argparse.Namespace) -> None:
    task = load_task(options.task, options.data)
    if options.teacher == "recorded":
        raise ValueError("--teacher: recorded replies need no batch; take openai or local")
    teacher, folder = open_teacher(options.teacher, task), options.run_dir / "batch"
    folder.mkdir(parents=True, exist_ok=True)
    cache = Cache(options.run_dir / "teacher_cache.jsonl")
    client = openai.OpenAI(**teacher.client)
    with cache.lock():
        if options.command == "batch-write":
            raw, _ = cleaning.read_raw(task.raw or task.data)
            rows, refused = cleaning.clean(task, raw)
            files = write(task, rows, teacher, folder, cache)
            print(f"{len(rows)} rows worth a call, {len(refused)} dropped by cleaning")
            print("\n".join(f"wrote {path} ({len(read_jsonl(path))} requests)" for path in files) or "nothing is missing: run notebook 03")
            if files and options.teacher in PROVIDER:
                price = price_of(teacher.model, PROVIDER[options.teacher], batch=True)
                print(f"batch price: {price.usd_in:g} and {price.usd_out:g} USD per million tokens in and out ({PRICES_FROM})")
        elif options.command == "batch-submit":
            started = submit(client, folder)
            print("\n".join(f"submitted {name} as {job}" for name, job in started.items()) or "no file to submit: run batch-write first")
        else:
            found = collect(client, folder, cache)
            for name, state in found.items():
                print(f"{name}: {state['status']}, {state['replies']} replies kept, {state['errors']} errors")
            print("now: batch-write for what is still missing, then notebook 03" if found else "no job is open: run batch-submit first")
