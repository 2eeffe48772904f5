"""Preprocessing of a photo of a digit into MNIST format."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageOps
from scipy import ndimage

from ..files import name_parse_errors
from .formats.image_folder import SIDE

BOX = 20
"""Side of the box, in pixels, into which a digit is scaled before it is centered by mass in SIDE x SIDE."""

_WORKING_SIDE = 400
_BRIGHTNESS = 0.8  # of the pixels above half of the maximum, the median: 99% of MNIST's digits are at least so bright
_MAX_PIXELS = 64_000_000  # of four bytes, in three copies while the picture is scaled down: 768 MB


class Photo(NamedTuple):
    """A photo in MNIST format, and what was done to it."""

    image: UInt8[np.ndarray, "28 28"]
    """Light on dark in 0..255."""
    inverted: bool
    """Whether the ink was darker than the paper."""
    cropped: bool
    """Whether a frame, or something at the edge, was removed."""


def read_photo(path: str | Path) -> UInt8[np.ndarray, "28 28"]:
    """Read a photo or drawing of a digit, preprocessed as MNIST's images were.

    The file is a picture of any size and of any format and mode that Pillow reads, gray, color or partly transparent,
    dark on light or light on dark, on unevenly lit paper; of several frames, the first is read. Returns uint8 [28, 28],
    light on dark in 0..255: the digit is scaled into 20x20 pixels, keeping its aspect ratio, and centered by mass.
    Raises FileNotFoundError if the file does not exist, and ValueError, naming the file, if it is not a picture, is too
    large, or shows no digit.

    >>> import tempfile
    >>> picture = np.full((300, 400), 230, np.uint8)
    >>> picture[80:220, 190:210] = 20
    >>> path = Path(tempfile.mkdtemp()) / "one.png"
    >>> Image.fromarray(picture).save(path)
    >>> image = read_photo(path)
    >>> np.flatnonzero(image.any(axis=1)).tolist() == list(range(4, 24))
    True
    """
    return prepare_photo(path).image


def prepare_photo(path: str | Path) -> Photo:
    """Return what `read_photo` returns, with what was done to the picture: for folders of pictures."""
    path = Path(path)
    digit = _find_digit(_read_grey(path))
    if digit is None:
        raise ValueError(f"{path}: shows no digit; expected one digit, dark on light or light on dark")
    return Photo(_to_mnist_format(digit.density), digit.is_dark, digit.is_cropped)


# Read: upright, gray in [0, 1].


def _read_grey(path: Path) -> Float[np.ndarray, "h w"]:
    """Read a picture upright, gray in [0, 1], with at most _WORKING_SIDE pixels per side."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file; expected a picture, such as a PNG or JPEG")
    with path.open("rb") as file:
        start = file.read(64)
        if start[4:8] == b"ftyp" and b"hei" in start:
            raise ValueError(f"{path}: is a HEIC picture, which is not supported; save it as JPEG or PNG")
    with name_parse_errors(path, "picture"):
        image = Image.open(path)  # decodes no pixels yet
    with image:
        if image.format == "EPS":
            raise ValueError(f"{path}: is EPS, a program that would draw the picture; save it as JPEG or PNG")
        if image.width * image.height > _MAX_PIXELS:
            limit = f"{_MAX_PIXELS // 10**6} megapixels"
            raise ValueError(f"{path}: image must be at most {limit}, got {image.width}x{image.height} pixels")
        with name_parse_errors(path, "picture"):
            return _to_upright_grey(image)


def _to_upright_grey(image: Image.Image) -> Float[np.ndarray, "h w"]:
    image.draft("L", (_WORKING_SIDE, _WORKING_SIDE))  # lets a JPEG decode at reduced size, which saves time and memory
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode == "LAB":
        image = image.getchannel("L")  # Pillow cannot convert the three channels
    is_8_bit = not image.mode.startswith(("I", "F"))
    image = image.convert("RGBA" if is_8_bit else "F")  # Pillow scales down palette and 1-bit pictures badly
    image.thumbnail((_WORKING_SIDE, _WORKING_SIDE), Image.Resampling.BOX)
    if is_8_bit:
        return _composite(*(np.asarray(band, np.float32) / 255 for band in (image.convert("L"), image.getchannel("A"))))
    values = np.nan_to_num(np.asarray(image, np.float32), posinf=0, neginf=0)
    values -= min(values.min(), 0)
    return values / max(values.max(), 1)


