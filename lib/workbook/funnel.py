"""Where answers are lost on their way to a record that can be used: parsed, repaired, fitting, in its language, whole, grounded."""

import json

import json_repair

from workbook.distill import judge
from workbook.tasks import Task
from workbook.teacher import Reply

STAGES = ["parses", "after repair", "fits the schema", "right language", "not truncated", "grounded"]
_REACHED = {"refusal": 0, "parse": 0, "schema": 2, "language": 3, "ungrounded": 5, "": 6}  # the reason of `judge`: stages passed


def repaired(answer: str) -> str:
    """`answer` as the text of one JSON object, text around it dropped and what was left open closed; '' if none can be made of it.

    The library guesses, so a repaired record is counted here and never scored (https://github.com/mangiucugna/json_repair).
    """
    try:
        found = json_repair.loads(answer)
        return json.dumps(found, ensure_ascii=False) if isinstance(found, dict) and found else ""
    except (ValueError, RecursionError):
        return ""


def parses(answer: str) -> bool:
    """Whether the whole answer is one JSON object."""
    try:
        return isinstance(json.loads(answer), dict)
    except (ValueError, RecursionError):
        return False


def reached(task: Task, answer: str, source: str, cut: bool = False) -> tuple[bool, int]:
    """(whether the answer parses as it is, how many stages after 'parses' its repaired form passes, each only after the one before).

    source: the text that was read. cut: the answer was ended by the limit on its length.
    """
    strict = parses(answer)
    _, reason, _ = judge(task, Reply(answer if strict else repaired(answer), "stop", 0, 0), source)
    passed = _REACHED[reason]
    return strict, max(0, (min(passed, 4) if cut else passed) - 1)


def funnel(task: Task, sources: list[str], answers: dict[str, list[str]], cut: dict[str, list[bool]] | None = None) -> dict[str, dict]:
    """{system: {stage: (share of its answers in percent, the part of it that needed no repair)}} for the answers to `sources`.

    The first stage counts answers that are one JSON object as they are. From the second on, a stage counts what passes it and every
    stage before, repaired where needed. Without repair, 'fits the schema' is the table's 'valid'.
    """
    found = {}
    for system, texts in answers.items():
        ended = (cut or {}).get(system) or [False] * len(texts)
        each = [reached(task, *one) for one in zip(texts, sources, ended, strict=True)]
        share = lambda many: 100.0 * sum(many) / len(many)  # noqa: E731
        found[system] = {STAGES[0]: (share([strict for strict, _ in each]),) * 2} | {
            stage: (share([passed >= i for _, passed in each]), share([strict and passed >= i for strict, passed in each]))
            for i, stage in enumerate(STAGES[1:], 1)
        }
    return found
