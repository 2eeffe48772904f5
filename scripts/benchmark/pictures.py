"""Pictures of times: a bar for each side of a contest, and a curve for each contest that grows."""

import itertools
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, StrMethodFormatter

from jax_mnist.plots import STYLE

from .timing import Timed

OURS, THEIRS = (line["color"] for line in list(STYLE["axes.prop_cycle"])[:2])


@matplotlib.rc_context(STYLE)
def bars(timed: Sequence[Timed], machine: str) -> Figure | None:
    """Draw the median of each side as a bar, with a dot for each run, in axes for each contest; none for no sides."""
    contests = _by_contest(timed)
    if not contests:
        return None
    heights = [len(sides) for sides in contests]
    figure = Figure(figsize=(8, 0.7 * len(contests) + 0.35 * sum(heights)))
    axes = figure.subplots(len(contests), squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    for ax, sides in zip(axes, contests, strict=True):
        for y, side in enumerate(sides):
            median, runs = 1000 * side.median_seconds, [1000 * seconds for seconds in side.seconds]
            ax.barh(y, median, color=THEIRS if y else OURS, alpha=0.6)
            ax.plot(runs, [y] * len(runs), ".", color="black", markersize=3)
            text = f"{median:,.0f}" if median >= 100 else f"{median:.3g}"
            ax.text(1.01, y, text, va="center", transform=ax.get_yaxis_transform())
        ax.set_yticks(range(len(sides)), [side.side for side in sides])
        ax.invert_yaxis()
        ax.set_title(f"{_sentence(sides[0].contest)}, milliseconds per {sides[0].unit}", loc="left")
    figure.supxlabel(machine, fontsize=9)
    return figure


@matplotlib.rc_context(STYLE)
def growth(timed: Sequence[Timed]) -> Figure | None:
    """Draw time against the growing quantity on logarithmic axes, for each contest; none for no sides.

    The medians are a line, the runs are dots; a dashed line through the last median shows proportional growth.
    """
    contests = _by_contest(timed)
    if not contests:
        return None
    columns = min(len(contests), 2)
    rows = -(-len(contests) // columns)
    figure = Figure(figsize=(4 * columns, 2.8 * rows))
    axes = figure.subplots(rows, columns, squeeze=False).flat
    for ax in axes[len(contests) :]:
        ax.remove()
    for ax, sides in zip(axes, contests, strict=False):
        values = np.array([int(side.side.replace(",", "")) for side in sides])
        times = 1000 * np.array([side.seconds for side in sides])
        medians = np.median(times, axis=1)
        ax.plot(values, medians, "-", color=OURS)
        ax.plot(values, times, ".", color="black", markersize=3)
        ax.plot(values, medians[-1] * values / values[-1], "--", color="gray", linewidth=0.8)
        ax.set(
            xscale="log",
            yscale="log",
            xlabel=_sentence(sides[0].grows_with),
            ylim=(times.min() / 1.5, times.max() * 1.5),
        )
        ax.set_xticks(values, [side.side for side in sides])
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
        ax.minorticks_off()
        ax.set_title(_sentence(sides[0].contest), loc="left")
    figure.supylabel("Milliseconds per epoch", fontsize=10)
    return figure


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _by_contest(timed: Sequence[Timed]) -> list[list[Timed]]:
    return [list(sides) for _, sides in itertools.groupby(timed, key=lambda side: side.contest)]
