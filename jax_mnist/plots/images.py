"""Plots of images, pixel values and predictions."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Integer, Num
from matplotlib.axes import Axes

from .axes import RED, axes_or_new


def digit(image: Num[Any, "h w"], title: str = "", ax: Axes | None = None, limit: float | None = None) -> Axes:
    """Plot one digit, or any other single-channel image, dark on light.

    `image` is uint8 or float [h, w]; its smallest value is white. With `limit`, the values are signed, such as weights:
    red is `limit` or more, white is 0, blue is -`limit` or less.

    >>> digit(np.zeros((28, 28)), title="nothing").get_title()
    'nothing'
    """
    ax = axes_or_new(ax, figsize=(2, 2))
    colors: dict[str, Any] = {"cmap": "Greys"} if limit is None else {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit}
    ax.imshow(np.asarray(image), **colors)
    ax.set_title(title)
    ax.set_axis_off()
    return ax


def digits(
    images: Num[Any, "n h w"], titles: Sequence[str] = (), columns: int = 10, signed: bool = False
) -> np.ndarray:
    """Plot several digits in a grid, such as the mean of each class, or, `signed`, the weights of several units.

    `images` is [n, h, w], `titles` one title per image or none. Signed values are red above 0 and blue below 0, with
    one color scale for all images. Returns the axes, an array [n].

    >>> digits(np.zeros((2, 28, 28)), titles=["7", "3"]).shape
    (2,)
    """
    axes = _grid(len(images), columns)
    limit = float(np.abs(images).max(initial=1e-9)) if signed else None
    for i, image in enumerate(images):
        digit(image, titles[i] if titles else "", ax=axes[i], limit=limit)
    return axes


def _grid(count: int, columns: int) -> np.ndarray:
    if count < 1:
        raise ValueError("images must be [n, h, w] with one image or more, got 0 images")
    columns = min(count, columns)
    rows = -(-count // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(1.3 * columns, 1.6 * rows), squeeze=False)
    # Leave room for a one-line title above each image. A constrained layout of forty digits takes a second.
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=1 - 0.3 / (1.6 * rows), wspace=0.05, hspace=0.25)
    for unused in axes.flat[count:]:
        figure.delaxes(unused)
    return axes.flat[:count]


def pixel_table(image: Integer[Any, "h w"], ax: Axes | None = None) -> Axes:
    """Plot the pixel values of an image, each on its shade of gray: the chapter's shaded table.

    `image` is int [h, w] with pixels in 0..255. A crop, such as rows 4:15 and columns 4:22 of a digit, is most legible.

    >>> len(pixel_table(np.array([[0, 255]])).texts)
    2
    """
    height, width = image.shape
    ax = axes_or_new(ax, figsize=(0.36 * width, 0.3 * height))
    ax.imshow(np.asarray(image), cmap="Greys", vmin=0, vmax=255, aspect="auto")
    for (row, column), value in np.ndenumerate(image):
        color = "white" if value > 127 else "black"
        ax.text(column, row, str(value), ha="center", va="center", fontsize=7, color=color)
    ax.set_xticks(range(width))
    ax.set_yticks(range(height))
    ax.tick_params(length=0, labelsize=7, labeltop=True, labelbottom=False)
    return ax


def predictions(
    images: Num[Any, "n h w"], predicted: Sequence[str], expected: Sequence[str], columns: int = 10
) -> np.ndarray:
    """Plot digits with their predicted class; the title of an error is red and also names the expected class.

    `images` is [n, h, w]; `predicted` and `expected` are the class names, [n] each. Returns the axes, an array [n].

    >>> [ax.get_title() for ax in predictions(np.zeros((2, 28, 28)), ["3", "7"], ["3", "3"])]
    ['3', '7, not 3']
    """
    axes = digits(images, columns=columns)
    for ax, guess, truth in zip(axes, predicted, expected, strict=True):
        title, color = (guess, "black") if guess == truth else (f"{guess}, not {truth}", RED)
        ax.set_title(title, color=color, fontsize=10)
    return axes
