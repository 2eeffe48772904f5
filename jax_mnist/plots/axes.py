"""Axes and colors that the plots share."""

from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

BLUE, RED, GRAY = "#1f77b4", "#d62728", "#7f7f7f"


def axes_or_new(ax: Axes | None, **size: Any) -> Axes:
    """Return the given axes, or those of a new figure of this size."""
    return plt.subplots(**size)[1] if ax is None else ax
