"""Rows as they arrive to rows worth a call: markup and site furniture out, copies out, and a reason for every row dropped.

The rules are the usual ones of web corpora: no row without its end and no line that a site repeats (C4,
https://arxiv.org/abs/1910.10683), near-duplicates by MinHash (Broder 1997; https://ekzhu.com/datasketch/lsh.html).
"""

import json
import re
from collections import Counter
from pathlib import Path

from bs4 import BeautifulSoup
from datasketch import MinHash, MinHashLSH

from workbook import text
from workbook.tasks import Task

SHORTEST = 20  # words of running text; below this there is nothing to summarise
SAME = 0.6  # share of three-word sequences that two texts have in common from which on they are one text
FURNITURE = 3  # a line that stands in so many different rows is the site's, not the article's

_MARKUP = re.compile(r"</?[a-zA-Z!][^<>]*>|&#?\w+;")
_INVISIBLE = re.compile("[\u00ad\u200b\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")
_NOT_TEXT = ["script", "style", "nav", "aside", "footer", "form", "button", "figure"]
_BLOCKS = ["p", "div", "li", "h1", "h2", "h3", "article", "section"]
_ENDS = tuple('.!?؟»"”)')


def read_raw(path: Path | str) -> tuple[list[dict], dict[str, str]]:
    """(rows, refused) of a JSONL file that may have broken lines; refused is {'line N': 'broken_line'}.

    A row without an id gets 'line N'. Raises ValueError for an id used twice, naming file and line.
    """
    rows, refused, seen = [], {}, set()
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = {"id": f"line {number}"} | json.loads(line)
            if not isinstance(row["id"], str | int):
                raise TypeError(row["id"])
        except (ValueError, TypeError):  # not JSON, not an object, or an id that is neither a name nor a number
            refused[f"line {number}"] = "broken_line"
            continue
        if row["id"] in seen:
            raise ValueError(f"{path}, line {number}: id {row['id']!r} is used twice; make ids unique")
        seen.add(row["id"])
        rows.append(row)
    return rows, refused


def plain(raw: str) -> str:
    """`raw` without markup, invisible characters and doubled spaces; one line a paragraph. Plain text comes back as it is."""
    if _MARKUP.search(raw):
        soup = BeautifulSoup(raw, "html.parser")
        for tag in soup(_NOT_TEXT):
            tag.decompose()
        for tag in soup("br"):
            tag.replace_with("\n")
        for tag in soup(_BLOCKS):
            tag.append("\n")
        raw = soup.get_text()
    lines = (" ".join(line.split()) for line in _INVISIBLE.sub("", raw).splitlines())
    return "\n".join(line for line in lines if line)


def shingles(words: str, size: int = 3) -> set[str]:
    """The sequences of `size` words in `words`, in one spelling."""
    parts = re.findall(r"\w+", text.normalise(words))
    return {" ".join(parts[i : i + size]) for i in range(max(1, len(parts) - size + 1))}


def similarity(one: set, other: set) -> float:
    """Jaccard similarity of two sets, 0 to 1."""
    return len(one & other) / max(1, len(one | other))


def similar_pairs(texts: list[str], least: float = SAME) -> list[tuple[int, int, float]]:
    """(i, j, similarity) for all i < j that share at least `least` of their three-word sequences.

    MinHash finds the candidates in one pass, without comparing each text with each; the similarity itself is exact.
    """
    index, sets, pairs = MinHashLSH(threshold=0.8 * least, num_perm=128), [shingles(one) for one in texts], []
    for j, parts in enumerate(sets):
        sketch = MinHash(num_perm=128, seed=0)
        sketch.update_batch([part.encode() for part in parts])
        pairs += [(i, j, similarity(sets[i], parts)) for i in index.query(sketch)]
        index.insert(j, sketch)
    return sorted(pair for pair in pairs if pair[2] >= least)


def copies(rows: list[dict], texts: list[str], least: float = SAME) -> set[int]:
    """The rows that repeat another one; of the copies, the earliest published stays, and of those the longest."""
    dropped, rank = set(), lambda i: (rows[i].get("published") or "", -len(texts[i]), i)
    for i, j, _ in similar_pairs(texts, least):
        dropped.add(max(i, j, key=rank))
    return dropped


def furniture(texts: list[str]) -> set[str]:
    """The lines that stand in at least `FURNITURE` of the texts: cookie banners, 'share this', 'all rights reserved'."""
    counts = Counter(line for one in texts for line in set(one.splitlines()))
    return {line for line, times in counts.items() if times >= FURNITURE}


def clean(task: Task, rows: list[dict]) -> tuple[list[dict], dict[str, str]]:
    """(rows worth a call with their "text" cleaned, {id: reason} of the others), both in the order of `rows`.

    Reasons: no_text, duplicate, too_short, off_language, cut_off. Only "text" is cleaned; a task that keeps its words elsewhere is
    looked at as it renders them.
    """
    kept = [row | {"text": plain(row["text"])} if isinstance(row.get("text"), str) else row for row in rows]
    refused = {row["id"]: "no_text" for row in kept if not _source(task, row).strip()}
    kept = [row for row in kept if row["id"] not in refused]
    least = SAME if task.prose else 1.0  # two invoices of one shop share most of their words and are still two
    dropped = copies(kept, [_source(task, row) for row in kept], least)
    refused |= {kept[i]["id"]: "duplicate" for i in dropped}
    kept = [row for i, row in enumerate(kept) if i not in dropped]
    if task.prose:  # a line that many forms share is part of the form
        site = furniture([row["text"] for row in kept if isinstance(row.get("text"), str)])
        kept = [_without(row, site) for row in kept]
    refused |= {row["id"]: reason for row in kept if (reason := _not_worth(task, _source(task, row)))}
    order = {row["id"]: i for i, row in enumerate(rows)}
    return [row for row in kept if row["id"] not in refused], dict(sorted(refused.items(), key=lambda pair: order[pair[0]]))


def rows_of(task: Task) -> list[dict]:
    """The rows of a task that are worth a call: what `clean` keeps of its file."""
    return clean(task, read_raw(task.raw or task.data)[0])[0]


def _without(row: dict, site: set[str]) -> dict:
    if not isinstance(row.get("text"), str):
        return row
    return row | {"text": "\n".join(line for line in row["text"].splitlines() if line not in site)}


def _source(task: Task, row: dict) -> str:
    """What a model would read of the row; "" where a field is missing that the task needs."""
    try:
        found = task.render(row)
    except (KeyError, TypeError, AttributeError):
        return ""
    return found if isinstance(found, str) else ""


def _not_worth(task: Task, source: str) -> str:
    if task.prose and len(source.split()) < SHORTEST:
        return "too_short"
    if task.source_language and text.language(source) != task.source_language:
        return "off_language"
    if task.prose and (not source.endswith(_ENDS) or source.endswith("...")):
        return "cut_off"
    return ""
