"""Plots of an evaluation: any number of systems, one panel per thing that is compared. Each returns its figure or axes."""

import numpy as np

from workbook.costs import BreakEven
from workbook.details import NO_RECORD
from workbook.show import COLOURS, plt


def _panels(count: int, bars: int, across: int = 4):
    """(figure, `count` axes) with room for so many lying bars in each; panels of one row share their names."""
    down = -(-count // across)
    figure, axes = plt.subplots(
        down, min(across, count), figsize=(2.6 * min(across, count) + 1.4, down * (0.9 + 0.26 * bars)), sharey=True, squeeze=False
    )
    for spare in axes.flat[count:]:
        spare.set_visible(False)
    figure.set_layout_engine("constrained")
    return figure, list(axes.flat[:count])


def _lying(axes, title: str, most: float = 100) -> None:
    axes.set(title=title, xlim=(0, most))
    axes.title.set_size(10)
    axes.grid(axis="x", alpha=0.3)
    axes.grid(visible=False, axis="y")
    if not axes.yaxis_inverted():  # panels share the axis: turned once, it is turned in all
        axes.invert_yaxis()


def scores(results: dict[str, dict[str, tuple]], names: list[str], title: str = ""):
    """One panel per score of `metrics.table`, one bar per system, whiskers for the 95 % interval. Returns the figure."""
    figure, panels = _panels(len(names), len(results))
    for axes, name in zip(panels, names, strict=True):
        mean, low, high = np.array([results[system][name] for system in results]).T
        colours = [COLOURS[i % len(COLOURS)] for i in range(len(results))]
        axes.barh(list(results), mean, xerr=[mean - low, high - mean], color=colours, capsize=2, error_kw={"lw": 1})
        _lying(axes, name)
    figure.suptitle(title)
    return figure


def funnel(found: dict[str, dict[str, tuple[float, float]]], title: str = ""):
    """One panel per system of `funnel.funnel`, one bar per stage: dark as it came, light where repair was needed. Returns the figure."""
    stages = list(next(iter(found.values())))
    figure, panels = _panels(len(found), len(stages))
    for axes, (system, shares) in zip(panels, found.items(), strict=True):
        whole, strict = np.array([shares[stage] for stage in stages]).T
        axes.barh(stages, whole, color=COLOURS[0], alpha=0.35)
        axes.barh(stages, strict, color=COLOURS[0])
        _lying(axes, system)
    figure.suptitle(title)
    return figure


def differences(found: dict[str, tuple], title: str = ""):
    """A point and a whisker per difference (mean, low, high, p), around a line at zero. Returns the axes."""
    _, axes = plt.subplots(figsize=(7, 0.8 + 0.4 * len(found)))
    for i, (mean, low, high, *_) in enumerate(found.values()):
        clear = low > 0 or high < 0
        axes.errorbar(mean, i, xerr=[[mean - low], [high - mean]], fmt="o", capsize=3, color=COLOURS[0] if clear else COLOURS[5])
    axes.axvline(0, color="0.4", lw=1)
    axes.set(yticks=range(len(found)), yticklabels=list(found), xlabel="difference in the headline score", title=title)
    axes.grid(axis="x", alpha=0.3)
    axes.invert_yaxis()
    return axes


def ablation(found: dict[str, dict[str, tuple]], title: str = ""):
    """Validity and headline of `gain.ablation`, free and held to a grammar side by side, with 95 % intervals. Returns the figure."""
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True, layout="constrained")
    for axes, score in zip(panels, ("valid", "headline"), strict=True):
        for side, held in enumerate(("", ", constrained")):
            mean, low, high = np.array([row[f"{score}{held}"] for row in found.values()]).T
            label = "with the schema's grammar" if held else "free"
            where = np.arange(len(found)) + 0.36 * side
            axes.bar(where, mean, 0.36, yerr=[mean - low, high - mean], capsize=3, color=COLOURS[side], label=label, error_kw={"lw": 1})
        axes.set(title=score, ylim=(0, 109), xticks=np.arange(len(found)) + 0.18, xticklabels=list(found))
    panels[1].legend(frameon=False)
    figure.suptitle(title)
    return figure


