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

    `x` is [b, h*w] for `image_shape` (h, w). Shifts are uniform and independent. Returns an array of the same shape.

    >>> x = jnp.ones((3, 784))
    >>> random_shift(jax.random.key(0), x).shape
    (3, 784)
    >>> bool((random_shift(jax.random.key(0), x, max_shift=0) == x).all())
    True
    """
    height, width = image_shape
    images = jnp.pad(x.reshape(-1, height, width), ((0, 0), (max_shift, max_shift), (max_shift, max_shift)))
    corners = jax.random.randint(key, (len(x), 2), 0, 2 * max_shift + 1)
    crop = jax.vmap(lambda image, corner: jax.lax.dynamic_slice(image, corner, (height, width)))
    return crop(images, corners).reshape(x.shape)


def random_rotation(
    key: PRNGKeyArray, x: Float[Array, "b i"], max_degrees: float | int = 10, image_shape: Sequence[int] = (28, 28)
) -> Float[Array, "b i"]:
    """Rotate each image about its center by a random angle in [-max_degrees, max_degrees], zero-filled.

    `x` is [b, h*w] for `image_shape` (h, w). Angles are uniform, pixels are interpolated linearly. Returns an array of
    the same shape.

    >>> x = jnp.ones((3, 784))
    >>> random_rotation(jax.random.key(0), x).shape
    (3, 784)
    """
    return random_affine(key, x, 0, max_degrees, image_shape)


def random_affine(
    key: PRNGKeyArray,
    x: Float[Array, "b i"],
    max_shift: int = 2,
    max_degrees: float | int = 10,
    image_shape: Sequence[int] = (28, 28),
) -> Float[Array, "b i"]:
    """Rotate each image as `random_rotation` does, and then shift it as `random_shift` does, in one interpolation.

    What the rotation moves out of the image can so come back by the shift. One after the other, they take three times
    as long on a CPU, where XLA merges them and rotates again for each pixel that the shift reads. Returns an array of
    the shape of `x`.

    >>> x = jnp.ones((3, 784))
    >>> random_affine(jax.random.key(0), x).shape
    (3, 784)
    """
    rotation_key, shift_key = jax.random.split(key)
    angles = jnp.deg2rad(jax.random.uniform(rotation_key, (len(x),), x.dtype, -max_degrees, max_degrees))
    shifts = jax.random.randint(shift_key, (len(x), 2), -max_shift, max_shift + 1).astype(x.dtype)
    return jax.vmap(_transform)(x.reshape(-1, *image_shape), angles, shifts).reshape(x.shape)


def _transform(image: Float[Array, "h w"], angle: Float[Array, ""], shift: Float[Array, "2"]) -> Float[Array, "h w"]:
    """Rotate one image by `angle` radians, clockwise if rows are drawn downward, then translate it by `shift`."""
    centre = (jnp.array(image.shape, image.dtype) - 1) / 2
    y, x = jnp.indices(image.shape, dtype=image.dtype) - (centre + shift)[:, None, None]
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    # For each pixel of the result, the position in the image to read from.
    positions = [cos * y - sin * x + centre[0], sin * y + cos * x + centre[1]]
    return map_coordinates(image, positions, order=1, mode="constant")
