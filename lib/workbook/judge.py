"""A language model as a judge of two systems: blinded, asked in both orders, and itself scored against the gold labels.

Such judges favour what stands first, what is long, and what is like their own writing (https://arxiv.org/abs/2306.05685). So the
systems are called A and B, every pair is asked twice with the places changed, and a choice that changes with the place counts for none.
"""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from workbook.cache import Cache
from workbook.dataset import source_of
from workbook.distill import ask_once
from workbook.intervals import interval
from workbook.metrics import parse
from workbook.tasks import Task
from workbook.teacher import Teacher, TeacherError

INSTRUCTIONS = """Two systems, A and B, were asked to turn the same text into a JSON record. Say which record is the better one.
Judge what is right, complete and supported by the text. Length, style and the order of A and B do not count.
Reply with one JSON object: {"better": "A"}, {"better": "B"} or {"better": "equal"}."""


class Verdict(BaseModel):
    model_config = ConfigDict(extra="forbid")

    better: Literal["A", "B", "equal"]


def choice(teacher: Teacher, cache: Cache, source: str, first: str, second: str) -> str:
    """'A', 'B' or 'equal' for two answers to one text, unnamed. Raises TeacherError for a reply that is no verdict."""
    asked = f"Text:\n{source}\n\nA:\n{first}\n\nB:\n{second}"
    messages = [{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": asked}]
    reply, _ = ask_once(teacher, cache, messages, Verdict)
    verdict = parse(reply.text, Verdict)
    if verdict is None:
        raise TeacherError(f"judge {teacher.name}: {reply.text[:80]!r} is no verdict; take another judge")
    return verdict.better


def settled(straight: str, changed: str) -> int:
    """1 if the first system won in both orders, -1 if the second did, else 0: a tie, or a choice that went with the place."""
    return {("A", "B"): 1, ("B", "A"): -1}.get((straight, changed), 0)


def compare(
    task: Task,
    rows: list[dict],
    answers: tuple[list[str], list[str]],
    scores: tuple[list[float], list[float]],
    teacher: Teacher,
    run_dir: Path,
) -> dict:
    """What the judge thinks of two systems' answers to `rows`, and how far to believe it.

    scores: both systems' headline scores against gold, by row. Returns {"first wins", "second wins", "undecided", "changed with the
    place": rows; "agrees with gold": (percent, low, high) of the pairs in which both the judge and gold prefer one, "of pairs"}.
    Verdicts are kept in run_dir/judge_cache.jsonl: none is paid for twice. Raises TeacherError.
    """
    cache = Cache(run_dir / "judge_cache.jsonl")
    orders = []
    for row, first, second in zip(rows, *answers, strict=True):
        source = task.render(row)
        orders.append((choice(teacher, cache, source, first, second), choice(teacher, cache, source, second, first)))
    votes = [settled(*pair) for pair in orders]
    gold = [(mine > theirs) - (mine < theirs) for mine, theirs in zip(*scores, strict=True)]
    agree = [100.0 * (vote == true) for vote, true in zip(votes, gold, strict=True)]
    both = [int(vote != 0 and true != 0) for vote, true in zip(votes, gold, strict=True)]
    return {
        "first wins": votes.count(1),
        "second wins": votes.count(-1),
        "undecided": votes.count(0),
        "changed with the place": sum(pair in {("A", "A"), ("B", "B")} for pair in orders),
        "agrees with gold": interval(agree, [source_of(row) for row in rows], weights=both),
        "of pairs": sum(both),
    }
