"""Plots of images, pixel values and predictions."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Integer, Num
from matplotlib.axes import Axes

from .axes import RED, WIDTH, axes_or_new, styled


@styled()
def digit(image: Num[Any, "h w"], title: str = "", ax: Axes | None = None, limit: float | None = None) -> Axes:
    """Plot one digit, or any other single-channel image, dark on light.

    `image` is uint8 or float [h, w]; its smallest value is white. With `limit`, the values are signed, such as weights:
    red is `limit` or more, white is 0, blue is -`limit` or less.

    >>> digit(np.zeros((28, 28)), title="nothing").get_title()
    'nothing'
    """
    ax = axes_or_new(ax, (2.0, 2.0))
    colors: dict[str, Any] = {"cmap": "Greys"} if limit is None else {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit}
    ax.imshow(np.asarray(image), **colors)
    ax.set_title(title)
    ax.set_axis_off()
    return ax


@styled()
def digits(
    images: Num[Any, "n h w"],
    titles: Sequence[str] = (),
    columns: int = 10,
    signed: bool = False,
    ax: Axes | None = None,
) -> Axes:
    """Plot several digits in a grid, such as the mean of each class, or, `signed`, the weights of several units.

    `images` is [n, h, w], `titles` one title per image or none. The colors are those of `digit`, with one scale for all
    images. Raises ValueError if there are no images, or if there are titles but not one for each.

    >>> [text.get_text() for text in digits(np.zeros((2, 28, 28)), titles=["7", "3"]).texts]
    ['7', '3']
    """
    images = np.asarray(images)
    count, height, width = images.shape
    if count < 1:
        raise ValueError("images must be [n, h, w] with one image or more, got 0 images")
    if len(titles) not in (0, count):
        raise ValueError(f"titles must be one for each of the {count} images, or none, got {len(titles)}")
    columns = min(count, columns)
    inches = min(WIDTH / columns, 1.2)  # the width of a tile
    gap = max(width // 14, 1)
    above = math.ceil(0.26 * width / inches) if titles else gap  # room for a title, or for nothing
    # All tiles are one image on one axes: forty axes take a second to draw.
    limit = float(np.abs(images).max(initial=1e-9)) if signed else None
    tiles = np.full((-(-count // columns) * columns, above + height, gap + width), 0 if signed else images.min(), float)
    tiles[:count, above:, gap:] = images
    whole = np.vstack([np.hstack(list(tiles[i : i + columns])) for i in range(0, len(tiles), columns)])
    ax = axes_or_new(ax, (inches * columns, inches * columns * whole.shape[0] / whole.shape[1]))
    digit(whole, ax=ax, limit=limit)
    for i, title in enumerate(titles):
        x, y = (i % columns + 0.5) * (gap + width) + gap / 2 - 0.5, i // columns * (above + height) + above - 0.5
        ax.text(x, y, title, ha="center", va="bottom", fontsize=9, in_layout=False)  # lies within the axes
    return ax


@styled()
def pixel_table(image: Integer[Any, "h w"], ax: Axes | None = None) -> Axes:
    """Plot the pixel values of an image, each on its shade of gray: the chapter's shaded table.

    `image` is int [h, w] with pixels in 0..255. A crop, such as rows 4:15 and columns 4:22 of a digit, is most legible.

    >>> len(pixel_table(np.array([[0, 255]])).texts)
    2
    """
    height, width = image.shape
    ax = axes_or_new(ax, (min(WIDTH, 0.4 * width + 0.4), 0.28 * height + 0.3))
    ax.imshow(np.asarray(image), cmap="Greys", vmin=0, vmax=255, aspect="auto")
    for (row, column), value in np.ndenumerate(image):
        color = "white" if value > 127 else "black"
        ax.text(column, row, str(value), ha="center", va="center", fontsize=8, color=color)
    ax.set_xticks(range(width))
    ax.set_yticks(range(height))
    ax.tick_params(length=0, labelsize=8, labeltop=True, labelbottom=False)
    ax.spines[:].set_visible(False)
    return ax


@styled()
def predictions(
    images: Num[Any, "n h w"],
    predicted: Sequence[str],
    expected: Sequence[str],
    columns: int = 10,
    ax: Axes | None = None,
) -> Axes:
    """Plot digits with their predicted class; the title of an error is red and also names the expected class.

    `images` is [n, h, w]; `predicted` and `expected` are the class names, [n] each. Raises ValueError if their lengths
    differ or there are no images.

    >>> [text.get_text() for text in predictions(np.zeros((2, 28, 28)), ["3", "7"], ["3", "3"]).texts]
    ['3', '7, not 3']
    """
    pairs = list(zip(predicted, expected, strict=True))
    ax = digits(images, [name if name == truth else f"{name}, not {truth}" for name, truth in pairs], columns, ax=ax)
    for text, (name, truth) in zip(ax.texts[-len(pairs) :], pairs, strict=True):
        if name != truth:
            text.set_color(RED)
    return ax