def against_prompt(results: dict[str, dict[str, tuple]], tokens: dict[str, float], title: str = ""):
    """Each system's headline, with its 95 % interval, over the tokens that it reads for one answer. Returns the axes."""
    _, axes = plt.subplots()
    for i, (system, count) in enumerate(tokens.items()):
        mean, low, high = results[system]["headline"]
        look = {"fmt": "os^D"[i // len(COLOURS) % 4], "color": COLOURS[i % len(COLOURS)]}  # another shape where colours begin again
        axes.errorbar(count, mean, yerr=[[mean - low], [high - mean]], capsize=3, label=system, **look)
    axes.set(xlim=(0, None), xlabel="prompt tokens per article", ylabel="headline", ylim=(-3, 103), title=title)
    axes.legend(frameon=False, fontsize=9, bbox_to_anchor=(1, 1))
    return axes


def learning_curve(curve: dict, names: tuple[str, ...] = ("valid", "category", "translation", "headline")):
    """Scores of docs/learning_curve.json over the number of training articles, with 95 % intervals. Returns the axes."""
    _, axes = plt.subplots()
    sizes = sorted(curve["sizes"], key=int)
    for i, name in enumerate(names):
        mean, low, high = np.array([curve["sizes"][size][name] for size in sizes]).T
        axes.errorbar(list(map(int, sizes)), mean, yerr=[mean - low, high - mean], fmt="o-", capsize=3, color=COLOURS[i], label=name)
    axes.set(xlabel="training articles", xticks=list(map(int, sizes)), ylim=(0, 105), title=f"{curve['test_articles']} test articles")
    axes.legend(frameon=False, fontsize=9, bbox_to_anchor=(1, 1))
    return axes


def confusion(matrix: dict[str, dict[str, int]], title: str = ""):
    """A field of `details.confusion` as a grid: rows are the reference's labels, columns what the system said. Returns the axes."""
    rows = [label for label in matrix if sum(matrix[label].values())]
    said = {label for row in matrix.values() for label in row}
    columns = [label for label in matrix if label in said or label in rows] + [NO_RECORD] * (NO_RECORD in said)
    counts = np.array([[matrix[row].get(column, 0) for column in columns] for row in rows])
    _, axes = plt.subplots(figsize=(2 + 0.62 * len(columns), 1.6 + 0.42 * len(rows)))
    axes.imshow(counts, cmap="Blues", vmax=max(1, counts.max()) * 1.4)
    for (i, j), count in np.ndenumerate(counts):
        axes.text(j, i, count or "", ha="center", va="center", weight="bold" if rows[i] == columns[j] else "normal", color="#111")
    axes.set(xticks=range(len(columns)), yticks=range(len(rows)), yticklabels=rows, xlabel="said", ylabel="reference", title=title)
    axes.set_xticklabels(columns, rotation=40, ha="right")
    axes.grid(visible=False)
    return axes


def break_even(point: BreakEven, title: str = ""):
    """USD per 1,000 records against how many are needed an hour: the API's flat line, the machine's falling one. Returns the axes."""
    _, axes = plt.subplots()
    most = max(point.capacity, 1)
    hourly = np.geomspace(most / 1000, most, 200)
    axes.plot(hourly, 1000 * point.usd_per_hour / hourly, color=COLOURS[0], label=f"own machine, {point.usd_per_hour:g} USD an hour")
    axes.axhline(1000 * point.api_usd, color=COLOURS[1], label="API, by the token")
    axes.axvline(most, color=COLOURS[5], ls=":", label="all that the machine can do" if point.capacity else "the machine made no record")
    if point.pays:
        axes.plot(point.records_per_hour, 1000 * point.api_usd, "o", color="#111", label=f"{point.records_per_hour:,.0f} records an hour")
    axes.set(xscale="log", yscale="log", xlabel="records needed per hour", ylabel="USD per 1,000 records", title=title)
    axes.legend(frameon=False)
    return axes
