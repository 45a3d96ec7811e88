"""Articles to labels: every reply is on disk before it is used, and every article is accounted for in a ledger."""

import json
import sys
from collections import Counter, defaultdict, deque
from pathlib import Path

import anyio
from aiolimiter import AsyncLimiter
from anyio.from_thread import start_blocking_portal
from pydantic import BaseModel, ValidationError
from tqdm import tqdm

from workbook.cache import Cache, Reply
from workbook.costs import Budget, Price, most_tokens
from workbook.dataset import source_of, write_jsonl
from workbook.tasks import Task
from workbook.teacher import RowError, Teacher, TeacherError, messages_for


def judge(task: Task, reply: Reply, source: str) -> tuple[BaseModel | None, str, str]:
    """(record, "", "") for a reply that can be used, else (None, reason, complaint that says what to mend).

    Reasons: truncated, refusal, parse, schema, language, ungrounded.
    """
    if reply.finish_reason == "length":
        return None, "truncated", "it was cut off before its end"
    try:
        record = task.schema.model_validate(json.loads(reply.text))
    except json.JSONDecodeError as error:
        reason = "parse" if "{" in reply.text else "refusal"
        return None, reason, f"it is not a JSON object alone ({error.msg} at character {error.pos})"
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        return None, "schema", faults
    if wrong := task.wrong_language(record):
        return None, "language", f"{', '.join(wrong)}: not in the language asked for"
    if missing := task.ungrounded(record, source) + task.invented_numbers(record, source):
        return None, "ungrounded", f"not in the text: {', '.join(missing)}"
    return record, "", ""


def walk(task: Task, source: str, teacher: Teacher, cache: Cache, attempts: int = 2) -> tuple[dict, dict | None]:
    """(what the replies on disk say of one text, the request still missing): the request is None once the text is settled.

    A refused reply is sent back with the complaint, at most `attempts` times in all. The notebook's loop and the batch job
    (`batch.py`) both go by this, so a reply counts the same wherever it came from.
    """
    line = {"accepted": False, "reasons": [], "attempts": 0, "prompt_tokens": 0, "completion_tokens": 0}
    line |= {"usd": 0.0, "seconds": 0.0, "structured": "", "record": None}
    messages = messages_for(task, source)
    while line["attempts"] < attempts and not line["accepted"]:
        request = teacher.request(messages, task.schema)
        if (reply := cache.get(request)) is None:
            return line, request
        record, reason, complaint = judge(task, reply, source)
        line["attempts"] += 1
        line["prompt_tokens"] += reply.prompt_tokens
        line["completion_tokens"] += reply.completion_tokens
        line["usd"] += charged(reply, teacher.price)
        line["seconds"] = round(line["seconds"] + reply.seconds, 3)
        line["structured"] = reply.structured
        if record is not None:
            line |= {"accepted": True, "record": record.model_dump(mode="json")}
        else:
            line["reasons"] = [*line["reasons"], reason]
            messages = messages_for(task, source, reply.text, complaint)
    return line, None


