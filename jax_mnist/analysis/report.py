"""A look at a trained model as one HTML page, pictures embedded, and the same figures as JSON."""

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
    findings: Interpretation,
    splits: Splits,
    classes: Sequence[str],
    title: str,
    about: Mapping[str, Any],
    history: History | None = None,
) -> Path:
    """Write report.html and report.json into a directory, each whole or not at all; returns the page's path.

    `findings` are those of `examine` for `splits`, `classes` the names of the classes. `title` and `about`, names
    and values, say what was trained; `history`, where there is one, is drawn. The page needs no other file and no
    network. Raises OSError where it cannot be written.

    >>> import jax, tempfile
    >>> from jax_mnist import examine, linear, load, mnist_loss
    >>> splits = load("mnist_sample")
    >>> findings = examine(linear(), linear().init(jax.random.key(0)), splits, mnist_loss)
    >>> page = write_report(tempfile.mkdtemp(), findings, splits, ("7", "3"), "An untrained model", {})
    >>> "An untrained model" in page.read_text()
    True
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    figures = json.dumps(as_figures(findings, classes), indent=2, allow_nan=False) + "\n"
    page = report_page(findings, splits, classes, title, about, history, FIGURES)
    for name, text in ((FIGURES, figures), (PAGE, page)):
        with atomic_write(directory / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return directory / PAGE


def as_figures(findings: Interpretation, classes: Sequence[str]) -> dict[str, Any]:
    """All figures of the page as numbers, texts, lists and dicts, classes by name; None where there is no number.

    `place` is an image's place in its dataset: of the validation images in `top_losses`, of the training images in
    `teach_most` and `look_mislabelled`.
    """
    metrics, bins = findings.metrics, len(findings.calibration.counts)
    return {
        "accuracy": float(metrics.accuracy),
        "loss": _number(metrics.loss),
        "count": int(metrics.count),
        "correct": int(np.trace(findings.confusion)),
        "classes": list(classes),
        "confusion_matrix": np.asarray(findings.confusion).tolist(),
        "per_class": [
            {"class": name, "count": int(count), "precision": _number(precision), "recall": _number(recall)}
            for name, count, precision, recall in zip(classes, *map(np.asarray, findings.per_class), strict=True)
        ],
        "most_confused": [
            {"label": classes[pair.label], "predicted": classes[pair.predicted], "count": pair.examples}
            for pair in findings.confused
        ],
        "expected_calibration_error": _number(findings.calibration.error),
        "calibration": [
            {"above": i / bins, "count": int(count), "confidence": _number(confidence), "accuracy": _number(accuracy)}
            for i, (count, confidence, accuracy) in enumerate(
                zip(*map(np.asarray, findings.calibration[:3]), strict=True)
            )
        ],
        "top_losses": [_example(example, classes, "loss") for example in findings.top_losses],
        "gradient_norm_mean": _number(np.mean(findings.gradient_norms)),
        "teach_most": [_example(example, classes, "gradient_norm") for example in findings.teach_most],
        "look_mislabelled": [_example(example, classes, "label_probability") for example in findings.look_mislabelled],
    }


def _number(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


def _example(example: Example, classes: Sequence[str], value: str) -> dict[str, Any]:
    return {
        "place": example.place,
        "label": classes[example.label],
        "predicted": classes[example.predicted],
        "probability": _number(example.probability),
        value: _number(example.value),
    }
