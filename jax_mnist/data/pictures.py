"""Opening of pictures of any format and mode, and their gray values."""

from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageOps

_WHITES = (1, 255, 1023, 4095, 16383, 65535)
"""The largest value of a float in [0, 1], and of 8, 10, 12, 14 and 16 bits: pixels of 12 bits are stored in 16."""


def open_picture(path: Path, formats: tuple[str, ...] | None = None) -> Image.Image:
    """Open a picture of one of Pillow's `formats`, without decoding its pixels. Its contents, not its name, count.

    Raises ValueError, naming the file, if Pillow cannot open it.
    """
    try:
        return Image.open(path, formats=formats)
    except Exception as error:  # on malformed bytes, Pillow raises many types
        if isinstance(error, OSError) and error.errno is not None:
            raise ValueError(f"{path}: cannot be read ({error.strerror})") from error
        with path.open("rb") as file:
            start = file.read(64)
        if start[4:8] == b"ftyp" and b"hei" in start:
            raise ValueError(f"{path}: is a HEIC picture, which Pillow cannot read; save it as JPEG or PNG") from error
        reason = f"not a readable picture ({type(error).__name__}: {error}); save it as JPEG or PNG"
        raise ValueError(f"{path}: is {reason if start else 'an empty file'}") from error


def to_grey(image: Image.Image, side: int) -> Float[np.ndarray, "h w"]:
    """Decode a picture upright, gray in [0, 1], scaled down to at most `side` pixels per side."""
    image.draft("L", (side, side))  # lets a JPEG decode at reduced size, which saves time and memory
    image.load()  # a PNG may have its EXIF data after the pixels
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode == "LAB":
        image = image.getchannel("L")  # Pillow cannot convert the three channels
    is_8_bit = not image.mode.startswith(("I", "F"))
    if image.mode != "L" or image.has_transparency_data:
        image = image.convert("RGBA" if is_8_bit else "F")  # Pillow scales down palette and 1-bit pictures badly
    image.thumbnail((side, side), Image.Resampling.BOX)
    if image.mode == "L":
        return np.asarray(image, np.float32) / 255
    if is_8_bit:
        return _composite(*(np.asarray(band, np.float32) / 255 for band in (image.convert("L"), image.getchannel("A"))))
    values = np.nan_to_num(np.asarray(image, np.float32), posinf=0, neginf=0)
    if values.min() < 0:
        values -= values.min()
        return values / (values.max() or 1)
    return values / next((white for white in _WHITES if values.max() <= white), values.max())


def _composite(grey: Float[np.ndarray, "h w"], alpha: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """Put a drawing without paper on white, or on black if it is light, and a cut-out sheet on its own paper."""
    visible = grey[alpha > 0.9]
    is_sheet = visible.size > 0.5 * grey.size and np.ptp(visible) > 0.2
    if is_sheet:
        backdrop = np.median(visible)
    elif (alpha * grey).sum() < 0.5 * alpha.sum():
        backdrop = 1
    else:
        backdrop = 0
    return alpha * grey + (1 - alpha) * np.float32(backdrop)
