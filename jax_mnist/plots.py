"""Pictures of the chapter. Each function takes arrays and, if given, the axes to draw on, and returns the axes."""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float, Integer, Num
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, StrMethodFormatter

from .metrics import Calibration
from .types import History

_BLUE, _RED, _GREY = "#1f77b4", "#d62728", "#7f7f7f"


def _axes(ax: Axes | None, **size: Any) -> Axes:
    return plt.subplots(**size)[1] if ax is None else ax


def digit(image: Num[Any, "h w"], title: str = "", ax: Axes | None = None) -> Axes:
    """One digit, or any other picture of one channel, dark on light.

    `image` [h, w], uint8 or float; the lightest value is white.

    >>> digit(np.zeros((28, 28)), title="nothing").get_title()
    'nothing'
    """
    ax = _axes(ax, figsize=(2, 2))
    ax.imshow(np.asarray(image), cmap="Greys")
    ax.set_title(title)
    ax.set_axis_off()
    return ax


def digits(images: Num[Any, "n h w"], titles: Sequence[str] = (), columns: int = 10) -> np.ndarray:
    """Several digits side by side, such as the mean of every class.

    `images` [n, h, w], `titles` one for each image or none. Returns the axes, an array [n].

    >>> digits(np.zeros((2, 28, 28)), titles=["7", "3"]).shape
    (2,)
    """
    axes = _grid(len(images), columns)
    for i, image in enumerate(images):
        digit(image, titles[i] if titles else "", ax=axes[i])
    return axes


def _grid(count: int, columns: int) -> np.ndarray:
    columns = min(count, columns)
    rows = -(-count // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(1.3 * columns, 1.6 * rows), squeeze=False)
    # Room for one line of title above each; a layout that measures the texts takes a second for forty digits.
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=1 - 0.3 / (1.6 * rows), wspace=0.05, hspace=0.25)
    for unused in axes.flat[count:]:
        figure.delaxes(unused)
    return axes.flat[:count]


def pixel_table(image: Integer[Any, "h w"], ax: Axes | None = None) -> Axes:
    """The numbers of an image, each on the grey that it stands for: the chapter's shaded table.

    `image` int [h, w] with pixels in 0..255; a part of a digit, such as rows 4:15 and columns 4:22, reads best.

    >>> len(pixel_table(np.array([[0, 255]])).texts)
    2
    """
    height, width = image.shape
    ax = _axes(ax, figsize=(0.36 * width, 0.3 * height))
    ax.imshow(np.asarray(image), cmap="Greys", vmin=0, vmax=255, aspect="auto")
    for (row, column), value in np.ndenumerate(image):
        color = "white" if value > 127 else "black"
        ax.text(column, row, str(value), ha="center", va="center", fontsize=7, color=color)
    ax.set_xticks(range(width))
    ax.set_yticks(range(height))
    ax.tick_params(length=0, labelsize=7, labeltop=True, labelbottom=False)
    return ax


def tangent(
    function: Callable[[Any], Any], at: float, low: float = -2, high: float = 2, ax: Axes | None = None
) -> Axes:
    """A function of one number with a point on it and the slope there, by `jax.grad`: the chapter's `plot_function`.

    It is drawn from `low` to `high`, the point at `at`.

    >>> tangent(lambda x: x**2, at=-1.0).get_title()
    'f(-1) = 1, slope -2'
    """
    ax = _axes(ax)
    x = np.linspace(low, high, 201, dtype=np.float32)
    value, slope = (float(v) for v in jax.value_and_grad(function)(float(at)))
    near = np.array([at - (high - low) / 6, at + (high - low) / 6])
    ax.plot(x, jax.vmap(function)(x), color=_BLUE)
    ax.plot(near, value + slope * (near - at), color=_GREY, linestyle="--")
    ax.plot([at], [value], "o", color=_RED)
    ax.set(xlabel="x", ylabel="f(x)", title=f"f({at:.4g}) = {value:.4g}, slope {slope:.4g}")
    return ax


