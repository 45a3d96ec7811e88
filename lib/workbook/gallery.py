"""Answers beside the reference, field by field, with what differs marked: for reading, not for counting."""

import json
from difflib import SequenceMatcher
from html import escape
from itertools import groupby

from IPython.display import HTML
from pydantic import BaseModel, ValidationError

from workbook.metrics import parse
from workbook.show import markup
from workbook.text import language, normalise, words

MOST = 600  # characters shown of an answer that is no record
STYLE = """<style>.gallery{display:block;overflow-x:auto}
.gallery table{border-collapse:collapse;table-layout:fixed;width:100%;min-width:60rem}
.gallery table th,.gallery table td{vertical-align:top;text-align:start;padding:.3rem .6rem}
.gallery table th,.gallery table td{border-bottom:1px solid #8886;overflow-wrap:anywhere}
.gallery tr>:first-child{width:7rem}
.gallery mark{background:#ffd54a;color:#111;border-radius:3px;padding:0 2px} .gallery p{max-width:60rem;line-height:1.7}</style>"""


def marked(mine: str, theirs: str) -> str:
    """`mine` as HTML, with each run of words that is not in `theirs`, in its order, inside <mark>; spelling is normalised first."""
    shown = mine.split()
    key = lambda word: " ".join(words(word))  # noqa: E731
    blocks = SequenceMatcher(None, [key(word) for word in shown], [key(word) for word in theirs.split()], autojunk=False)
    same = {i for block in blocks.get_matching_blocks() for i in range(block.a, block.a + block.size)}
    runs = groupby(range(len(shown)), key=lambda i: i in same or not key(shown[i]))
    parts = [(good, escape(" ".join(shown[i] for i in run))) for good, run in runs]
    return " ".join(part if good else f"<mark>{part}</mark>" for good, part in parts)


def _texts(value) -> list[str]:
    """A field's value as the texts to show: one, or one per list item; the fields of an object stand beside each other."""
    if isinstance(value, list):
        return [text for item in value for text in _texts(item)]
    return [" · ".join("-" if part is None else str(part) for part in value.values())] if isinstance(value, dict) else [str(value)]


def _cell(mine, theirs) -> str:
    """One field of one system; theirs: the reference's value, or None to mark nothing."""
    if isinstance(mine, str) and isinstance(theirs, str):
        return _directed(mine, marked(mine, theirs))
    known = {normalise(text) for text in _texts(theirs)}
    good = lambda text: theirs is None or normalise(text) in known  # noqa: E731
    return "".join(_directed(text, escape(text) if good(text) else f"<mark>{escape(text)}</mark>") for text in _texts(mine))


def _directed(text: str, shown: str) -> str:
    """`shown` in the direction of `text`; an object has that of its name, although its other fields may be in English."""
    return f'<div dir="{"rtl" if language(text.split(" · ")[0]) == "ar" else "ltr"}">{shown}</div>'


def fault(answer: str, schema: type[BaseModel]) -> str:
    """The first thing that keeps an answer from being a record of `schema`."""
    try:
        schema.model_validate(json.loads(answer))
    except ValidationError as error:
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    except (ValueError, RecursionError):
        return "not one JSON object"
    return ""


def card(schema: type[BaseModel], source: str, reference: BaseModel, answers: dict[str, str], title: str = "") -> str:
    """One source with its reference and the answers of several systems, as HTML. An answer that is no record is shown as it came."""
    truth = reference.model_dump(mode="json")
    records = {system: parse(answer, schema) for system, answer in answers.items()}
    said = {system: None if record is None else record.model_dump(mode="json") for system, record in records.items()}
    head = "".join(f"<th>{escape(name)}</th>" for name in ("", "reference", *answers))
    body = ""
    for i, name in enumerate(truth):
        body += f"<tr><th>{escape(name)}</th><td>{_cell(truth[name], None)}</td>"
        for system, record in said.items():
            if record is not None:
                body += f"<td>{_cell(record[name], truth[name])}</td>"
            elif i == 0:
                raw = markup(answers[system][:MOST] + (" [...]" if len(answers[system]) > MOST else ""))
                why = escape(fault(answers[system], schema))
                body += f'<td rowspan="{len(truth)}"><mark>no valid record</mark> {why}<div dir="ltr">{raw}</div></td>'
        body += "</tr>"
    text = "".join(f'<p dir="{"rtl" if language(line) == "ar" else "ltr"}">{escape(line)}</p>' for line in source.split("\n"))
    return f'<section class="gallery"><h3>{escape(title)}</h3>{text}<table><tr>{head}</tr>{body}</table></section>'


def worst(scores: list[dict], most: int = 5) -> list[int]:
    """The places of the `most` rows with the lowest headline, lowest first."""
    return sorted(range(len(scores)), key=lambda i: scores[i]["headline"])[:most]


def page(cards: list[str]) -> HTML:
    """Cards under one style, to show in a notebook."""
    return HTML(STYLE + "".join(cards))
