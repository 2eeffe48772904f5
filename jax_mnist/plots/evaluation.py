"""What a trained model gets wrong, how sure it is, and how much single images teach it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Integer
from matplotlib.axes import Axes

from ..metrics import Calibration
from .axes import BLUE, GREY, RED, axes_or_new


def confusion_matrix(confusion: Integer[Any, "k k"], classes: Sequence[str], ax: Axes | None = None) -> Axes:
    """How often each label, a row, was taken for each class, a column, with every number in its cell.

    `confusion` int [k, k], `classes` the names of the k classes. The shade is a mistake's share of its row: what
    is right, and no mistake, stays white.

    >>> len(confusion_matrix(np.array([[5, 1], [0, 7]]), ["7", "3"]).texts)
    4
    """
    confusion = np.asarray(confusion)
    side = 1.4 + 0.38 * max(len(classes), 5)
    ax = axes_or_new(ax, figsize=(side, side), layout="constrained")
    mistakes = np.where(np.eye(len(classes), dtype=bool), 0, confusion)
    shares = mistakes / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    ax.imshow(np.where(shares > 0, shares, np.nan), cmap="Reds", vmin=0, vmax=max(1.5 * shares.max(), 1e-9))
    for (row, column), count in np.ndenumerate(confusion):
        weight, color = ("bold", "black") if row == column else ("normal", "black" if count else "lightgrey")
        ax.text(column, row, f"{count:,}", ha="center", va="center", fontsize=8, weight=weight, color=color)
    ax.set_xticks(range(len(classes)), classes)
    ax.set_yticks(range(len(classes)), classes)
    ax.tick_params(length=0)
    ax.set(xlabel="predicted", ylabel="label")
    return ax


def reliability(calibration: Calibration, ax: Axes | None = None) -> Axes:
    """The reliability diagram: how often a model is right against how sure it says that it is.

    A bar is a bin of confidence, its height the share that is right, its shade the share of all examples in it. A
    calibrated model's bars end on the dashed diagonal.

    >>> bins = np.array([0, 10]), np.array([np.nan, 0.9]), np.array([np.nan, 0.8])
    >>> reliability(Calibration(*bins, error=0.1)).get_title()
    'expected calibration error 0.1000'
    """
    ax = axes_or_new(ax, figsize=(4.4, 4.4), layout="constrained")
    counts, accuracy = np.asarray(calibration.counts), np.asarray(calibration.accuracy)
    edges = np.linspace(0, 1, len(counts) + 1)
    filled = np.flatnonzero(counts)
    bars = ax.bar(edges[filled], accuracy[filled], 1 / len(counts), align="edge", color=BLUE, edgecolor="white")
    for bar, share in zip(bars, counts[filled] / counts.sum(), strict=True):
        bar.set_alpha(0.25 + 0.75 * share)
    ax.plot([0, 1], [0, 1], color=GREY, linestyle="--", label="calibrated")
    ax.plot(np.asarray(calibration.confidence), accuracy, ".", color=RED, label="mean of a bin")
    ax.set(xlabel="confidence", ylabel="share that is right", xlim=(0, 1), ylim=(0, 1.02))
    ax.set_title(f"expected calibration error {float(calibration.error):.4f}", fontsize=10)
    ax.legend(loc="upper left")
    return ax


def gradient_norms(norms: Float[Any, " n"], ax: Axes | None = None) -> Axes:
    """How much single images teach: the share of all gradient norms that the most instructive ones hold.

    `norms` float [n], as from `gradient_norms`; the curve rises to 1 as images are added, largest norm first.

    >>> gradient_norms(np.array([3.0, 1.0])).lines[0].get_ydata().tolist()
    [0.0, 0.75, 1.0]
    """
    ax = axes_or_new(ax, figsize=(3.6, 3.6), layout="constrained")
    held = np.cumsum(np.append(0, np.sort(np.asarray(norms, float))[::-1]))
    ax.plot(np.linspace(0, 1, len(held)), held / (held[-1] or 1), color=BLUE)
    ax.set(xlabel="share of the images, largest first", ylabel="share of all gradient norms")
    ax.set(xlim=(0, 1), ylim=(0, 1.02))
    ax.grid(alpha=0.3)
    return ax
