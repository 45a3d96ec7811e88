"""How many records a second does a served student make? `python benchmarks/load.py`

Starts the server of `workbook.serve` on loopback, twice: as it is, and with continuous batching, which puts requests that come
together into one batch. Each is asked for digests of held-out articles by 1, 4 and 16 clients at once, through the teacher's client.
A client asks its next article when it has the answer to the last one. One request goes ahead and is not timed. With --url, a server
that runs on this machine already is measured instead, vLLM for instance.

Every level is bounded in requests and in seconds: after them no request is begun, those under way are waited for. *Valid* is an
answer that ended by itself and fits the schema. *Same* is an answer with the very text that the first level gave for its article.
Writes docs/load.json and the table between its marks in docs/serving.md; about 10 minutes on two idle cores.
"""

import argparse
import asyncio
import json
import os
import statistics
import time
from contextlib import ExitStack, nullcontext
from pathlib import Path
from urllib.parse import urlsplit

from publish import ROOT, fill
from pydantic import ValidationError

from workbook import dataset, serve
from workbook.tasks import ARTICLE_DIGEST as TASK
from workbook.teacher import Teacher, TeacherError, open_teacher

MODES = {"one request at a time": False, "continuous batching": True}
HEADS = ("server", "clients", "valid records/s", "p50 latency", "p95 latency", "valid", "failed", "same")
LONGEST_WAIT = 600  # seconds for one answer


def client_of(url: str, model: str) -> Teacher:
    """The teacher's client, which waits longer here and never asks twice: what fails is counted."""
    teacher = open_teacher("local", TASK, {"WORKBOOK_TEACHER_URL": url, "WORKBOOK_TEACHER_MODEL": model})
    teacher.client |= {"timeout": LONGEST_WAIT, "max_retries": 0}
    return teacher


async def load(teacher: Teacher, prompts: list[str], clients: int, seconds: float) -> dict:
    """{"seconds", "replies": [(prompt, reply)], "failures"} of `clients` that work through `prompts` together."""
    waiting, replies, failures, begun = iter(prompts), [], [], time.perf_counter()

    async def work(connection) -> None:
        for prompt in waiting:
            if time.perf_counter() - begun > seconds:
                return
            try:
                request = teacher.request([{"role": "user", "content": prompt}], TASK.schema)
                replies.append((prompt, await teacher.send(connection, request)))
            except TeacherError as error:
                failures.append(str(error))

    async with teacher.connect() as connection:
        await asyncio.gather(*(work(connection) for _ in range(clients)))
    return {"seconds": time.perf_counter() - begun, "replies": replies, "failures": failures}


def is_valid(reply) -> bool:
    try:
        TASK.schema.model_validate_json(reply.text)
    except ValidationError:
        return False
    return reply.finish_reason == "stop"


def summary(mode: str, clients: int, found: dict, first: dict[str, str]) -> dict:
    """One row of the table. first: {prompt: text} of the first level."""
    valid = sum(is_valid(reply) for _, reply in found["replies"])
    waits = sorted(reply.seconds for _, reply in found["replies"]) or [float("nan")]
    return {
        "server": mode,
        "clients": clients,
        "valid_per_second": valid / found["seconds"],
        "p50_seconds": statistics.median(waits),
        "p95_seconds": waits[min(len(waits) - 1, round(0.95 * len(waits)))],
        "answers": len(found["replies"]),
        "valid": valid,
        "same": sum(first[prompt] == reply.text for prompt, reply in found["replies"] if prompt in first),
        "failures": found["failures"],
    }


def table(entries: list[dict]) -> str:
    lines = [HEADS, ["---"] * len(HEADS)]
    for one in entries:
        times = [f"{one['valid_per_second']:.2f}", f"{one['p50_seconds']:.1f} s", f"{one['p95_seconds']:.1f} s"]
        counts = [f"{one['valid']} of {one['answers']}", str(len(one["failures"])), f"{one['same']} of {one['answers']}"]
        lines.append([one["server"], str(one["clients"]), *times, *counts])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def measure(options, prompts: list[str]) -> list[dict]:
    folder = None if options.url else serve.merge(options.adapter)
    modes = {options.url: None} if options.url else MODES
    entries, first = [], {}
    for mode, batching in modes.items():
        with ExitStack() as stack:
            url = stack.enter_context(nullcontext(options.url) if options.url else serve.serving(folder, batching=batching))
            teacher = client_of(url, options.model)
            asyncio.run(load(teacher, prompts[:1], 1, options.seconds))
            for clients in options.clients:
                found = asyncio.run(load(teacher, prompts, clients, options.seconds))
                first = first or {prompt: reply.text for prompt, reply in found["replies"]}
                entries.append(summary(mode, clients, found, first))
                print(table(entries[-1:]).splitlines()[-1], flush=True)
    return entries


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--adapter", type=Path, default=ROOT / "data" / "samples" / "adapter")
    parser.add_argument("--url", help="of a server on this machine, such as http://127.0.0.1:8000/v1")
    parser.add_argument("--model", default=serve.NAME, help="what that server calls the student")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--requests", type=int, default=32, help="at each level; the articles are repeated if there are fewer")
    parser.add_argument("--seconds", type=float, default=90, help="after which a level begins no more requests")
    parser.add_argument("--data", type=Path, default=ROOT / "data" / "samples" / "distilled" / "test.jsonl")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="folder for load.json, and the table if serving.md is there")
    options = parser.parse_args()
    if options.url and urlsplit(options.url).hostname not in ("127.0.0.1", "localhost", "::1"):
        raise SystemExit(f"--url: {options.url} is not on this machine; a load test may only press a server of your own")
    asked = [row["prompt"] for row in dataset.read_distilled(TASK, options.data)]
    prompts = [asked[number % len(asked)] for number in range(options.requests)]
    entries = measure(options, prompts)
    about = {"cores": os.cpu_count(), "articles": min(len(asked), options.requests), "requests": options.requests}
    (options.docs / "load.json").write_text(json.dumps(about | {"levels": entries}, indent=1) + "\n")
    page = options.docs / "serving.md"
    if page.exists():
        page.write_text(fill(page, "load", table(entries)), encoding="utf-8")
    print(table(entries))


if __name__ == "__main__":
    main()