def distill(
    task: Task,
    rows: list[dict],
    teacher: Teacher,
    run_dir: Path,
    *,
    refused: dict[str, str] | None = None,
    attempts: int = 2,
    budget_usd: float = 0,
    concurrency: int = 8,
    requests_per_minute: float = 500,
    tokens_per_minute: float = 200_000,
    progress: bool = True,
) -> list[dict]:
    """Label `rows` and write run_dir/ledger.jsonl, one line per row; returns its lines.

    A line: id, source, words, accepted, reasons (one per refused reply), attempts, prompt_tokens, completion_tokens and usd (over
    all attempts, what an earlier run paid included), seconds the server took, structured ('schema', or 'prompt' where the server
    refused to be held to one), requests sent now, record.
    refused: {id: reason} of rows that cleaning dropped; they get a line too. budget_usd: the sum that all replies in this folder
    may cost, 0 for none. The two limits per minute are the provider's; a token counts when its request starts, at the most it can be.

    Replies are kept in run_dir/teacher_cache.jsonl: a second run asks nothing, and a run that was killed goes on where it stopped.
    Raises TeacherError when the teacher cannot go on or the budget does not allow the next request; what is on its way
    is waited for and kept, also when the notebook is interrupted, and the ledger says which rows were not asked. Raises ValueError
    for a limit below 1.
    """
    if min(requests_per_minute, tokens_per_minute, concurrency) < 1:
        raise ValueError("requests_per_minute, tokens_per_minute and concurrency: give at least 1")
    cache = Cache(run_dir / "teacher_cache.jsonl")
    with cache.lock():
        budget = Budget(budget_usd, teacher.price, paid(cache, teacher.price))
        sources = {row["id"]: task.render(row) for row in rows}
        lines = {row["id"]: _head(row, sources[row["id"]]) for row in rows}
        bar = tqdm(total=len(rows), desc=f"teacher {teacher.name}", unit="row", disable=not progress, mininterval=1, file=sys.stdout)
        free = teacher.name == "recorded"  # its server is this process
        limits = [AsyncLimiter(float("inf") if free else most, 60) for most in (requests_per_minute, tokens_per_minute)]
        work = _Work(task, teacher, cache, budget, limits, sources, lines, bar, attempts)
        try:
            with start_blocking_portal() as portal:
                running = portal.start_task_soon(work.run, concurrency)
                try:
                    running.result()
                except KeyboardInterrupt:
                    work.stopped = "interrupted"
                    running.result()  # a second interrupt does not wait
                    raise
        finally:
            bar.close()
            dropped = [_head({"id": key}, "") | {"reasons": [why]} for key, why in (refused or {}).items()]
            ledger = [*lines.values(), *dropped]
            write_jsonl(run_dir / "ledger.jsonl", ledger)
    if work.stopped:
        done = sum(bool(line["accepted"] or line["reasons"]) for line in lines.values())
        raise TeacherError(f"{work.stopped}; {done} of {len(rows)} rows are settled and kept for the next run")
    return ledger


def _head(row: dict, source: str) -> dict:
    line = {"id": row["id"], "source": source_of(row), "words": len(source.split()), "accepted": False, "reasons": [], "attempts": 0}
    return line | {
        "prompt_tokens": 0,
        "completion_tokens": 0,
        "usd": 0.0,
        "seconds": 0.0,
        "structured": "",
        "sent": 0,
        "record": None,
    }


class _Work:
    """The rows still to label, shared by a few workers; `stopped` says why no new request starts, '' if all is well."""

    def __init__(self, task, teacher, cache, budget, limits, sources, lines, bar, attempts):
        self.task, self.teacher, self.cache, self.budget, self.limits = task, teacher, cache, budget, limits
        self.sources, self.lines, self.bar, self.attempts = sources, lines, bar, attempts
        self.waiting, self.stopped, self.locks = deque(lines), "", defaultdict(anyio.Lock)

    async def run(self, concurrency: int) -> None:
        async with self.teacher.connect() as client, anyio.create_task_group() as group:
            for _ in range(concurrency):
                group.start_soon(self._worker, client)

    async def _worker(self, client) -> None:
        while self.waiting and not self.stopped:
            key = self.waiting.popleft()
            async with self.locks[self.sources[key]]:  # rows with the same text ask once
                await self._label(client, key)
            self.bar.set_postfix_str(f"{self.budget.spent:.4f} USD", refresh=False)
            self.bar.update()

    async def _label(self, client, key: str) -> None:
        """Settle one row: send what is missing, one request after the other, until it is accepted or given up."""
        sent = 0
        while True:
            known, request = walk(self.task, self.sources[key], self.teacher, self.cache, self.attempts)
            self.lines[key] |= known | {"sent": sent}
            if request is None or self.stopped:
                return
            try:
                await self._send(client, request)
            except RowError as error:
                self.lines[key]["reasons"] = [*known["reasons"], "not_taken"]
                self.bar.write(f"{key}: {error}", file=sys.stdout)
                return
            except TeacherError as error:
                self.stopped = self.stopped or str(error)
                return
            except Exception as error:  # a full disk, say: let the others finish and keep what they get
                self.stopped = self.stopped or f"{type(error).__name__}: {error}"
                return
            sent += 1

    async def _send(self, client, request: dict) -> None:
        """Send within the limits and the budget; the reply is in the cache when this returns. Raises TeacherError."""
        by_request, by_token = self.limits
        for limiter, share in ((by_request, 1), (by_token, min(sum(most_tokens(request)), by_token.max_rate))):
            while not limiter.has_capacity(share) and not self.stopped:
                await anyio.sleep(0.1)
            if self.stopped:
                raise TeacherError(self.stopped)
            await limiter.acquire(share)
        amount = self.budget.reserve(request)
        if amount is None:
            limit, spent = f"budget_usd {self.budget.usd:g}", self.budget.spent + self.budget.on_the_way
            raise TeacherError(f"{limit}: the next request could pass it (spent, or on its way: {spent:.4f} USD); raise it and run again")
        reply = Reply("", "", 0, 0)
        try:
            reply = await self.teacher.send(client, request)
            self.cache.add(request, reply)
        finally:
            self.budget.settle(amount, reply.prompt_tokens, reply.completion_tokens)