def _composite(grey: Float[np.ndarray, "h w"], alpha: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """Put what is not transparent on white, or on black if it is light; on more of its own paper if it has one."""
    visible = grey[alpha > 0.9]
    if visible.size > 0.5 * grey.size and np.ptp(visible) > 0.2:
        backdrop = np.median(visible)
    else:
        backdrop = 1 if (alpha * grey).sum() < 0.5 * alpha.sum() else 0
    return alpha * grey + (1 - alpha) * np.float32(backdrop)


# Find the ink.


class _Ink(NamedTuple):
    density: Float[np.ndarray, "h w"]
    """How much ink each pixel has, in [0, 1]."""
    strokes: Bool[np.ndarray, "h w"]
    is_dark: bool


def _find_ink(grey: Float[np.ndarray, "h w"]) -> _Ink | None:
    """Return the ink, darker or lighter than the paper, or None if there is none."""
    difference = grey - _fit_paper(grey)
    noise = _estimate_noise(grey, difference)
    # Stroke pixels are few but far from the paper, so the cube of the difference has their sign.
    sign = np.sign(np.mean(difference**3))
    ink = np.maximum(difference * sign, 0)
    threshold = max(6 * noise, 0.02)
    if ink.max() <= threshold:
        return None
    full_ink = float(np.median(ink[ink > max(threshold, 0.5 * ink.max())]))
    density = np.clip((ink / full_ink - 0.1) / 0.8, 0, 1)
    return _Ink(density, ink > 0.4 * full_ink, bool(sign < 0))


def _estimate_noise(grey: Float[np.ndarray, "h w"], difference: Float[np.ndarray, "h w"]) -> float:
    """Return the standard deviation of the paper's noise.

    Two robust estimates are too high in different pictures: the distance from the paper where it is unlike the fit, as
    in a shadow, and the second differences in sharp pictures full of ink.
    """
    second = grey[1:-1, 1:-1] - (grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]) / 4
    spreads = (
        1.4826 * float(np.median(np.abs(values))) for values in (difference, second / np.sqrt(1.25)) if values.size
    )
    return min(spreads)


