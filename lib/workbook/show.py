"""Everything a learner looks at: token chips, the loss mask, right-to-left text, and plots in one style."""

import html
import io
import re
import time
from pathlib import Path

import matplotlib.pyplot as plt
from IPython import get_ipython
from IPython.display import HTML, Image, display
from matplotlib.ticker import MaxNLocator

from workbook.dataset import read_jsonl
from workbook.text import language

COLOURS = ["#2f6f9f", "#d9822b", "#4c9a5b", "#a34a6b", "#7a6bb0", "#8a8d91"]
_TINTS = ["#cfe3f3", "#fbe3c8", "#d5ecd8", "#f1d5df"]
_JSON = re.compile(r'("(?:[^"\\]|\\.)*"|[\[\]{},])')  # a string, or a sign that opens, closes or separates

plt.rcParams.update(
    {
        "figure.figsize": (8, 3.6),
        "figure.dpi": 110,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.grid.axis": "y",
        "grid.alpha": 0.3,
        "font.size": 11,
    }
)


def _direction(text: str) -> str:
    return "rtl" if language(text) == "ar" and not _is_json(text) else "ltr"


def _is_json(text: str) -> bool:
    """Whether `text` begins as a JSON object: such a text, cut off or not, runs from left to right whatever its strings say."""
    return bool(re.match(r'\s*\{\s*"', text))


def markup(content: str, *, fields: bool = False) -> str:
    """`content` as HTML. In JSON each string keeps its own direction (else its quotes and commas change places with their neighbours);
    with `fields` each field of the outer object begins a line."""
    if not _is_json(content):
        return html.escape(content).replace("\n", "<br>")
    depth, shown = 0, []
    for part in _JSON.split(content):
        depth += (part in tuple("{[")) - (part in tuple("}]"))
        escaped = html.escape(part.lstrip("\n") if shown and shown[-1] == ",<br>" else part).replace("\n", "<br>")
        shown.append(f"<bdi>{escaped}</bdi>" if part[:1] == '"' else ",<br>" if fields and part == "," and depth == 1 else escaped)
    return "".join(shown)


def text(content: str, title: str = "") -> HTML:
    """A text in its own direction: Arabic from right to left."""
    head = f"<b>{html.escape(title)}</b><br>" if title else ""
    body = markup(content)
    return HTML(f'{head}<div dir="{_direction(content)}" style="font-size:1.1em;line-height:1.7;max-width:60em">{body}</div>')


def chips(pieces: list[tuple[str, int]]) -> HTML:
    """The pieces of `tokens.pieces` as coloured chips; a small number says how many tokens one piece took, if not one."""
    spans = []
    for i, (piece, count) in enumerate(pieces):
        shown = html.escape(piece).replace("\n", "⏎").replace(" ", "␣" if not piece.strip() else "&nbsp;")
        note = f"<sub>{count}</sub>" if count > 1 else ""
        spans.append(
            f'<span style="background:{_TINTS[i % 4]};color:#111;border-radius:4px;padding:1px 3px;margin:1px">{shown}{note}</span>'
        )
    direction = _direction("".join(piece for piece, _ in pieces))
    return HTML(f'<div dir="{direction}" style="font-size:1.1em;line-height:2.1;max-width:60em">{"<wbr>".join(spans)}</div>')


def mask(runs: list[tuple[str, bool]]) -> HTML:
    """The runs of `tokens.mask_view`: grey is read only, green is learned."""
    spans = "".join(
        f'<span style="background:{"#d5ecd8" if learned else "#e8e8ea"};color:{"#111" if learned else "#666"}">{markup(part)}</span>'
        for part, learned in runs
    )
    return HTML(f'<div dir="auto" style="line-height:1.7;max-width:60em;unicode-bidi:plaintext">{spans}</div>')


def side_by_side(columns: dict[str, str]) -> HTML:
    """Texts beside each other under their titles, each line in its own direction."""
    head = "".join(f'<th style="text-align:center">{html.escape(title)}</th>' for title in columns)
    cells = "".join(
        f'<td style="vertical-align:top;text-align:start;overflow-wrap:anywhere;max-width:{90 // len(columns)}vw">{_lines(content)}</td>'
        for content in columns.values()
    )
    return HTML(f'<table style="table-layout:fixed;width:100%;font-size:14px;line-height:1.6"><tr>{head}</tr><tr>{cells}</tr></table>')


def _lines(content: str) -> str:
    if _is_json(content):
        return f'<div dir="ltr" style="text-align:start">{markup(content, fields=True)}</div>'
    return "".join(
        f'<div dir="{_direction(line)}" style="text-align:start">{html.escape(line) or "&nbsp;"}</div>' for line in content.split("\n")
    )


def loss_curve(path: Path | str):
    """The loss per step of a training.jsonl: training as a line, validation as points. Returns the axes."""
    rows = read_jsonl(path)
    training = [(row["step"], row["loss"]) for row in rows if "loss" in row]
    validation = [(row["step"], row["eval_loss"]) for row in rows if "eval_loss" in row]
    _, axes = plt.subplots()
    axes.plot(*zip(*training, strict=True), color=COLOURS[0], label="training")
    if validation:
        axes.plot(*zip(*validation, strict=True), "o--", color=COLOURS[1], label="validation")
    axes.set(xlabel="optimizer step", ylabel="loss (nats per token)", ylim=(0, None))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False)
    return axes


def is_live() -> bool:
    """Whether a person watches this kernel. Papermill and nbclient send with every cell that nobody can be asked for input."""
    shell = get_ipython()
    return hasattr(shell, "get_parent") and bool(shell.get_parent().get("content", {}).get("allow_stdin"))


def live_loss(path: Path | str, every: float = 2.0):
    """A function that draws `loss_curve` in place, at most once in `every` seconds unless told that it is the `last` time."""
    place, drawn = display(display_id=True), 0.0

    def draw(last: bool = False) -> None:
        nonlocal drawn
        if not last and time.monotonic() - drawn < every:
            return
        figure, image = loss_curve(path).figure, io.BytesIO()
        figure.savefig(image, format="png", bbox_inches="tight")
        plt.close(figure)
        place.update(Image(image.getvalue()))
        drawn = time.monotonic()

    return draw


def bars(values: dict[str, float], label: str, title: str = "", *, flat: bool = False):
    """One bar per name with its value on top; `flat` lays them down, for long names. Returns the axes."""
    _, axes = plt.subplots(figsize=(7, 0.5 + 0.4 * len(values)) if flat else None)
    names, heights = list(values), list(values.values())
    drawn = axes.barh(names[::-1], heights[::-1], color=COLOURS[0]) if flat else axes.bar(names, heights, color=COLOURS[0])
    axes.bar_label(drawn, fmt="{:,.4g}", padding=3)
    axes.set(**{"xlabel" if flat else "ylabel": label}, title=title)
    axes.margins(**{"x" if flat else "y": 0.15})
    return axes
