"""The style of all plots, and the axes of new figures."""

import contextlib
from collections.abc import Iterator
from typing import Any

from matplotlib import color_sequences, rcParams
from matplotlib.axes import Axes
from matplotlib.rcsetup import cycler

# Petroff's ten colors, chosen to be told apart by color-blind readers.
COLORS = color_sequences["petroff10"]
BLUE, _, RED, GRAY = COLORS[:4]

# In inches: a figure is as wide as a page's text, or half as wide if its axes are square.
WIDTH = 7.0
SIZE, SQUARE = (WIDTH, 3.2), (WIDTH / 2, WIDTH / 2)

STYLE: dict[Any, Any] = {
    "figure.figsize": SIZE,
    "figure.dpi": 100,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 100,
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.labelsize": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "lines.markersize": 4,
    "errorbar.capsize": 3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    # Lines differ in their dashes too, for print and for the color-blind.
    "axes.prop_cycle": cycler(color=COLORS[:8]) + cycler(linestyle=["-", "--", "-.", ":"] * 2),
}
"""Matplotlib settings of all plots."""


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """Set STYLE within a block or, as a decorator, within a function, and restore what it replaced.

    matplotlib.rc_context would restore all settings, also the one by which pyplot's first figure makes a notebook
    interactive: no later figure would be shown.
    """
    before = {name: rcParams[name] for name in STYLE}
    rcParams.update(STYLE)
    try:
        yield
    finally:
        rcParams.update(before)


def axes_or_new(ax: Axes | None, size: tuple[float, float] = SIZE) -> Axes:
    """Return the given axes, or those of a new pyplot figure of this size in inches, which a notebook shows."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt  # takes 0.2 s to import, and programs that draw into files do not need it

    return plt.figure(figsize=size).add_subplot()


def grid_size(cells: int) -> tuple[float, float]:
    """Return the size in inches of a figure of cells x cells, each with room for a number such as 1,135."""
    side = 1 + 0.4 * max(cells, 5)
    return side, side