def _fit_paper(grey: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """Return the paper's brightness: a quadratic surface, refitted to the pixels near the last fit to exclude ink."""
    rows, columns = (np.linspace(-1, 1, size, dtype=np.float32) for size in grey.shape)
    y, x = np.meshgrid(rows, columns, indexing="ij")
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1).reshape(-1, 6)
    stride = max(grey.size // 5000, 1)  # a few thousand pixels are enough to fit six coefficients
    sampled_terms, sampled_grey = terms[::stride], grey.reshape(-1)[::stride]
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    coefficients = np.array([np.median(border), 0, 0, 0, 0, 0], np.float32)
    for _ in range(8):
        distance = np.abs(sampled_grey - sampled_terms @ coefficients)
        is_paper = distance <= max(2.5 * float(np.median(distance)), 0.02)
        coefficients = np.linalg.lstsq(sampled_terms[is_paper], sampled_grey[is_paper], rcond=None)[0]
    return (terms @ coefficients).reshape(grey.shape)


# Drop what is not the digit.


class _Digit(NamedTuple):
    density: Float[np.ndarray, "h w"]
    is_dark: bool
    is_cropped: bool
    length: int
    """Of the longest piece that does not touch the edge and is high enough, in pixels; 0 if there is none."""
    is_doubtful: bool
    """Whether ink along the edge says that it is something else."""


def _find_digit(grey: Float[np.ndarray, "h w"]) -> _Digit | None:
    """Return the digit, or None if there is no ink."""
    sheet = _find_sheet(grey)
    if sheet:
        digit = _find_digit(grey[sheet])
        if digit and digit.length and not digit.is_doubtful:
            return digit._replace(is_cropped=True)
    digit = _pick_digit(grey)
    if digit is None or not digit.is_doubtful:
        return digit
    # Something is lighter or darker than a smooth paper, such as a shadow.
    dark, light = _pick_digit(_flatten(grey)), _pick_digit(_flatten(1 - grey))
    found = [d._replace(is_dark=d is dark, is_cropped=True) for d in (dark, light) if d and d.is_dark]
    if any(d.is_doubtful for d in found): return digit
    best = max(found, key=lambda d: d.length, default=digit)
    return best if best.length else digit


def _find_sheet(grey) -> tuple[slice, slice] | None:
    """Return the inside of a rectangle: a sheet on a table, a plot, or a box; None if there is none."""
    threshold = grey.mean()
    for _ in range(10):
        is_light = grey > threshold
        if is_light.all() or not is_light.any(): return None
        threshold = (grey[is_light].mean() + grey[~is_light].mean()) / 2
    for mask in (is_light, ~is_light):
        pieces = np.zeros(grey.shape, np.int32)
        ndimage.label(mask, output=pieces)
        for n, box in enumerate(ndimage.find_objects(pieces), 1):
            height, width = (side.stop - side.start for side in box)
            if min(height, width) < 0.3 * min(grey.shape) or height * width > 0.97 * grey.size:
                continue
            piece = pieces[box] == n
            if piece.mean() > 0.5 and ndimage.binary_fill_holes(piece).mean() > 0.9:
                y, x = (max(round(0.015 * side), 1) for side in (height, width))
                return slice(box[0].start + y, box[0].stop - y), slice(box[1].start + x, box[1].stop - x)
    return None


def _flatten(grey):
    """Return a picture relative to the local paper, which is lighter: what is left when dark strokes are closed."""
    side = max(round(0.3 * min(grey.shape)), 1)
    padded = np.pad(grey, side, mode="edge")
    paper = ndimage.grey_closing(padded, (side, side))[side:-side, side:-side]
    return 1 - (paper - grey) / np.maximum(paper, 0.5 * paper.max())


def _pick_digit(grey: Float[np.ndarray, "h w"]) -> _Digit | None:
    """Drop what touches the edge, frames, and specks."""
    ink = _find_ink(grey)
    if ink is None:
        return None
    strokes = ink.strokes
    pieces = np.zeros(strokes.shape, np.int32)
    ndimage.label(strokes, np.ones((3, 3)), output=pieces)
    boxes = ndimage.find_objects(pieces)
    top, left, bottom, right = np.array([(y.start, x.start, y.stop, x.stop) for y, x in boxes]).T
    height, width = strokes.shape
    lengths = np.maximum(bottom - top, right - left)
    at_edge = (top == 0) | (left == 0) | (bottom == height) | (right == width)
    is_line = (bottom - top == height) | (right - left == width)
    is_digit = ~at_edge & (bottom - top >= 0.15 * height)
    rivals = lengths[at_edge & ~is_line]
    if at_edge.any() and (is_digit & (lengths >= 0.25 * rivals.max(initial=0))).any():
        dropped = at_edge  # noqa
    else:
        dropped = np.zeros(len(boxes), bool)
    for n, box in enumerate(boxes):
        inside = (top > top[n]) & (left > left[n]) & (bottom < bottom[n]) & (right < right[n]) & (lengths > 0.15 * lengths[n])
        if inside.any() and _is_frame(pieces[box] == n + 1):
            dropped[n] = True
    sizes = ndimage.sum_labels(strokes, pieces, np.arange(1, len(boxes) + 1)) * ~dropped
    kept = sizes >= 0.08 * sizes.max()
    near_strokes = ndimage.binary_dilation(np.concatenate([[False], kept])[pieces], iterations=2)  # with the soft edges of the strokes
    density = np.where(near_strokes, ink.density, 0)
    border = np.concatenate([strokes[0], strokes[-1], strokes[:, 0], strokes[:, -1]])
    suspicious = border.mean() > 0.15 and dropped is not at_edge
    return _Digit(density, ink.is_dark, bool(dropped.any()), int((lengths * kept * is_digit).max()), bool(suspicious))


def _is_frame(piece) -> bool:
    """Return True if a piece has ink along more than 80% of each side of its bounding box."""
    margin = max(max(piece.shape) // 20, 1)
    sides = piece[:margin].any(0), piece[-margin:].any(0), piece[:, :margin].any(1), piece[:, -margin:].any(1)
    return min(side.mean() for side in sides) > 0.8


# To MNIST's format.


def _to_mnist_format(ink: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "28 28"]:
    """Crop to the ink, scale into BOX x BOX and center by mass in SIDE x SIDE."""
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    digit = Image.fromarray(ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.float32))
    scale = BOX / max(digit.size)
    size = (max(round(digit.width * scale), 1), max(round(digit.height * scale), 1))
    small = np.clip(np.asarray(digit.resize(size, Image.Resampling.BICUBIC)), 0, 1)
    small = np.clip(small * max(_BRIGHTNESS / np.median(small[small > 0.5 * small.max()]), 1), 0, 1)
    canvas = np.zeros((2 * SIDE, 2 * SIDE), np.float32)
    canvas[: small.shape[0], : small.shape[1]] = small
    # The average center of mass in MNIST is at pixel 14.0 of 0..27 on both axes, not 13.5; shifts are whole pixels.
    shift = np.round(SIDE / 2 - np.array(ndimage.center_of_mass(canvas)))
    return np.round(255 * ndimage.shift(canvas, shift, order=0)[:SIDE, :SIDE]).astype(np.uint8)