def parabola(
    time: Float[Any, " n"], speed: Float[Any, " n"], fits: Sequence[Float[Any, " n"]], titles: Sequence[str] = ()
) -> np.ndarray:
    """A fit getting better, step by step: the measurements with one curve in each picture.

    `time` and `speed` float [n], `fits` one curve [n] for each picture, `titles` one for each or none. Returns
    the axes, an array [len(fits)].

    >>> time = np.arange(3.0)
    >>> parabola(time, time**2, [time, time**2], ["before", "after"]).shape
    (2,)
    """
    _, axes = plt.subplots(
        1, len(fits), figsize=(3 * len(fits), 2.6), sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    for i, ax in enumerate(axes.flat):
        ax.scatter(time, speed, s=12, color=_BLUE)
        ax.plot(time, fits[i], color=_RED)
        ax.set(xlabel="time in s", title=titles[i] if titles else "")
    axes[0, 0].set_ylabel("speed")
    return axes.flat[:]


def curves(history: History, ax: Axes | None = None) -> Axes:
    """A run epoch by epoch: both losses, and the accuracy on an axis of its own at the right.

    >>> rows = [np.arange(1, 4), *np.ones((5, 3))]
    >>> curves(History(*rows)).get_xlabel()
    'epoch'
    """
    ax = _axes(ax, figsize=(6.4, 4), layout="constrained")
    right = ax.twinx()
    marker = "o" if len(history.epoch) == 1 else ""
    lines = [
        *ax.plot(history.epoch, history.train_loss, color=_BLUE, linestyle=":", marker=marker, label="train loss"),
        *ax.plot(history.epoch, history.valid_loss, color=_BLUE, marker=marker, label="valid loss"),
        *right.plot(history.epoch, history.accuracy, color=_RED, marker=marker, label="valid accuracy"),
    ]
    ax.set(xlabel="epoch", ylabel="loss", ylim=(0, None))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.set_ylabel("accuracy")
    ax.legend(handles=lines, loc="center right")
    return ax


def runs(histories: Mapping[str, History]) -> np.ndarray:
    """Several runs over each other, by their names: the validation loss at the left, the accuracy at the right.

    The first is drawn broad and pale, so that an equal one on top of it can be seen. Returns the axes, an array [2].

    >>> rows = [np.arange(1, 4), *np.ones((5, 3))]
    >>> [ax.get_ylabel() for ax in runs({"PyTorch": History(*rows), "JAX": History(*rows)})]
    ['loss', 'accuracy']
    """
    _, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for i, (name, history) in enumerate(histories.items()):
        style = {
            "linewidth": 1.5 if i else 6,
            "alpha": 1 if i else 0.35,
            "marker": "o" if len(history.epoch) == 1 else "",
        }
        for ax, values in zip(axes, (history.valid_loss, history.accuracy), strict=True):
            ax.plot(history.epoch, values, label=name, **style)
    for ax, label in zip(axes, ("loss", "accuracy"), strict=True):
        ax.set(xlabel="epoch", ylabel=label)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.legend()
    return axes


def sweep(
    learning_rates: Float[Any, " r"] | Sequence[float],
    accuracies: Mapping[str, Float[Any, "r s"]],
    ax: Axes | None = None,
) -> Axes:
    """Accuracy against learning rate, one line a model: the mean over seeds, with the standard deviation as bars.

    `learning_rates` [r], `accuracies` [r, s] of s seeds under each model's name; a single seed has no bars.

    >>> ax = sweep([0.1, 1.0], {"30 hidden": np.array([[0.97, 0.98], [0.98, 0.99]])})
    >>> ax.get_xscale(), [text.get_text() for text in ax.get_legend().texts]
    ('log', ['30 hidden'])
    """
    ax = _axes(ax, figsize=(6.4, 4), layout="constrained")
    for name, values in accuracies.items():
        mean, deviation = values.mean(axis=1), values.std(axis=1, ddof=1) if values.shape[1] > 1 else None
        ax.errorbar(learning_rates, mean, deviation, marker="o", capsize=3, label=name)
    ax.set(xscale="log", xlabel="learning rate", ylabel="accuracy")
    ax.legend()
    return ax


def predictions(
    images: Num[Any, "n h w"],
    predicted: Sequence[str],
    expected: Sequence[str],
    columns: int = 10,
) -> np.ndarray:
    """Digits with what a model makes of them; a mistake is titled in red, with what would have been right.

    `images` [n, h, w], `predicted` and `expected` the names of their classes, [n] each. Returns the axes, an
    array [n].

    >>> [ax.get_title() for ax in predictions(np.zeros((2, 28, 28)), ["3", "7"], ["3", "3"])]
    ['3', '7, not 3']
    """
    axes = digits(images, columns=columns)
    for ax, guess, truth in zip(axes, predicted, expected, strict=True):
        right = guess == truth
        ax.set_title(guess if right else f"{guess}, not {truth}", color="black" if right else _RED, fontsize=10)
    return axes


def confusion_matrix(confusion: Integer[Any, "k k"], classes: Sequence[str], ax: Axes | None = None) -> Axes:
    """How often each label, a row, was taken for each class, a column, with every number in its cell.

    `confusion` int [k, k], `classes` the names of the k classes. The shade is a mistake's share of its row: what
    is right, and no mistake, stays white.

    >>> len(confusion_matrix(np.array([[5, 1], [0, 7]]), ["7", "3"]).texts)
    4
    """
    confusion = np.asarray(confusion)
    side = 1.4 + 0.38 * max(len(classes), 5)
    ax = _axes(ax, figsize=(side, side), layout="constrained")
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
    ax = _axes(ax, figsize=(4.4, 4.4), layout="constrained")
    counts, accuracy = np.asarray(calibration.counts), np.asarray(calibration.accuracy)
    edges = np.linspace(0, 1, len(counts) + 1)
    filled = np.flatnonzero(counts)
    bars = ax.bar(edges[filled], accuracy[filled], 1 / len(counts), align="edge", color=_BLUE, edgecolor="white")
    for bar, share in zip(bars, counts[filled] / counts.sum(), strict=True):
        bar.set_alpha(0.25 + 0.75 * share)
    ax.plot([0, 1], [0, 1], color=_GREY, linestyle="--", label="calibrated")
    ax.plot(np.asarray(calibration.confidence), accuracy, ".", color=_RED, label="mean of a bin")
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
    ax = _axes(ax, figsize=(3.6, 3.6), layout="constrained")
    held = np.cumsum(np.append(0, np.sort(np.asarray(norms, float))[::-1]))
    ax.plot(np.linspace(0, 1, len(held)), held / (held[-1] or 1), color=_BLUE)
    ax.set(xlabel="share of the images, largest first", ylabel="share of all gradient norms")
    ax.set(xlim=(0, 1), ylim=(0, 1.02))
    ax.grid(alpha=0.3)
    return ax


def as_svg(ax: Axes) -> str:
    """The figure of these axes as an SVG document without a date, the same for the same figure; it is then closed.

    >>> as_svg(digit(np.zeros((2, 2)))).rstrip().endswith("</svg>")
    True
    """
    figure: Any = ax.figure
    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "jax_mnist"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    plt.close(figure)
    return text.getvalue()


def timings(groups: Mapping[str, Mapping[str, Sequence[float]]]) -> np.ndarray:
    """How long different ways to do the same take: a bar for each at its median, its runs as dots.

    `groups` maps what is done to the ways, and each way to the times of its runs. Returns the axes, one for each
    group.

    >>> [ax.get_title(loc="left") for ax in timings({"an epoch": {"ours": [1.0, 1.1], "theirs": [5.0, 5.2]}})]
    ['an epoch']
    """
    heights = [len(ways) for ways in groups.values()]
    _, axes = plt.subplots(
        len(groups), figsize=(8, 0.6 * len(groups) + 0.35 * sum(heights)), squeeze=False, layout="constrained",
        gridspec_kw={"height_ratios": heights},
    )  # fmt: skip
    for ax, (title, ways) in zip(axes.flat, groups.items(), strict=True):
        for place, times in enumerate(ways.values()):
            median = float(np.median(times))
            ax.barh(place, median, color=_RED if place == 0 else _BLUE, alpha=0.6)
            ax.plot(times, [place] * len(times), ".", color="black", markersize=3)
            text = f" {median:,.0f}" if median >= 100 else f" {median:.3g}"
            ax.annotate(text, (max(times), place), va="center", fontsize=8)
        ax.set_yticks(range(len(ways)), list(ways), fontsize=8)
        ax.invert_yaxis()
        ax.margins(x=0.15)
        ax.set_title(title, fontsize=9, loc="left")
    return axes.flat[:]


def growth(groups: Mapping[str, tuple[str, Sequence[int], Sequence[Sequence[float]]]]) -> np.ndarray:
    """How a time grows with a quantity, both on logarithmic axes: the medians as a line, the runs as dots.

    `groups` maps a title to the quantity's name, its values [v] and the times of the runs at each. A dashed line
    through the last median shows where the times would lie if they grew in proportion. Returns the axes, one a group.

    >>> axes = growth({"an epoch": ("images", [1000, 2000], [[1.0, 1.1], [2.0, 2.2]])})
    >>> axes[0].get_xlabel(), axes[0].get_xscale(), axes[0].get_yscale()
    ('images', 'log', 'log')
    """
    columns = min(len(groups), 2)
    rows = -(-len(groups) // columns)
    _, axes = plt.subplots(rows, columns, squeeze=False, figsize=(4 * columns, 3 * rows), layout="constrained")
    for ax, (title, (name, values, times)) in zip(axes.flat, groups.items(), strict=False):
        medians = [np.median(runs) for runs in times]
        every = np.concatenate(times)
        ax.plot(values, medians, color=_RED)
        ax.plot(np.repeat(values, [len(runs) for runs in times]), every, ".", color="black", markersize=3)
        ax.plot(values, medians[-1] * np.asarray(values) / values[-1], "--", color="grey", linewidth=0.8)
        ax.set(xscale="log", yscale="log", xlabel=name, ylim=(every.min() / 1.5, every.max() * 1.5))
        ax.set_xticks(values, [f"{value:,}" for value in values], fontsize=8)
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
        ax.minorticks_off()
        ax.set_title(title, fontsize=9, loc="left")
    return axes.flat[:]
