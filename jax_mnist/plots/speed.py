"""Plots of timings, as a comparison and as a function of size."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import LogLocator, StrMethodFormatter

from .axes import BLUE, RED


def timings(groups: Mapping[str, Mapping[str, Sequence[float]]]) -> np.ndarray:
    """Plot the times of alternative implementations: a bar for the median of each, and a dot for each run.

    `groups` maps each task to its alternatives, and each alternative to the times of its runs. The medians are also
    written to the right of the axes. Returns the axes, one per group.

    >>> [ax.get_title(loc="left") for ax in timings({"an epoch": {"ours": [1.0, 1.1], "theirs": [5.0, 5.2]}})]
    ['an epoch']
    """
    heights = [len(alternatives) for alternatives in groups.values()]
    _, axes = plt.subplots(
        len(groups), figsize=(8, 0.6 * len(groups) + 0.35 * sum(heights)), squeeze=False, layout="constrained",
        gridspec_kw={"height_ratios": heights},
    )  # fmt: skip
    for ax, (title, alternatives) in zip(axes.flat, groups.items(), strict=True):
        for y, times in enumerate(alternatives.values()):
            median = float(np.median(times))
            ax.barh(y, median, color=RED if y == 0 else BLUE, alpha=0.6)
            ax.plot(times, [y] * len(times), ".", color="black", markersize=3)
            text = f"median {median:,.0f}" if median >= 100 else f"median {median:.3g}"
            ax.text(1.01, y, text, va="center", fontsize=8, transform=ax.get_yaxis_transform())
        ax.set_yticks(range(len(alternatives)), list(alternatives), fontsize=8)
        ax.invert_yaxis()
        ax.set_title(title, fontsize=9, loc="left")
    return axes.flat[:]


def growth(groups: Mapping[str, tuple[str, Sequence[int], Sequence[Sequence[float]]]]) -> np.ndarray:
    """Plot time against a quantity on logarithmic axes: the medians as a line, the runs as dots.

    `groups` maps a title to the quantity's name, its values [v], and the times of the runs at each value. A dashed
    line through the last median shows proportional growth. Returns the axes, one per group.

    >>> axes = growth({"an epoch": ("images", [1000, 2000], [[1.0, 1.1], [2.0, 2.2]])})
    >>> axes[0].get_xlabel(), axes[0].get_xscale(), axes[0].get_yscale()
    ('images', 'log', 'log')
    """
    columns = min(len(groups), 2)
    rows = -(-len(groups) // columns)
    figure, axes = plt.subplots(rows, columns, squeeze=False, figsize=(4 * columns, 3 * rows), layout="constrained")
    for unused in axes.flat[len(groups) :]:
        figure.delaxes(unused)
    for ax, (title, (name, values, times)) in zip(axes.flat, groups.items(), strict=False):
        medians = [np.median(runs) for runs in times]
        all_times = np.concatenate(times)
        ax.plot(values, medians, color=RED)
        ax.plot(np.repeat(values, [len(runs) for runs in times]), all_times, ".", color="black", markersize=3)
        ax.plot(values, medians[-1] * np.asarray(values) / values[-1], "--", color="gray", linewidth=0.8)
        ax.set(xscale="log", yscale="log", xlabel=name, ylim=(all_times.min() / 1.5, all_times.max() * 1.5))
        ax.set_xticks(values, [f"{value:,}" for value in values], fontsize=8)
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
        ax.minorticks_off()
        ax.set_title(title, fontsize=9, loc="left")
    return axes.flat[: len(groups)]
