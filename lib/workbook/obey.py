"""Does an answer have the form that was asked for? One word, a list of three, JSON with given keys, yes or no, a number.

A program decides, on the whole answer and on its form alone: a wrong "No." obeys a prompt that asked for yes or no. Prompts that
a program can judge are the idea of IFEval (https://arxiv.org/abs/2311.07911).
"""

import json
import math
import re

from workbook.tasks import DATA
from workbook.text import normalise

PROMPTS = DATA / "verifiable.jsonl"


def one_word(answer: str) -> bool:
    return re.sub("['’-]", "", normalise(answer).strip(" .!")).isalpha()


def list_of_three(answer: str) -> bool:
    """Three different items of one to three words, with commas or line breaks between them."""
    items = re.split("[,،\n]", answer.strip(" .\n"))
    short = all(1 <= len(item.split()) <= 3 and not set(item) & set('`:{}[]"') for item in items)
    return len(items) == 3 and short and len({item.strip() for item in items}) == 3


def json_with(answer: str, keys: list[str]) -> bool:
    """One JSON object with these keys and no others, and a text or a number under each. A code fence around it is refused."""
    try:
        record = json.loads(answer)
    except ValueError:
        return False
    return isinstance(record, dict) and set(record) == set(keys) and all(type(value) in (str, int, float) for value in record.values())


def yes_or_no(answer: str) -> bool:
    return normalise(answer).strip(" .!") in {"yes", "no", "نعم", "لا"}


def number(answer: str) -> bool:
    """Digits and nothing else, in either script; a full stop may follow."""
    return answer.strip(" .\n").isdecimal()


CHECKS = {"one_word": one_word, "list_of_three": list_of_three, "json": json_with, "yes_or_no": yes_or_no, "number": number}


def check(row: dict, answer: str) -> bool:
    """Whether `answer` has the form that the row {"kind", "keys", ...} asks for. Raises ValueError for a kind that has no check."""
    if row["kind"] not in CHECKS:
        raise ValueError(f"{row.get('id', 'a row')}: no check for the kind {row['kind']!r}; known: {', '.join(CHECKS)}")
    return CHECKS[row["kind"]](answer, *([row["keys"]] if row["kind"] == "json" else []))


def wilson(hits: float, n: int, z: float = 1.96) -> tuple[float, float, float]:
    """(share, low, high) in percent: `hits` of `n` with Wilson's 95 % interval (https://doi.org/10.2307/2276774)."""
    middle, half = hits + z * z / 2, z * math.sqrt(hits * (n - hits) / n + z * z / 4)
    return tuple(round(100 * x, 2) for x in (hits / n, (middle - half) / (n + z * z), (middle + half) / (n + z * z)))
