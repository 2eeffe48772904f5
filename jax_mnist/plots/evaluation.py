"""Plots of a trained model's errors, calibration and per-example gradient norms."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Integer
from matplotlib.axes import Axes

from ..metrics import Calibration
from .axes import BLUE, GRAY, RED, SQUARE, axes_or_new, grid_size, styled


@styled()
def confusion_matrix(confusion: Integer[Any, "k k"], classes: Sequence[str], ax: Axes | None = None) -> Axes:
    """Plot a confusion matrix, labels as rows and predictions as columns, with the count in each cell.

    `confusion` is int [k, k], `classes` the names of the k classes. The shade of an error is its fraction of the row;
    the diagonal and empty cells stay white.

    >>> len(confusion_matrix(np.array([[5, 1], [0, 7]]), ["7", "3"]).texts)
    4
    """
    confusion = np.asarray(confusion)
    ax = axes_or_new(ax, grid_size(len(classes)))
    errors = np.where(np.eye(len(classes), dtype=bool), 0, confusion)
    fractions = errors / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    ax.imshow(np.where(fractions > 0, fractions, np.nan), cmap="Reds", vmin=0, vmax=max(1.5 * fractions.max(), 1e-9))
    for (row, column), count in np.ndenumerate(confusion):
        weight, color = ("bold", "black") if row == column else ("normal", "black" if count else "lightgray")
        ax.text(column, row, f"{count:,}", ha="center", va="center", fontsize=9, weight=weight, color=color)
    ax.set_xticks(range(len(classes)), classes)
    ax.set_yticks(range(len(classes)), classes)
    ax.tick_params(length=0)
    ax.set(xlabel="Predicted", ylabel="Label")
    ax.spines[:].set_visible(True)
    return ax


@styled()
def reliability(calibration: Calibration, ax: Axes | None = None) -> Axes:
    """Plot the reliability diagram: accuracy against confidence.

    A bar is a bin of confidence: its height is the bin's accuracy, its opacity the bin's fraction of all examples. The
    bars of a calibrated model end on the dashed diagonal.

    >>> bins = np.array([0, 10]), np.array([np.nan, 0.9]), np.array([np.nan, 0.8])
    >>> reliability(Calibration(*bins, error=0.1)).get_title()
    'Expected calibration error 0.1000'
    """
    ax = axes_or_new(ax, SQUARE)
    counts, accuracy = np.asarray(calibration.counts), np.asarray(calibration.accuracy)
    edges = np.linspace(0, 1, len(counts) + 1)
    filled = np.flatnonzero(counts)
    bars = ax.bar(edges[filled], accuracy[filled], 1 / len(counts), align="edge", color=BLUE, edgecolor="white")
    for bar, fraction in zip(bars, counts[filled] / counts.sum(), strict=True):
        bar.set_alpha(0.25 + 0.75 * fraction)
    ax.plot([0, 1], [0, 1], color=GRAY, linestyle="--", label="Calibrated")
    ax.plot(np.asarray(calibration.confidence), accuracy, ".", color=RED, label="Mean confidence of a bin")
    ax.set(xlabel="Confidence", ylabel="Accuracy", xlim=(0, 1), ylim=(0, 1.02))
    ax.set_title(f"Expected calibration error {float(calibration.error):.4f}")
    ax.legend(loc="upper left")
    return ax


@styled()
def gradient_norms(norms: Float[Any, " n"], ax: Axes | None = None) -> Axes:
    """Plot the fraction of all gradient norms that the images with the largest norms make up.

    `norms` is float [n], as from `jax_mnist.analysis.gradient_norms`. The curve rises to 1 as images are added, largest
    norm first.

    >>> gradient_norms(np.array([3.0, 1.0])).lines[0].get_ydata().tolist()
    [0.0, 0.75, 1.0]
    """
    ax = axes_or_new(ax, SQUARE)
    cumulative = np.cumsum(np.append(0, np.sort(np.asarray(norms, float))[::-1]))
    ax.plot(np.linspace(0, 1, len(cumulative)), cumulative / (cumulative[-1] or 1), color=BLUE, linestyle="-")
    ax.set(xlabel="Fraction of images, largest first", ylabel="Fraction of all gradient norms")
    ax.set(xlim=(0, 1), ylim=(0, 1.02))
    return ax
