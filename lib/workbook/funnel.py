"""Where answers are lost on their way to a record that can be used: parsed, repaired, fitting, in its language, whole, grounded."""

import json

import json_repair

from workbook.distill import judge
from workbook.tasks import Task
from workbook.teacher import Reply

STAGES = ["parses", "after repair", "fits the schema", "right language", "not truncated", "grounded"]
_LAST = {"refusal": 0, "parse": 0, "schema": 1, "language": 2, "ungrounded": 4, "": 5}  # why `judge` refused: the last stage passed


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
    """(whether the answer parses as it is, the place in STAGES of the last one that it passes, repaired where needed; 0 if none).

    source: the text that was read. cut: the answer was ended by the limit on its length.
    """
    strict = parses(answer)
    _, reason, _ = judge(task, Reply(answer if strict else repaired(answer), "stop", 0, 0), source)
    return strict, min(_LAST[reason], 3) if cut else _LAST[reason]


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
            stage: (share([last >= i for _, last in each]), share([strict and last >= i for strict, last in each]))
            for i, stage in enumerate(STAGES[1:], 1)
        }
    return found
