"""Preprocessing of a photo of a digit into MNIST format."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped, UInt8
from PIL import Image, ImageDraw
from scipy import ndimage

from ..files import name_parse_errors
from .formats.image_folder import SIDE
from .pictures import open_picture, to_grey

BOX = 20
"""Side of the box, in pixels, into which a digit is scaled before it is centered by mass in SIDE x SIDE."""

_WORKING_SIDE = 400
_BRIGHTNESS = 0.8  # the strokes of 94% of MNIST's digits are brighter
_MAX_PIXELS = 64_000_000  # of four bytes, in three copies while the picture is scaled down: 768 MB


class Photo(NamedTuple):
    """A photo in MNIST format, and what was done to it."""

    image: UInt8[np.ndarray, "28 28"]
    """Light on dark in 0..255."""
    inverted: bool
    """True if the ink was darker than the paper."""
    cropped: bool
    """True if a frame, or something at the edge, was removed."""


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
    """Return the image that `read_photo` returns, and what was done to the picture. Raises the same exceptions."""
    grey = _read_grey(Path(path))
    digit = _find_digit(grey)
    if digit is None and min(grey.shape) > 4 * SIDE:  # the mean of 9 pixels has less noise, such as that of dithering
        digit = _find_digit(np.asarray(Image.fromarray(grey).reduce(3)))
    if digit is None:
        raise ValueError(f"{path}: shows no digit; expected one digit, dark on light or light on dark")
    if digit.is_several:
        raise ValueError(f"{path}: shows several digits; expected one digit")
    return Photo(_to_mnist_format(digit.density), digit.is_dark, digit.is_cropped)


# Read: upright, gray in [0, 1].


def _read_grey(path: Path) -> Float[np.ndarray, "h w"]:
    """Read a picture upright, gray in [0, 1], with at most _WORKING_SIDE pixels per side."""
    if path.is_dir():
        raise ValueError(f"{path}: must be a picture, got a directory; give the pictures in it")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file; expected a picture, such as a PNG or JPEG")
    with open_picture(path) as image:
        if image.format == "EPS":
            raise ValueError(f"{path}: is EPS, a program that would draw the picture; save it as JPEG or PNG")
        if image.width * image.height > _MAX_PIXELS:
            limit = f"{_MAX_PIXELS // 10**6} megapixels"
            raise ValueError(f"{path}: image must be at most {limit}, got {image.width}x{image.height} pixels")
        with name_parse_errors(path, "picture"):
            return to_grey(image, _WORKING_SIDE)


# Find the ink.


class _Ink(NamedTuple):
    density: Float[np.ndarray, "h w"]
    """Amount of ink in each pixel, in [0, 1]."""
    is_stroke: Bool[np.ndarray, "h w"]
    is_dark: bool
    """True if the ink is darker than the paper."""


def _find_ink(grey: Float[np.ndarray, "h w"]) -> _Ink | None:
    """Return the ink, or None if nothing stands out from the paper."""
    difference = grey - _fit_paper(grey)
    # Stroke pixels are few but far from the paper, so the cube of the difference has their sign.
    sign = np.sign(np.vdot(difference * difference, difference))
    ink = np.maximum(difference * sign, 0)
    noise = 0 if max(grey.shape) <= SIDE else _estimate_noise(grey, difference)  # most pixels can be strokes' edges
    threshold = max(6 * noise, 0.02)
    if ink.max() <= threshold:
        return None
    full_ink = float(np.median(ink[ink > max(threshold, 0.5 * ink.max())]))
    return _Ink(np.clip((ink / full_ink - 0.1) / 0.8, 0, 1), ink > 0.4 * full_ink, bool(sign < 0))


def _estimate_noise(grey: Float[np.ndarray, "h w"], difference: Float[np.ndarray, "h w"]) -> float:
    """Return the noise's standard deviation, by the lower of two estimates, robust and exact for normal noise.

    The difference from the paper is too high an estimate for a blurred close crop, most of whose pixels are ink, and
    for a shadow, which the fit does not follow; the second differences are too high for small sharp pictures.
    """
    # Scaling down has correlated the noise of adjacent pixels, so the differences are between pixels two apart.
    neighbors = (grey[:-4, 2:-2] + grey[4:, 2:-2] + grey[2:-2, :-4] + grey[2:-2, 4:]) / 4
    second_difference = (grey[2:-2, 2:-2] - neighbors) / np.sqrt(1.25)
    estimates = (difference, second_difference) if second_difference.size else (difference,)
    return min(1.4826 * float(np.median(np.abs(values))) for values in estimates)


def _fit_paper(grey: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """Return the paper's brightness: a quadratic surface, refitted to the pixels near the last fit to exclude ink."""
    rows, columns = (np.linspace(-1, 1, size, dtype=np.float32) for size in grey.shape)
    y, x = np.meshgrid(rows, columns, indexing="ij")
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1).reshape(-1, 6)
    stride = max(grey.size // 5000, 1)  # a few thousand pixels are enough to fit six coefficients
    sampled_terms, sampled_grey = terms[::stride], grey.reshape(-1)[::stride]
    edge = np.median(_edge(grey))  # in a close crop, paper is most of the edge
    coefficients = np.array([edge, 0, 0, 0, 0, 0], np.float32)
    for _ in range(8):
        distance = np.abs(sampled_grey - sampled_terms @ coefficients)
        # In a close crop of thick strokes, the median pixel is ink.
        is_paper = distance <= max(min(2.5 * float(np.median(distance)), 0.5 * float(distance.max())), 0.02)
        near = sampled_terms[is_paper]
        # The normal equations take a tenth of the time; lstsq, not solve, since a narrow picture makes them singular.
        coefficients = np.linalg.lstsq(near.T @ near, near.T @ sampled_grey[is_paper], rcond=None)[0]
    return (terms @ coefficients).reshape(grey.shape)


# Drop what is not the digit.


class _Digit(NamedTuple):
    density: Float[np.ndarray, "h w"]
    is_dark: bool
    is_cropped: bool
    is_several: bool
    length: int
    """Of the longest piece of ink that is away from the edge and not small, in pixels; 0 if there is none."""
    is_doubtful: bool
    """True if much of the edge is ink and nothing else shows that this is a digit."""


def _find_digit(grey: Float[np.ndarray, "h w"], levels: int = 4) -> _Digit | None:
    """Return the digit, looked for inside a sheet first, then in the picture; None if there is no ink.

    A sheet can have a box in it, and so on, at most `levels` deep.
    """
    sheet = _find_sheet(grey) if levels else None
    inner = None if sheet is None else _find_digit(sheet, levels - 1)
    if inner and inner.length and not inner.is_doubtful:
        return inner._replace(is_cropped=True)
    digit = _pick_digit(grey)
    if digit is None or not digit.is_doubtful or max(grey.shape) <= SIDE:  # no photo is this small
        return digit
    # The paper is not smooth: a shadow falls on it. With the wrong polarity, only the gaps between strokes remain, and
    # they are shorter than the digit.
    dark, light = _pick_digit(_flatten(grey)), _pick_digit(_flatten(1 - grey))
    flat = [found._replace(is_dark=found is dark) for found in (dark, light) if found and found.is_dark]
    best = max(flat, key=lambda found: found.length, default=digit)
    return best if best.length and not any(found.is_doubtful for found in flat) else digit


def _find_sheet(grey: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "a b"] | None:
    """Return the inside of the first light or dark quadrilateral, or None: a sheet on a table, a plot, a ruled box."""
    threshold = grey.mean()
    for _ in range(10):  # to the middle between the means of both sides
        is_light = grey > threshold
        if is_light.all() or not is_light.any():
            return None
        threshold = (grey[is_light].mean() + grey[~is_light].mean()) / 2
    for mask in (grey > threshold, grey <= threshold):
        pieces = _label(mask, diagonally=False)
        boxes, sizes = ndimage.find_objects(pieces), np.bincount(pieces.ravel())
        for n in np.flatnonzero(sizes[1:] > SIDE**2 / 4) + 1:  # noise has thousands of smaller ones
            box = boxes[n - 1]
            height, width = (side.stop - side.start for side in box)
            if min(height, width) < max(0.3 * min(grey.shape), SIDE):
                continue
            piece = pieces[box] == n
            filled = np.asarray(ndimage.binary_fill_holes(piece))
            if piece.sum() < 0.55 * filled.sum() or filled.sum() > 0.97 * grey.size:
                continue
            at_edge = _edge(pieces == n).mean()
            margin = max(round(0.015 * max(height, width)), 1)  # what a slant or a blur leaves
            if (at_edge < 0.1 and _is_quadrilateral(filled)) or (at_edge > 0.3 and _is_cut_sheet(filled, grey.size)):
                inside = np.asarray(ndimage.binary_erosion(filled, iterations=margin), bool)
                # Fill the rest of a slanted sheet's bounding box with its paper.
                y, x = np.asarray(ndimage.distance_transform_edt(~inside, return_distances=False, return_indices=True))
                return grey[box][y, x]
            if filled.mean() > 0.9 and height * width < 0.97 * grey.size:
                return grey[box][margin:-margin, margin:-margin]
    return None


def _is_quadrilateral(mask: Bool[np.ndarray, "h w"]) -> bool:
    """Return True if the mask fills the quadrilateral between its four diagonal extremes, which no digit does."""
    y, x = np.nonzero(mask)
    corners = [np.argmin(x + y), np.argmax(x - y), np.argmax(x + y), np.argmin(x - y)]
    quadrilateral = Image.new("1", mask.shape[::-1])
    ImageDraw.Draw(quadrilateral).polygon([(int(x[n]), int(y[n])) for n in corners], fill=1)
    return bool((mask ^ np.asarray(quadrilateral)).sum() < 0.06 * mask.sum())


def _is_cut_sheet(mask: Bool[np.ndarray, "h w"], size: int) -> bool:
    """Return True if the mask is convex, more than half the picture, and leaves two or more of its corners free.

    It is then a slanted sheet partly out of view, and not what a shadow leaves, which is on one side.
    """
    outside = np.bincount(_label(~mask, diagonally=False).ravel())[1:]
    if mask.sum() < 0.5 * size or (outside > 0.005 * size).sum() < 2:
        return False
    hulls = [np.maximum.accumulate(m, axis) & np.maximum.accumulate(m[::-1, ::-1], axis)[::-1, ::-1]
             for m, axis in ((mask, 0), (mask, 1))]  # fmt: skip
    return all(bool(hull.sum() < 1.02 * mask.sum()) for hull in hulls)


def _edge(values: Shaped[np.ndarray, "h w"]) -> Shaped[np.ndarray, " n"]:
    """Return the outermost pixels."""
    return np.concatenate([values[0], values[-1], values[:, 0], values[:, -1]])


def _flatten(grey: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """Return dark strokes on white, relative to the local paper, which is the picture with its dark strokes closed."""
    side = round(0.3 * min(grey.shape)) + 1
    padded = np.pad(grey, side, mode="edge")
    paper = ndimage.grey_closing(padded, (side, side))[side:-side, side:-side]
    return 1 - (paper - grey) / np.maximum(paper, 0.5 * paper.max())  # in a shadow, ink differs less from the paper


def _pick_digit(grey: Float[np.ndarray, "h w"]) -> _Digit | None:
    """Return the ink without frames, specks, and what touches the edge beside a digit; None if there is no ink."""
    ink = _find_ink(grey)
    if ink is None:
        return None
    pieces = _label(ink.is_stroke, diagonally=True)
    boxes = ndimage.find_objects(pieces)
    top, bottom, left, right = np.array([(y.start, y.stop, x.start, x.stop) for y, x in boxes]).T
    heights, widths = bottom - top, right - left
    lengths = np.maximum(heights, widths)
    height, width = grey.shape

    at_edge = (top == 0) | (left == 0) | (bottom == height) | (right == width)
    crosses = (heights == height) | (widths == width)  # such as a line of a table
    is_inner = ~at_edge & (heights >= 0.15 * height)
    has_digit = is_inner & (lengths >= 0.25 * lengths[at_edge & ~crosses].max(initial=0))
    is_dropped = at_edge & has_digit.any()
    for n in np.flatnonzero(lengths > 0.1 * max(grey.shape)):
        box = boxes[n]
        is_inside = (top > top[n]) & (left > left[n]) & (bottom < bottom[n]) & (right < right[n])
        is_tall = is_inside & (heights > 0.3 * heights[n])  # taller than the middle bar of a 3
        if is_tall.any():
            piece = pieces[box] == n + 1
            enclosed = np.unique(pieces[box][np.asarray(ndimage.binary_fill_holes(piece)) & ~piece])
            # A circle drawn around a digit is about as wide as high, a slashed 0 is narrower.
            is_circle = widths[n] > 0.8 * heights[n] and bool(is_tall[enclosed[enclosed > 0] - 1].any())
            is_dropped[n] |= _is_frame(piece, 3) or is_circle
        elif (is_inside & (lengths > 0.15 * lengths[n])).any():
            is_dropped[n] |= _is_frame(pieces[box] == n + 1, 4)
    sizes = np.where(is_dropped, 0, np.bincount(pieces.ravel())[1:])
    is_kept = sizes >= 0.08 * sizes.max()
    # A short piece far from the longest is not a stroke of the digit, such as the hole of a punch.
    longest = int(np.argmax(lengths * is_kept))
    gaps_y = np.maximum(top - bottom[longest], top[longest] - bottom)
    gaps_x = np.maximum(left - right[longest], left[longest] - right)
    is_kept &= (lengths > 0.3 * lengths[longest]) | (np.maximum(gaps_y, gaps_x) < 0.25 * lengths[longest])

    height, width = bottom[is_kept].max() - top[is_kept].min(), right[is_kept].max() - left[is_kept].min()
    is_scattered = lengths[is_kept].max() < 0.08 * max(height, width)  # such as noise, or a page of text
    # Of MNIST's training images that are less than twice as high as wide, the boldest fills 86% of its box.
    is_block = sizes[is_kept].sum() > 0.9 * height * width and max(height, width) < 2 * min(height, width)
    if is_scattered or is_block:
        return None
    is_close_crop = height > 0.9 * grey.shape[0] and width > 0.9 * grey.shape[1]

    near_strokes = ndimage.binary_dilation(np.append(False, is_kept)[pieces], iterations=2)  # with their soft edges
    return _Digit(
        density=np.where(near_strokes, ink.density, 0),
        is_dark=ink.is_dark,
        is_cropped=bool(is_dropped.any()),
        is_several=_is_several(top[is_kept], bottom[is_kept], left[is_kept], right[is_kept]),
        length=int((lengths * (is_kept & is_inner)).max()),
        is_doubtful=bool(_edge(ink.is_stroke).mean() > 0.15) and not (has_digit.any() or is_close_crop),
    )


def _label(mask: Bool[np.ndarray, "h w"], diagonally: bool) -> Int[np.ndarray, "h w"]:
    """Return the number of the connected piece, from 1, that each pixel belongs to; 0 outside."""
    pieces = np.zeros(mask.shape, np.int32)
    ndimage.label(mask, np.ones((3, 3)) if diagonally else None, output=pieces)
    return pieces


def _is_frame(piece: Bool[np.ndarray, "h w"], count: int) -> bool:
    """Return True if a piece has ink along more than 80% of at least `count` sides of its bounding box."""
    margin = max(max(piece.shape) // 20, 1)  # a photographed frame is slightly slanted
    sides = piece[:margin].any(0), piece[-margin:].any(0), piece[:, :margin].any(1), piece[:, -margin:].any(1)
    return sum(bool(side.mean() > 0.8) for side in sides) >= count


def _is_several(
    top: Int[np.ndarray, " n"], bottom: Int[np.ndarray, " n"], left: Int[np.ndarray, " n"], right: Int[np.ndarray, " n"]
) -> bool:
    """Return True if pieces are too alike in height, and too far apart, for the strokes of one digit."""
    height, width = bottom.max() - top.min(), right.max() - left.min()
    heights, gap = _separate(left, right, top, bottom)
    is_wide = width > 0.9 * height and gap > 0.05 * height  # a broken 5 has a narrower gap
    if (heights > 0.6 * heights.max()).sum() > 1 and (is_wide or gap > 0.25 * height):  # two 1s are narrow
        return True
    heights, gap = _separate(top, bottom, top, bottom)
    return bool((heights > 0.6 * heights.max()).sum() > 1 and gap > 0.15 * heights.max())  # one above the other


def _separate(
    start: Int[np.ndarray, " n"], stop: Int[np.ndarray, " n"], top: Int[np.ndarray, " n"], bottom: Int[np.ndarray, " n"]
) -> tuple[Int[np.ndarray, " g"], int]:
    """Return the heights of the groups of pieces with a gap between them along an axis, and the largest gap, or 0."""
    order = np.argsort(start)
    gaps = start[order][1:] - np.maximum.accumulate(stop[order])[:-1]
    groups = np.flatnonzero(np.append(True, gaps > 0))
    heights = np.maximum.reduceat(bottom[order], groups) - np.minimum.reduceat(top[order], groups)
    return heights, int(gaps.max(initial=0))


# To MNIST's format.


def _to_mnist_format(ink: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "28 28"]:
    """Crop to the ink, scale into BOX x BOX, brighten, and center by mass in SIDE x SIDE."""
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    digit = Image.fromarray(ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.float32))
    scale = BOX / max(digit.size)
    size = (max(round(digit.width * scale), 1), max(round(digit.height * scale), 1))
    small = np.clip(np.asarray(digit.resize(size, Image.Resampling.BICUBIC)), 0, 1)
    typical = np.median(small[small > 0.3 * small.max()])  # below it are the soft edges
    small = np.clip(small * max(_BRIGHTNESS / typical, 1), 0, 1)  # scaled down, thin strokes are faint
    canvas = np.zeros((2 * SIDE, 2 * SIDE), np.float32)
    canvas[: small.shape[0], : small.shape[1]] = small
    # The average center of mass in MNIST is at pixel 14.0 of 0..27 on both axes, not 13.5; shifts are whole pixels.
    shift = np.round(SIDE / 2 - np.array(ndimage.center_of_mass(canvas)))
    return np.round(255 * ndimage.shift(canvas, shift, order=0)[:SIDE, :SIDE]).astype(np.uint8)
