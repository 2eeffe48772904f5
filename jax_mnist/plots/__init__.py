"""Pictures of the chapter. Each function takes arrays and, if given, the axes to draw on, and returns the axes."""

from .fits import parabola, tangent
from .images import digit, digits, pixel_table, predictions
from .judging import confusion_matrix, gradient_norms, reliability
from .speed import growth, timings
from .training import curves, runs, sweep

__all__ = [
    "confusion_matrix",
    "curves",
    "digit",
    "digits",
    "gradient_norms",
    "growth",
    "parabola",
    "pixel_table",
    "predictions",
    "reliability",
    "runs",
    "sweep",
    "tangent",
    "timings",
]
