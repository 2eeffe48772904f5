"""Pixels as numbers: uint8 in 0..255 to float in [0, 1]."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from .types import ArrayLike


def to_float(images: Num[ArrayLike, "..."]) -> Float[Array, "..."]:
    """Pixels in [0, 1]: uint8 is divided by 255, float is taken to be there already.

    Returns the default float (float32; float64 with x64 on) for uint8, else the images' own. Raises ValueError
    for other dtypes.

    >>> import numpy as np
    >>> to_float(np.array([0, 255], np.uint8))
    Array([0., 1.], dtype=float32)
    """
    pixels = jnp.asarray(images)
    if jnp.issubdtype(pixels.dtype, jnp.floating):
        return pixels
    if pixels.dtype != jnp.uint8:
        raise ValueError(f"pixels must be uint8 in 0..255 or float in [0, 1], not {pixels.dtype}")
    return pixels.astype(jnp.result_type(float)) / 255
