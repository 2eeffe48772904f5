"""A person's own picture of a digit, made into what MNIST's pictures are."""

from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageOps
from scipy import ndimage

from ..files import parsing
from .formats.image_folder import SIDE

BOX = 20
"""The side of the box that a digit is fitted into, before it is centred by mass in SIDE x SIDE."""

_LARGEST = 400
_MAX_PIXELS = 64_000_000  # of four bytes, three times over while it is made smaller: 768 MB


def read_photo(path: str | Path) -> UInt8[np.ndarray, "28 28"]:
    """A digit from a PNG or JPEG of any size, as MNIST's own were made.

    The picture may be grey, colour or partly transparent, dark on light or light on dark, on unevenly lit
    paper. Returns uint8 [28, 28], light on dark in 0..255: fitted into 20x20 with its proportions kept, and
    centred by mass. Raises FileNotFoundError where there is no file, ValueError, naming the file, where it is
    no picture, too large, or shows nothing.

    >>> import tempfile
    >>> picture = np.full((300, 400), 230, np.uint8)
    >>> picture[80:220, 190:210] = 20
    >>> path = Path(tempfile.mkdtemp()) / "one.png"
    >>> Image.fromarray(picture).save(path)
    >>> image = read_photo(path)
    >>> np.flatnonzero(image.any(axis=1)).tolist() == list(range(4, 24))
    True
    """
    grey = _open(Path(path))
    ink = _ink(grey)
    if ink is None:
        raise ValueError(f"{path}: shows no digit; expected one digit, dark on light or light on dark")
    return _as_mnist(ink)


def _open(path: Path) -> Float[np.ndarray, "h w"]:
    """The picture upright, on white, grey in [0, 1], at most _LARGEST pixels a side."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file; expected a PNG or JPEG")
    with parsing(path, "PNG or JPEG"), Image.open(path, formats=["PNG", "JPEG"]) as image:
        width, height = image.size
        grey = _upright_grey(image) if width * height <= _MAX_PIXELS else None
    if grey is None:
        raise ValueError(f"{path}: {width}x{height} is too large; expected at most {_MAX_PIXELS // 10**6} megapixels")
    return grey


def _upright_grey(image: Image.Image) -> Float[np.ndarray, "h w"]:
    image.draft("L", (_LARGEST, _LARGEST))
    upright = ImageOps.exif_transpose(image)
    if upright.mode == "I;16":
        upright = upright.convert("I")  # which Pillow can make smaller
    upright.thumbnail((2 * _LARGEST, 2 * _LARGEST), Image.Resampling.BOX)
    if upright.mode in ("I", "F"):
        upright = _scaled_to_8_bits(upright)
    on_white = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright.convert("RGBA"))
    grey = on_white.convert("L")
    grey.thumbnail((_LARGEST, _LARGEST), Image.Resampling.BOX)
    return np.asarray(grey, np.float32) / 255


def _scaled_to_8_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image, np.float32)
    return Image.fromarray((values / max(values.max(), 1) * 255).astype(np.uint8))


def _ink(grey: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"] | None:
    """How much ink is where, in [0, 1]: what stands out from the paper, whichever of the two is darker."""
    difference = grey - _paper(grey)
    noise = 1.4826 * float(np.median(np.abs(difference)))  # the standard deviation, were it normal
    # Strokes are few and far from the paper, so the cube of the difference has their sign.
    ink = np.maximum(difference * np.sign(np.mean(difference**3)), 0)
    faintest = max(6 * noise, 0.02)
    if ink.max() <= faintest:
        return None
    full = float(np.median(ink[ink > max(faintest, 0.5 * ink.max())]))
    strokes = _without_specks(ink > 0.4 * full)
    near = ndimage.binary_dilation(strokes, iterations=2)
    return np.where(near, np.clip((ink / full - 0.1) / 0.8, 0, 1), 0)


def _paper(grey: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """The brightness of the paper alone: a quadratic surface, fitted again and again to what lies near it."""
    rows, columns = (np.linspace(-1, 1, size, dtype=np.float32) for size in grey.shape)
    y, x = np.meshgrid(rows, columns, indexing="ij")
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1).reshape(-1, 6)
    every = max(grey.size // 5000, 1)  # a few thousand pixels tell six numbers
    some, values = terms[::every], grey.reshape(-1)[::every]
    weights = np.array([np.median(values), 0, 0, 0, 0, 0], np.float32)
    for _ in range(8):
        distance = np.abs(values - some @ weights)
        near = distance <= max(2.5 * float(np.median(distance)), 0.02)
        weights = np.linalg.lstsq(some[near], values[near], rcond=None)[0]
    return (terms @ weights).reshape(grey.shape)


def _without_specks(strokes: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    pieces = np.zeros(strokes.shape, np.int32)
    ndimage.label(strokes, np.ones((3, 3)), output=pieces)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    return (sizes >= 0.08 * sizes.max())[pieces]


def _as_mnist(ink: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "28 28"]:
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    digit = Image.fromarray(ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.float32))
    scale = BOX / max(digit.size)
    size = (max(round(digit.width * scale), 1), max(round(digit.height * scale), 1))
    small = np.clip(np.asarray(digit.resize(size, Image.Resampling.BICUBIC)), 0, 1)
    canvas = np.zeros((2 * SIDE, 2 * SIDE), np.float32)
    canvas[: small.shape[0], : small.shape[1]] = small
    # MNIST's centres of mass average pixel 14.0 of 0..27 in both directions, moved by whole pixels.
    shift = np.round(SIDE / 2 - np.array(ndimage.center_of_mass(canvas)))
    moved = ndimage.shift(canvas, shift, order=0)[:SIDE, :SIDE]
    return np.round(255 * moved).astype(np.uint8)
