"""Pictures of memory: what each method keeps, drawn to scale; where the bytes go; what fits on which card."""

import matplotlib.pyplot as plt
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch

from workbook.lora import body_shapes, lora_parameters
from workbook.memory import CLASSES, METHODS, predict
from workbook.show import COLOURS
from workbook.tracing import KINDS

_FROZEN, _TRAINED, _GRADIENT, _STATE = "#b8c4cf", COLOURS[1], COLOURS[2], COLOURS[3]
GIB = 2**30


def schematics(model, *, bytes_each: int = 4, r: int = 16):
    """Four ways to train `model` (see `shapes.shape_of`), every box as tall as its bytes. Returns the figure.

    Grey is frozen, orange is trained; beside it the gradients and AdamW's two numbers for each trained number.
    """
    total = sum(p.numel() for p in model.parameters())
    head = model.config.get_text_config().hidden_size * CLASSES
    adapter = lora_parameters(body_shapes(model), r)
    ways = {
        "from scratch": ("random weights,\nall trained", 0, total),
        "full fine-tuning": ("pretrained weights,\nall trained", 0, total),
        "classical fine-tuning": ("frozen body,\nnew trained head", total, head),
        "LoRA": ("frozen model,\ntrained adapter", total, adapter),
    }
    figure, panels = plt.subplots(1, 4, sharey=True, figsize=(11, 4.2), constrained_layout=True)
    for axes, (title, (note, frozen, trained)) in zip(panels, ways.items(), strict=True):
        low, high = frozen * bytes_each / GIB, trained * bytes_each / GIB
        axes.bar("model", low, color=_FROZEN, hatch="//", edgecolor="white", width=0.9)
        axes.bar("model", high, bottom=low, color=_TRAINED, width=0.9)
        axes.bar("gradients", high, color=_GRADIENT, width=0.9)
        axes.bar("optimizer", 2 * high, color=_STATE, width=0.9)
        for x, height in enumerate((low + high, high, 2 * high)):
            axes.annotate(_size(height * GIB), (x, height), ha="center", va="bottom", xytext=(0, 2), textcoords="offset points", fontsize=9)
        axes.set_title(title)
        axes.set_xlabel(f"{note}\nin all {_size((low + 4 * high) * GIB)}")
        axes.grid(False)
        axes.tick_params("x", labelsize=9)
    panels[0].set(ylabel="GiB", ylim=(0, 2.3 * total * bytes_each / GIB))
    handles = [Patch(facecolor=_FROZEN, hatch="//", edgecolor="white", label="frozen"), Patch(color=_TRAINED, label="trained")]
    panels[-1].legend(handles=handles, frameon=False, loc="upper right")
    return figure


def memory_bars(parts: dict[str, dict[str, int]], title: str = "", measured: dict[str, int] | None = None):
    """A stacked bar per method of bytes by kind (from `memory.predict` or `on_paper`), in GiB; dots: `measured` peaks."""
    _, axes = plt.subplots(figsize=(9, 3.8))
    base = [0.0] * len(parts)
    for kind, colour in zip(KINDS, COLOURS, strict=False):
        heights = [part.get(kind, 0) / GIB for part in parts.values()]
        if any(heights):
            axes.bar(list(parts), heights, bottom=base, color=colour, label=kind, width=0.6)
        base = [low + height for low, height in zip(base, heights, strict=True)]
    for x, top in enumerate(base):
        axes.annotate(f"{top:.2f}", (x, top), ha="center", va="bottom", xytext=(0, 6), textcoords="offset points")
    if measured:
        axes.plot(list(measured), [peak / GIB for peak in measured.values()], "ko", label="measured peak", linestyle="none")
    axes.set(ylabel="GiB", title=title, ylim=(0, 1.18 * max(base)))
    axes.legend(frameon=False, ncols=2)
    return axes


def sweep(name: str, over: str, values: list[int], methods: dict[str, dict], **options):
    """Lines of the predicted peak of model `name` over "length" or "batch". Returns ({label: peaks in bytes}, axes).

    methods: {label: arguments of `memory.predict`}, with "method" among them.
    """
    peaks = {label: [predict(name, **{over: value} | options | chosen)["peak"] for value in values] for label, chosen in methods.items()}
    _, axes = plt.subplots()
    for (label, line), colour in zip(peaks.items(), COLOURS, strict=False):
        axes.plot(values, [peak / GIB for peak in line], "o-", color=colour, label=label)
    axes.set(xlabel={"length": "tokens per row", "batch": "rows per step"}[over], ylabel="GiB", title=f"{name}: peak of a training step")
    axes.set_xticks(values)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return peaks, axes


def what_fits(names: list[str], cards: list[int], methods=METHODS, **options):
    """A heat map: the peak of each model under each method in GB, coloured by the smallest of `cards` (GB) that holds it.

    Returns ({name: {method: GB}}, axes). A tenth of a card is left free for the driver and for fragments between tensors.
    """
    peaks = {name: {method: predict(name, method, **options)["peak"] / 1e9 for method in methods} for name in names}
    cards = sorted(cards)
    first = [[next((i for i, card in enumerate(cards) if gb <= 0.9 * card), len(cards)) for gb in row.values()] for row in peaks.values()]
    colours = ListedColormap([plt.get_cmap("YlGnBu")(0.12 + 0.55 * i / max(1, len(cards) - 1)) for i in range(len(cards))] + ["#d98880"])
    _, axes = plt.subplots(figsize=(9, 0.6 * len(names) + 1.4))
    axes.imshow(first, cmap=colours, vmin=0, vmax=len(cards), aspect="auto")
    axes.set_xticks(range(len(methods)), methods)
    axes.set_yticks(range(len(names)), names)
    axes.grid(False)
    for y, row in enumerate(peaks.values()):
        for x, gb in enumerate(row.values()):
            axes.text(x, y, f"{gb:.1f}" if gb < 100 else f"{gb:.0f}", ha="center", va="center")
    labels = [f"fits in {card} GB" for card in cards] + ["needs more"]
    handles = [Patch(color=colours(i), label=label) for i, label in enumerate(labels)]
    axes.legend(handles=handles, frameon=False, ncols=len(labels), loc="upper center", bbox_to_anchor=(0.45, -0.12))
    axes.set_title("peak of a training step, GB")
    return peaks, axes


def _size(size: float) -> str:
    unit, name = next((u, n) for u, n in ((GIB, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "bytes")) if size >= 0.95 * u or u == 1)
    return f"{size / unit:.3g} {name}"
