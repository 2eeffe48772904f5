"""Conversion of uint8 pixels in 0..255 to floats in [0, 1]."""

import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float, Num

from .types import ArrayLike


def to_float(images: Num[ArrayLike, "..."]) -> Float[Array, "..."]:
    """Return pixels as floats in [0, 1]: uint8 is divided by 255, floats are returned unchanged.

    `images` is an array of any shape. uint8 becomes the default float (float32; float64 if x64 is enabled); floats keep
    their dtype, except that NumPy's float64 becomes float32 unless x64 is enabled. Raises ValueError for other dtypes.

    >>> import numpy as np
    >>> to_float(np.array([0, 255], np.uint8))
    Array([0., 1.], dtype=float32)
    """
    pixels = jnp.asarray(images)
    if jnp.issubdtype(pixels.dtype, jnp.floating):
        return pixels
    if pixels.dtype != jnp.uint8:
        raise ValueError(f"pixels must be uint8 in 0..255 or float in [0, 1], got {pixels.dtype}")
    return pixels.astype(jnp.result_type(float)) / 255


def check_pixels(images: Num[ArrayLike, "..."]) -> None:
    """Raise ValueError if float pixels are in 0..255 instead of [0, 1], unless they are traced, as in `jax.jit`.

    Pixels of which some are negative are taken to be standardized, and are not refused.

    >>> import numpy as np
    >>> check_pixels(np.array([0.0, 255.0]))
    Traceback (most recent call last):
    ValueError: pixels must be uint8 in 0..255 or float in [0, 1], got float64 up to 255; divide them by 255
    """
    if isinstance(images, Tracer) or not jnp.issubdtype(images.dtype, jnp.floating) or images.size == 0:
        return
    smallest, largest = float(images.min()), float(images.max())
    if smallest >= 0 and largest > 1:
        raise ValueError(
            f"pixels must be uint8 in 0..255 or float in [0, 1], got {images.dtype} up to {largest:g}; divide them by "
            "255"
        )
