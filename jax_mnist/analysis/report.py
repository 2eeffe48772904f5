"""Report on a trained model: one HTML page with embedded pictures, and the same numbers as JSON."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..files import atomic_write
from ..types import History, Splits
from .interpret import Example, Interpretation
from .report_page import report_page

PAGE, FIGURES = "report.html", "report.json"


def write_report(
    directory: str | Path,
    interpretation: Interpretation,
    splits: Splits,
    classes: Sequence[str],
    title: str,
    about: Mapping[str, Any],
    history: History | None = None,
) -> Path:
    """Write report.html and report.json into a directory, each atomically, and return the path of the page.

    `interpretation` is what `interpret` returned for `splits`, and `classes` are the class names. `title` and `about`,
    a mapping of names to values, describe what was trained; `history`, if given, is plotted. The page needs no other
    file and no network. Creates the directory if it is missing. Raises OSError if a file cannot be written.

    >>> import jax, optax, tempfile
    >>> from jax_mnist import Learner, interpret, linear, load, mnist_loss
    >>> splits, learner = load("mnist_sample"), Learner(linear(), mnist_loss, optax.sgd(0.1))
    >>> interpretation = interpret(learner, linear().init(jax.random.key(0)), splits)
    >>> page = write_report(tempfile.mkdtemp(), interpretation, splits, ("7", "3"), "An untrained model", {})
    >>> "An untrained model" in page.read_text()
    True
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    figures = json.dumps(as_figures(interpretation, classes), indent=2, allow_nan=False) + "\n"
    page = report_page(interpretation, splits, classes, title, about, history, FIGURES)
    for name, text in ((FIGURES, figures), (PAGE, page)):
        with atomic_write(directory / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return directory / PAGE


def as_figures(interpretation: Interpretation, classes: Sequence[str]) -> dict[str, Any]:
    """Return all numbers of the page as JSON-serializable values; None replaces NaN and infinity.

    Classes are given by name. `index` is that of an image in its dataset: the validation images for `top_losses`, the
    training images for `largest_gradients` and `likely_mislabeled`.
    """
    metrics, calibration = interpretation.metrics, interpretation.calibration
    bins = len(calibration.counts)
    return {
        "accuracy": float(metrics.accuracy),
        "loss": _number(metrics.loss),
        "count": int(metrics.count),
        "correct": int(np.trace(interpretation.confusion)),
        "classes": list(classes),
        "confusion_matrix": np.asarray(interpretation.confusion).tolist(),
        "per_class": [
            {"class": name, "count": int(count), "precision": _number(precision), "recall": _number(recall)}
            for name, count, precision, recall in zip(classes, *map(np.asarray, interpretation.per_class), strict=True)
        ],
        "most_confused": [
            {"label": classes[pair.label], "predicted": classes[pair.predicted], "count": pair.count}
            for pair in interpretation.most_confused
        ],
        "expected_calibration_error": _number(calibration.error),
        "calibration": [
            {"above": i / bins, "count": int(count), "confidence": _number(confidence), "accuracy": _number(accuracy)}
            for i, (count, confidence, accuracy) in enumerate(zip(*map(np.asarray, calibration[:3]), strict=True))
        ],
        "top_losses": _examples(interpretation.top_losses, classes, "loss"),
        "gradient_norm_mean": _number(np.mean(interpretation.gradient_norms)),
        "largest_gradients": _examples(interpretation.largest_gradients, classes, "gradient_norm"),
        "likely_mislabeled": _examples(interpretation.likely_mislabeled, classes, "label_probability"),
    }


def _number(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


def _examples(examples: Sequence[Example], classes: Sequence[str], value_name: str) -> list[dict[str, Any]]:
    return [
        {
            "index": example.index,
            "label": classes[example.label],
            "predicted": classes[example.predicted],
            "probability": _number(example.probability),
            value_name: _number(example.value),
        }
        for example in examples
    ]
