"""Data augmentation: random shifts and rotations of a batch of images, as pure functions of a PRNG key."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float, PRNGKeyArray


def random_shift(
    key: PRNGKeyArray, x: Float[Array, "b i"], max_shift: int = 2, image_shape: Sequence[int] = (28, 28)
) -> Float[Array, "b i"]:
    """Translate each image by a random whole number of pixels in [-max_shift, max_shift] per axis, zero-filled.

    `x` is float [b, h*w] for `image_shape` (h, w). Shifts are uniform and independent. Returns an array of the same
    shape and dtype. Raises ValueError if `max_shift` is negative.

    >>> x = jnp.ones((3, 784))
    >>> random_shift(jax.random.key(0), x).shape
    (3, 784)
    >>> bool((random_shift(jax.random.key(0), x, max_shift=0) == x).all())
    True
    """
    _check_shift(max_shift)
    margin = (max_shift, max_shift)
    images = jnp.pad(x.reshape(-1, *image_shape), ((0, 0), margin, margin))
    return _random_crop(key, images, image_shape).reshape(x.shape)


def random_affine(
    key: PRNGKeyArray,
    x: Float[Array, "b i"],
    max_shift: int = 2,
    max_degrees: float | int = 10,
    image_shape: Sequence[int] = (28, 28),
) -> Float[Array, "b i"]:
    """Rotate each image about its center by a random angle, then shift it as `random_shift` does, zero-filled.

    `x` is float [b, h*w] for `image_shape` (h, w). Angles are uniform in [-max_degrees, max_degrees]; pixels are
    interpolated linearly. Pixels that the rotation moves out of the image can come back with the shift. Returns an
    array of the same shape and dtype. Raises ValueError if `max_shift` is negative.

    >>> x = jnp.ones((3, 784))
    >>> random_affine(jax.random.key(0), x).shape
    (3, 784)
    """
    _check_shift(max_shift)
    rotation_key, shift_key = jax.random.split(key)
    angles = jnp.deg2rad(jax.random.uniform(rotation_key, (len(x),), x.dtype, -max_degrees, max_degrees))
    # Onto a canvas with room for the shift. XLA for CPUs computes the canvas before it takes a part of it. Otherwise,
    # or with padding in between, it merges the rotation into what comes next: for each patch of a `cnn`, once more.
    rotated = jax.vmap(lambda image, angle: _rotate(image, angle, max_shift))(x.reshape(-1, *image_shape), angles)
    return _random_crop(shift_key, rotated, image_shape).reshape(x.shape)


def _check_shift(max_shift: int) -> None:
    if max_shift < 0:
        raise ValueError(f"max_shift must be 0 or more, got {max_shift}")


def _random_crop(key: PRNGKeyArray, images: Float[Array, "b H W"], shape: Sequence[int]) -> Float[Array, "b h w"]:
    """Return a part of each image of the given shape, each position equally likely; both axes have the same room."""
    corners = jax.random.randint(key, (len(images), 2), 0, images.shape[1] - shape[0] + 1)
    return jax.vmap(lambda image, corner: jax.lax.dynamic_slice(image, corner, shape))(images, corners)


def _rotate(image: Float[Array, "h w"], angle: Float[Array, ""], margin: int) -> Float[Array, "H W"]:
    """Rotate one image by `angle` radians, clockwise if rows are drawn downward, onto a canvas with a margin."""
    center = (jnp.array(image.shape, image.dtype) - 1) / 2
    height, width = image.shape
    canvas = jnp.indices((height + 2 * margin, width + 2 * margin), dtype=image.dtype)
    y, x = canvas - (center + margin)[:, None, None]
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    # For each pixel of the result, the position in the image to read from.
    positions = [cos * y - sin * x + center[0], sin * y + cos * x + center[1]]
    return map_coordinates(image, positions, order=1, mode="constant")
