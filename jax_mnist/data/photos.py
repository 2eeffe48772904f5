"""Preprocessing of a photo of a digit into MNIST format."""

from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageOps
from scipy import ndimage

from ..files import name_parse_errors
from .formats.image_folder import SIDE

BOX = 20
"""Side of the box, in pixels, into which a digit is scaled before it is centered by mass in SIDE x SIDE."""

_WORKING_SIDE = 400
_MAX_PIXELS = 64_000_000  # of four bytes, in three copies while the picture is scaled down: 768 MB


def read_photo(path: str | Path) -> UInt8[np.ndarray, "28 28"]:
    """Read a photo or drawing of a digit, preprocessed as MNIST's images were.

    The file is a PNG or JPEG of any size, gray, color or partly transparent, dark on light or light on dark, on
    unevenly lit paper. Returns uint8 [28, 28], light on dark in 0..255: the digit is scaled into 20x20 pixels, keeping
    its aspect ratio, and centered by mass. Raises FileNotFoundError if the file does not exist, and ValueError, naming
    the file, if it is not a PNG or JPEG, is too large, or shows no digit.

    >>> import tempfile
    >>> picture = np.full((300, 400), 230, np.uint8)
    >>> picture[80:220, 190:210] = 20
    >>> path = Path(tempfile.mkdtemp()) / "one.png"
    >>> Image.fromarray(picture).save(path)
    >>> image = read_photo(path)
    >>> np.flatnonzero(image.any(axis=1)).tolist() == list(range(4, 24))
    True
    """
    ink = _extract_ink(_read_grey(Path(path)))
    if ink is None:
        raise ValueError(f"{path}: shows no digit; expected one digit, dark on light or light on dark")
    return _to_mnist_format(ink)


def _read_grey(path: Path) -> Float[np.ndarray, "h w"]:
    """Read a picture upright, on white, gray in [0, 1], with at most _WORKING_SIDE pixels per side."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file; expected a PNG or JPEG")
    with name_parse_errors(path, "PNG or JPEG"):
        image = Image.open(path, formats=["PNG", "JPEG"])  # decodes no pixels yet
    with image:
        if image.width * image.height > _MAX_PIXELS:
            limit = f"{_MAX_PIXELS // 10**6} megapixels"
            raise ValueError(f"{path}: image must be at most {limit}, got {image.width}x{image.height} pixels")
        with name_parse_errors(path, "PNG or JPEG"):
            return _to_upright_grey(image)


def _to_upright_grey(image: Image.Image) -> Float[np.ndarray, "h w"]:
    image.draft("L", (_WORKING_SIDE, _WORKING_SIDE))  # lets a JPEG decode at reduced size, which saves time and memory
    upright = ImageOps.exif_transpose(image)
    if upright.mode == "I;16":
        upright = upright.convert("I")  # Pillow cannot scale down a large I;16
    upright.thumbnail((2 * _WORKING_SIDE, 2 * _WORKING_SIDE), Image.Resampling.BOX)
    if upright.mode in ("I", "F"):  # Pillow would clip these at 255 instead of scaling them to 8 bits
        values = np.asarray(upright, np.float32)
        upright = Image.fromarray((values / max(values.max(), 1) * 255).astype(np.uint8))
    on_white = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright.convert("RGBA"))
    grey = on_white.convert("L")
    grey.thumbnail((_WORKING_SIDE, _WORKING_SIDE), Image.Resampling.BOX)
    return np.asarray(grey, np.float32) / 255


def _extract_ink(grey: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"] | None:
    """Return the ink density of each pixel in [0, 1], whether ink is darker or lighter than paper; None if no ink."""
    difference = grey - _fit_paper(grey)
    noise = 1.4826 * float(np.median(np.abs(difference)))  # a robust standard deviation, exact for a normal one
    # Stroke pixels are few but far from the paper, so the cube of the difference has their sign.
    ink = np.maximum(difference * np.sign(np.mean(difference**3)), 0)
    threshold = max(6 * noise, 0.02)
    if ink.max() <= threshold:
        return None
    full_ink = float(np.median(ink[ink > max(threshold, 0.5 * ink.max())]))
    strokes = _remove_specks(ink > 0.4 * full_ink)
    near_strokes = ndimage.binary_dilation(strokes, iterations=2)  # with the soft edges of the strokes
    return np.where(near_strokes, np.clip((ink / full_ink - 0.1) / 0.8, 0, 1), 0)


def _fit_paper(grey: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """Return the paper's brightness: a quadratic surface, refitted to the pixels near the last fit to exclude ink."""
    rows, columns = (np.linspace(-1, 1, size, dtype=np.float32) for size in grey.shape)
    y, x = np.meshgrid(rows, columns, indexing="ij")
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1).reshape(-1, 6)
    stride = max(grey.size // 5000, 1)  # a few thousand pixels are enough to fit six coefficients
    sampled_terms, sampled_grey = terms[::stride], grey.reshape(-1)[::stride]
    coefficients = np.array([np.median(sampled_grey), 0, 0, 0, 0, 0], np.float32)
    for _ in range(8):
        distance = np.abs(sampled_grey - sampled_terms @ coefficients)
        is_paper = distance <= max(2.5 * float(np.median(distance)), 0.02)
        coefficients = np.linalg.lstsq(sampled_terms[is_paper], sampled_grey[is_paper], rcond=None)[0]
    return (terms @ coefficients).reshape(grey.shape)


def _remove_specks(strokes: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Drop connected components with less than 8% of the pixels of the largest."""
    components = np.zeros(strokes.shape, np.int32)
    ndimage.label(strokes, np.ones((3, 3)), output=components)
    sizes = np.bincount(components.ravel())
    sizes[0] = 0  # the background
    return (sizes >= 0.08 * sizes.max())[components]


def _to_mnist_format(ink: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "28 28"]:
    """Crop to the ink, scale into BOX x BOX and center by mass in SIDE x SIDE."""
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    digit = Image.fromarray(ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.float32))
    scale = BOX / max(digit.size)
    size = (max(round(digit.width * scale), 1), max(round(digit.height * scale), 1))
    small = np.clip(np.asarray(digit.resize(size, Image.Resampling.BICUBIC)), 0, 1)
    canvas = np.zeros((2 * SIDE, 2 * SIDE), np.float32)
    canvas[: small.shape[0], : small.shape[1]] = small
    # The average center of mass in MNIST is at pixel 14.0 of 0..27 on both axes, not 13.5; shifts are whole pixels.
    shift = np.round(SIDE / 2 - np.array(ndimage.center_of_mass(canvas)))
    return np.round(255 * ndimage.shift(canvas, shift, order=0)[:SIDE, :SIDE]).astype(np.uint8)
