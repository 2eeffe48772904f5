"""What the commands draw: without a screen, and each file whole or not at all."""

from pathlib import Path
from typing import Any

import numpy as np

from ..analysis import predict_logits
from ..files import atomic_write
from ..metrics import predicted_labels
from ..types import Dataset, History, Model, Params


def load_plots() -> Any:
    """The module `plots`, drawing into files alone; matplotlib is imported here and not before."""
    import matplotlib

    matplotlib.use("Agg")
    from .. import plots

    return plots


def save_picture(path: Path, ax: Any) -> None:
    """Write the figure of these axes as a PNG, whole or not at all."""
    with atomic_write(path) as temporary:
        ax.figure.savefig(temporary, dpi=100)


def draw_run(
    out: Path, history: History, model: Model, params: Params, valid: Dataset, classes: tuple[str, ...]
) -> None:
    """Draw curves.png, the run epoch by epoch, and predictions.png, the model's mistakes first."""
    plots = load_plots()
    save_picture(out / "curves.png", plots.curves(history))
    logits = predict_logits(model, params, valid)
    predicted = np.asarray(predicted_labels(logits))
    wrong = np.flatnonzero(predicted != valid.labels)[:20]
    right = np.flatnonzero(predicted == valid.labels)
    some = right[np.linspace(0, len(right) - 1, min(40 - len(wrong), len(right)), dtype=int)]
    shown = np.concatenate([wrong, some])
    guesses, truths = ([classes[label] for label in labels[shown]] for labels in (predicted, valid.labels))
    save_picture(out / "predictions.png", plots.predictions(valid.images[shown], guesses, truths)[0])
