"""The pictures that the commands draw, without a screen; each file is written atomically."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..files import atomic_write
from ..types import Dataset, History


@contextlib.contextmanager
def picture(path: Path) -> Iterator[Any]:
    """Yield axes to draw on in the style of `jax_mnist.plots`, then write their figure as a PNG, atomically."""
    styled = import_plots().axes.styled
    from matplotlib.figure import Figure  # pyplot is not needed

    with styled():
        figure = Figure()
        yield figure.add_subplot()
        with atomic_write(path) as temporary:
            figure.savefig(temporary)


def import_plots() -> Any:
    """Return `jax_mnist.plots`; the first time this imports matplotlib, which takes half a second."""
    from .. import plots

    return plots


def draw_run(out: Path, history: History, predicted: Any, valid: Dataset, classes: tuple[str, ...]) -> None:
    """Draw curves.png, losses and accuracy per epoch, and predictions.png, forty images with the errors first.

    `predicted` are the predicted labels of the validation images, int [n].
    """
    plots = import_plots()
    with picture(out / "curves.png") as ax:
        plots.curves(history, ax)
    predicted = np.asarray(predicted)
    wrong = np.flatnonzero(predicted != valid.labels)[:20]
    right = np.flatnonzero(predicted == valid.labels)
    some = right[np.linspace(0, len(right) - 1, min(40 - len(wrong), len(right)), dtype=int)]
    shown = np.concatenate([wrong, some])
    names, truths = ([classes[label] for label in labels[shown]] for labels in (predicted, valid.labels))
    with picture(out / "predictions.png") as ax:
        plots.predictions(valid.images[shown], names, truths, ax=ax)
