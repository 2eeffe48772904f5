"""Matplotlib plots in one style. Each function takes arrays, most take the axes to draw on, and all return the axes."""

from . import axes
from .chapter import parabola, tangent
from .evaluation import confusion_matrix, gradient_norms, reliability
from .images import digit, digits, pixel_table, predictions
from .training import curves, runs, sweep

STYLE = axes.STYLE
"""Matplotlib settings of all plots here; `plt.style.use(plots.STYLE)` draws one's own plots in the same style."""

__all__ = [
    "STYLE",
    "confusion_matrix",
    "curves",
    "digit",
    "digits",
    "gradient_norms",
    "parabola",
    "pixel_table",
    "predictions",
    "reliability",
    "runs",
    "sweep",
    "tangent",
]
