"""HTML page of a report: headings, tables and embedded pictures."""

import base64
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from .. import plots
from ..plots.axes import SQUARE, grid_size
from ..types import Dataset, History, Splits
from .interpret import Example, Interpretation


def report_page(
    interpretation: Interpretation,
    splits: Splits,
    classes: Sequence[str],
    title: str,
    about: Mapping[str, Any],
    history: History | None,
    figures_file: str,
) -> str:
    """Return the page as text; its footer refers to `figures_file`, the file with the same numbers."""
    metrics, correct = interpretation.metrics, int(np.trace(interpretation.confusion))
    numbers = {
        "Accuracy": f"{float(metrics.accuracy):.4f}",
        "Errors": f"{int(metrics.count) - correct:,} of {int(metrics.count):,}",
        "Loss": f"{float(metrics.loss):.4f}",
        "Calibration error": f"{float(interpretation.calibration.error):.4f}",
    }
    curves = ""
    if history is not None:
        # Narrower than in a notebook, so that its text stays legible on a phone.
        curves = _chart("Loss and accuracy after every epoch", lambda ax: plots.curves(history, ax), (5.0, 3.2))
    sections = [
        ("Training", "", f'<div class="beside">{_definitions(about, "about")}{curves}</div>'),
        ("Classes", _CLASSES, f'<div class="beside">{_confusion(interpretation, classes)}</div>'),
        ("Top losses", _TOP_LOSSES, _digits(interpretation.top_losses, splits.valid, classes, _loss)),
        ("Calibration", _CALIBRATION, f'<div class="beside">{_reliability(interpretation)}</div>'),
        ("Largest gradients", _GRADIENTS, f'<div class="beside">{_gradients(interpretation, splits, classes)}</div>'),
        ("Likely mislabeled", _MISLABELED, _digits(interpretation.likely_mislabeled, splits.train, classes, _label)),
    ]
    body = "\n".join(
        f"<section>\n<h2>{heading}</h2>\n{f'<p>{text}</p>' if text else ''}\n{content}\n</section>"
        for heading, text, content in sections
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>
{Path(__file__).with_name("report.css").read_text(encoding="utf-8")}</style>
</head>
<body>
<header>
<h1>{escape(title)}</h1>
{_definitions(numbers, "numbers")}
</header>
<main>
{body}
</main>
<footer><p>Written by jax_mnist. {figures_file} contains the same numbers.</p></footer>
</body>
</html>
"""


_CLASSES = (
    "Rows are labels, columns are predictions, and correct predictions are on the diagonal. The larger an error's "
    "fraction of its row, the darker its cell. Precision is the fraction of a class's predictions that are "
    "correct, recall the fraction of its images that are predicted correctly."
)
_TOP_LOSSES = (
    "The validation images with the largest loss, each with the prediction, the label and the model's confidence."
)
_CALIBRATION = (
    "A calibrated model with a confidence of 90% is correct nine times in ten: its bars end on the diagonal. Bars "
    "below the diagonal mean overconfidence. The more validation images a bar contains, the darker it is."
)
_GRADIENTS = (
    "The training images whose own loss has the largest gradient: these would change the model most. The curve shows "
    "how much of the sum of all gradient norms the largest ones contribute."
)
_MISLABELED = (
    "The training images whose label has the lowest probability under the trained model. Some have a wrong label, "
    "others are digits written like another digit."
)


def _definitions(values: Mapping[str, Any], kind: str) -> str:
    rows = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(str(value))}</dd></div>" for name, value in values.items())
    return f'<dl class="{kind}">{rows}</dl>'


def _confusion(interpretation: Interpretation, classes: Sequence[str]) -> str:
    picture = _chart(
        "Confusion matrix",
        lambda ax: plots.confusion_matrix(interpretation.confusion, classes, ax),
        grid_size(len(classes)),
    )
    per_class = [
        (name, f"{count:,}", _fraction(precision), _fraction(recall))
        for name, count, precision, recall in zip(classes, *map(np.asarray, interpretation.per_class), strict=True)
    ]
    pairs = [
        (classes[pair.label], classes[pair.predicted], f"{pair.count:,}") for pair in interpretation.most_confused[:10]
    ]
    return (
        picture
        + _table("Per class", ("Class", "Images", "Precision", "Recall"), per_class)
        + _table("Most confused", ("Label", "Predicted", "Images"), pairs)
    )


def _reliability(interpretation: Interpretation) -> str:
    counts, confidence, accuracy, _ = map(np.asarray, interpretation.calibration)
    rows = [
        (
            f"{i / len(counts):.2f} to {(i + 1) / len(counts):.2f}",
            f"{counts[i]:,}",
            _fraction(confidence[i]),
            _fraction(accuracy[i]),
        )
        for i in np.flatnonzero(counts)
    ]
    picture = _chart("Reliability diagram", lambda ax: plots.reliability(interpretation.calibration, ax), SQUARE)
    return picture + _table("By confidence", ("Confidence", "Images", "Mean confidence", "Accuracy"), rows)


def _fraction(value: Any) -> str:
    return "none" if math.isnan(value) else f"{value:.4f}"


def _table(caption: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{heading}</th>' for heading in headings)
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in others)}</tr>\n'
        for first, *others in rows
    )
    return f"<table><caption>{caption}</caption>\n<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table>\n"


def _gradients(interpretation: Interpretation, splits: Splits, classes: Sequence[str]) -> str:
    curve = _chart(
        "Fraction of all gradient norms by fraction of images",
        lambda ax: plots.gradient_norms(interpretation.gradient_norms, ax),
        SQUARE,
    )
    return curve + _digits(interpretation.largest_gradients, splits.train, classes, _norm)


def _loss(value: float) -> str:
    return f"loss {value:.3f}"


def _norm(value: float) -> str:
    return f"norm {value:.2f}"


def _label(value: float) -> str:
    return f"label {value:.1%}" if value >= 0.001 else "label below 0.1%"


def _digits(
    examples: Sequence[Example], dataset: Dataset, classes: Sequence[str], describe: Callable[[float], str]
) -> str:
    items = []
    for index, label, predicted, probability, value in examples:
        guess, truth = escape(classes[predicted]), escape(classes[label])
        heading = f"<b>{guess}</b>" if label == predicted else f'<b class="wrong">{guess}, not {truth}</b>'
        lines = f"{heading}<br>{probability:.1%} sure<br>{describe(value)}<br>#{index}"
        source = _png(dataset.images[index])
        picture = f'<img src="{source}" width="84" height="84" alt="image {index}, label {truth}">'
        items.append(f"<li><figure>{picture}<figcaption>{lines}</figcaption></figure></li>")
    return '<ul class="digits">\n' + "\n".join(items) + "\n</ul>\n"


def _png(image: Any) -> str:
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8:  # floats in [0, 1]
        pixels = np.round(255 * pixels).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(255 - pixels).save(file, format="PNG", optimize=True)
    return _data("image/png", file.getvalue())


def _chart(alt: str, draw: Callable[[Axes], Axes], size: tuple[float, float]) -> str:
    """Return a plot as an SVG image. Equal plots give equal bytes: no date, and a fixed salt for its ids."""
    text = io.StringIO()
    with rc_context({**plots.STYLE, "svg.hashsalt": "jax_mnist"}):
        figure = Figure(figsize=size)  # not pyplot's: nothing to close
        draw(figure.add_subplot())
        figure.savefig(text, format="svg", metadata={"Date": None})
    source = _data("image/svg+xml", text.getvalue().encode())
    return f'<figure><img src="{source}" alt="{alt}"></figure>\n'


def _data(kind: str, contents: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(contents).decode()}"
