"""The page of a report: headings, tables and embedded pictures as HTML."""

import base64
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from PIL import Image

from .. import plots
from ..types import Dataset, History, Splits
from .interpret import Example, Interpretation


def report_page(
    findings: Interpretation,
    splits: Splits,
    classes: Sequence[str],
    title: str,
    about: Mapping[str, Any],
    history: History | None,
    figures_file: str,
) -> str:
    """The page as text; `figures_file` is the name of the file of the same figures that it mentions."""
    metrics, right = findings.metrics, int(np.trace(findings.confusion))
    numbers = {
        "accuracy": f"{float(metrics.accuracy):.4f}",
        "wrong": f"{int(metrics.count) - right:,} of {int(metrics.count):,}",
        "loss": f"{float(metrics.loss):.4f}",
        "calibration error": f"{float(findings.calibration.error):.4f}",
    }
    curves = "" if history is None else _chart(plots.curves(history), "Loss and accuracy after every epoch")
    sections = [
        ("Training", "", f'<div class="beside">{_definitions(about, "about")}{curves}</div>'),
        ("Classes", _CLASSES, f'<div class="beside">{_confusion(findings, classes)}</div>'),
        ("Top losses", _TOP_LOSSES, _digits(findings.top_losses, splits.valid, classes, _loss)),
        ("Calibration", _CALIBRATION, f'<div class="beside">{_reliability(findings)}</div>'),
        ("What teaches most", _TEACH, f'<div class="beside">{_teachers(findings, splits, classes)}</div>'),
        ("What looks mislabelled", _DOUBT, _digits(findings.look_mislabelled, splits.train, classes, _doubt)),
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
<footer><p>Written by jax_mnist. The same figures are in {figures_file}.</p></footer>
</body>
</html>
"""


_CLASSES = (
    "A row is a label, a column what the model made of it; right answers are on the diagonal, and a cell is the "
    "redder the larger its share of its row. Precision is the share of a class's predictions that are right, recall "
    "the share of its images that are found."
)
_TOP_LOSSES = (
    "The validation images on which the model's loss is largest: what it predicted, the label, and how sure it was."
)
_CALIBRATION = (
    "A calibrated model that says 90% is right nine times in ten: its bars end on the diagonal. Bars below it are "
    "overconfidence. A bar's shade is the share of the validation images in it."
)
_TEACH = (
    "The training images whose own gradient is largest: each would change the model more than the others. The curve "
    "says how few of them hold how much of all."
)
_DOUBT = (
    "The training images whose label the trained model believes least. A wrong label looks like this; so does a digit "
    "written like another."
)


def _definitions(values: Mapping[str, Any], kind: str) -> str:
    rows = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(str(value))}</dd></div>" for name, value in values.items())
    return f'<dl class="{kind}">{rows}</dl>'


def _confusion(findings: Interpretation, classes: Sequence[str]) -> str:
    picture = _chart(plots.confusion_matrix(findings.confusion, classes), "Confusion matrix")
    figures = zip(classes, *map(np.asarray, findings.per_class), strict=True)
    per_class = [(name, f"{count:,}", _share(precision), _share(recall)) for name, count, precision, recall in figures]
    pairs = [(classes[label], classes[other], f"{count:,}") for label, other, count in findings.confused[:10]]
    return (
        picture
        + _table("By class", ("class", "images", "precision", "recall"), per_class)
        + _table("Most confused", ("label", "predicted", "images"), pairs)
    )


def _reliability(findings: Interpretation) -> str:
    counts, confidence, accuracy, _ = map(np.asarray, findings.calibration)
    rows = [
        (
            f"{i / len(counts):.2f} to {(i + 1) / len(counts):.2f}",
            f"{counts[i]:,}",
            _share(confidence[i]),
            _share(accuracy[i]),
        )
        for i in np.flatnonzero(counts)
    ]
    headings = ("confidence", "images", "its mean", "share right")
    return _chart(plots.reliability(findings.calibration), "Reliability diagram") + _table(
        "By confidence", headings, rows
    )


def _share(value: Any) -> str:
    return "none" if math.isnan(value) else f"{value:.4f}"


def _table(caption: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{heading}</th>' for heading in headings)
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in others)}</tr>\n'
        for first, *others in rows
    )
    return f"<table><caption>{caption}</caption>\n<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table>\n"


def _teachers(findings: Interpretation, splits: Splits, classes: Sequence[str]) -> str:
    curve = _chart(plots.gradient_norms(findings.gradient_norms), "Share of all gradient norms by share of images")
    return curve + _digits(findings.teach_most, splits.train, classes, _norm)


def _loss(value: float) -> str:
    return f"loss {value:.3f}"


def _norm(value: float) -> str:
    return f"norm {value:.2f}"


def _doubt(value: float) -> str:
    return f"label {value:.1%}" if value >= 0.001 else "label below 0.1%"


def _digits(
    examples: Sequence[Example], dataset: Dataset, classes: Sequence[str], describe: Callable[[float], str]
) -> str:
    items = []
    for place, label, predicted, probability, value in examples:
        guess, truth = escape(classes[predicted]), escape(classes[label])
        said = f"<b>{guess}</b>" if label == predicted else f'<b class="wrong">{guess}, not {truth}</b>'
        lines = f"{said}<br>{probability:.1%} sure<br>{describe(value)}<br>#{place}"
        picture = f'<img src="{_png(dataset.images[place])}" width="84" height="84" alt="image {place}, a {truth}">'
        items.append(f"<li><figure>{picture}<figcaption>{lines}</figcaption></figure></li>")
    return '<ul class="digits">\n' + "\n".join(items) + "\n</ul>\n"


def _png(image: Any) -> str:
    file = io.BytesIO()
    Image.fromarray(255 - np.asarray(image)).save(file, format="PNG", optimize=True)
    return _data("image/png", file.getvalue())


def _chart(ax: Axes, alternative: str) -> str:
    source = _data("image/svg+xml", _svg(ax).encode())
    return f'<figure><img src="{source}" alt="{alternative}"></figure>\n'


def _data(kind: str, contents: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(contents).decode()}"


def _svg(ax: Axes) -> str:
    """The figure of these axes as an SVG document without a date, the same for the same figure; it is then closed."""
    figure: Any = ax.figure
    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "jax_mnist"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    plt.close(figure)
    return text.getvalue()
