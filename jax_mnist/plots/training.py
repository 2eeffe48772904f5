"""Plots of training: one run, several runs, and a learning-rate sweep."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ..types import History
from .axes import BLUE, RED, WIDTH, axes_or_new, styled


@styled()
def curves(history: History, ax: Axes | None = None) -> Axes:
    """Plot both losses of a run per epoch, and its accuracy on a second y-axis on the right.

    >>> columns = [np.arange(1, 4), *np.ones((5, 3))]
    >>> curves(History(*columns)).get_xlabel()
    'Epoch'
    """
    ax = axes_or_new(ax)
    right = ax.twinx()
    right.spines["right"].set_visible(True)
    marker = "o" if len(history.epoch) == 1 else ""  # a line through a single point is invisible
    lines = [
        *ax.plot(history.epoch, history.train_loss, ":", color=BLUE, marker=marker, label="Training loss"),
        *ax.plot(history.epoch, history.valid_loss, "-", color=BLUE, marker=marker, label="Validation loss"),
        *right.plot(history.epoch, history.accuracy, "--", color=RED, marker=marker, label="Validation accuracy"),
    ]
    ax.set(xlabel="Epoch", ylabel="Loss", ylim=(0, None))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.set_ylabel("Accuracy")
    ax.legend(handles=lines, loc="center right")
    return ax


@styled()
def runs(histories: Mapping[str, History]) -> np.ndarray:
    """Plot the validation loss (left) and the accuracy (right) of several named runs.

    The first run is drawn wide and pale, so that an equal run on top of it stays visible. Returns the axes, an array
    [2].

    >>> columns = [np.arange(1, 4), *np.ones((5, 3))]
    >>> [ax.get_ylabel() for ax in runs({"PyTorch": History(*columns), "JAX": History(*columns)})]
    ['Loss', 'Accuracy']
    """
    import matplotlib.pyplot as plt

    _, axes = plt.subplots(1, 2, figsize=(WIDTH, 2.8))
    for i, (name, history) in enumerate(histories.items()):
        style = {
            "linewidth": 1.5 if i else 6,
            "alpha": 1 if i else 0.35,
            "marker": "o" if len(history.epoch) == 1 else "",
        }
        for ax, values in zip(axes, (history.valid_loss, history.accuracy), strict=True):
            ax.plot(history.epoch, values, label=name, **style)
    for ax, label in zip(axes, ("Loss", "Accuracy"), strict=True):
        ax.set(xlabel="Epoch", ylabel=label)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.legend()
    return axes


@styled()
def sweep(
    learning_rates: Float[Any, " r"] | Sequence[float],
    accuracies: Mapping[str, Float[Any, "r s"]],
    ax: Axes | None = None,
) -> Axes:
    """Plot accuracy against learning rate, one line per model: the mean over seeds, with standard deviation bars.

    `learning_rates` is [r]; `accuracies` maps each model's name to [r, s], for s seeds. A single seed has no bars.

    >>> ax = sweep([0.1, 1.0], {"30 hidden": np.array([[0.97, 0.98], [0.98, 0.99]])})
    >>> ax.get_xscale(), [text.get_text() for text in ax.get_legend().texts]
    ('log', ['30 hidden'])
    """
    ax = axes_or_new(ax)
    for name, values in accuracies.items():
        mean, deviation = values.mean(axis=1), values.std(axis=1, ddof=1) if values.shape[1] > 1 else None
        ax.errorbar(learning_rates, mean, deviation, marker="o", label=name)
    ax.set(xscale="log", xlabel="Learning rate", ylabel="Accuracy")
    ax.legend()
    return ax