def paid(cache: Cache, price: Price) -> float:
    """What all replies in the cache cost, in USD."""
    return sum(charged(reply, price) for reply in cache.replies.values())


def charged(reply: Reply, price: Price) -> float:
    """What one reply cost, in USD; a batch queue charges half."""
    return price.usd(reply.prompt_tokens, reply.completion_tokens) / (2 if reply.batch else 1)


def ask_once(teacher: Teacher, cache: Cache, messages: list[dict], schema: type[BaseModel]) -> tuple[Reply, bool]:
    """(the teacher's reply to `messages`, whether it came from the cache); a new reply is on the disk before it is returned."""
    request = teacher.request(messages, schema)
    if (reply := cache.get(request)) is not None:
        return reply, True
    with cache.lock():
        if cache.get(request) is None:
            cache.add(request, teacher.ask(request))
    return cache.get(request), False


def estimate(task: Task, rows: list[dict], teacher: Teacher, run_dir: Path, tokenizer) -> dict:
    """What labelling `rows` will take, before the first call: requests, known (on disk already), tokens in and out, usd.

    Prompt tokens are counted with `tokenizer`, which need not be the teacher's. A reply is taken to be as long as the known
    replies are, or as long as its text where none is known; second attempts are not foreseen. why_again: {'schema': n, ...} for texts
    that are on disk under another model, instruction, schema or decoding.
    """
    cache, asked, again, known = Cache(run_dir / "teacher_cache.jsonl"), [], Counter(), 0
    for row in rows:
        line, request = walk(task, task.render(row), teacher, cache)
        known += request is None
        if request is not None:
            asked.append("\n".join(message["content"] for message in request["messages"]))
            again.update(cache.changed(request) if not line["attempts"] else [])
    count = lambda texts: sum(len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]) if texts else 0  # noqa: E731
    replies = [reply.completion_tokens for reply in cache.replies.values()]
    shared = count([task.system_prompt()]) * len(asked)
    tokens_in = count(asked)
    tokens_out = len(asked) * sum(replies) / len(replies) if replies else tokens_in - shared
    found = {"requests": len(asked), "known": known, "tokens_in": tokens_in, "tokens_out": round(tokens_out)}
    return found | {"usd": teacher.price.usd(tokens_in, tokens_out), "why_again": dict(again)}


def yield_by_reason(ledger: list[dict]) -> dict[str, int]:
    """How many rows ended how: 'accepted', 'accepted after repair', 'not asked', or 'refused: ' and the last reason."""
    return dict(Counter(map(outcome, ledger)).most_common())


def outcome(line: dict) -> str:
    """How one line of the ledger ended."""
    if line["accepted"]:
        return "accepted" if line["attempts"] == 1 else "accepted after repair"
    return f"refused: {line['reasons'][-1]}" if line["reasons"] else "not asked"


def main() -> None:
    from workbook import batch  # it needs this module

    batch.main()


if __name__ == "__main__":
    main()
