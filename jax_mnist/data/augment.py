"""Random shifts and rotations of a batch of images, each a function of the key."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float, PRNGKeyArray


def random_shift(
    key: PRNGKeyArray, x: Float[Array, "b i"], most: int = 2, image_shape: Sequence[int] = (28, 28)
) -> Float[Array, "b i"]:
    """Each image moved by whole pixels, in each direction by -most..most with equal chances, and background moved in.

    x [b, h*w] for `image_shape` (h, w); returns the same shape.

    >>> x = jnp.ones((3, 784))
    >>> random_shift(jax.random.key(0), x).shape, bool((random_shift(jax.random.key(0), x, most=0) == x).all())
    ((3, 784), True)
    """
    height, width = image_shape
    images = jnp.pad(x.reshape(-1, height, width), ((0, 0), (most, most), (most, most)))
    corners = jax.random.randint(key, (len(x), 2), 0, 2 * most + 1)
    shift = jax.vmap(lambda image, corner: jax.lax.dynamic_slice(image, corner, (height, width)))
    return shift(images, corners).reshape(x.shape)


def random_rotation(
    key: PRNGKeyArray, x: Float[Array, "b i"], most: float | int = 10, image_shape: Sequence[int] = (28, 28)
) -> Float[Array, "b i"]:
    """Each image turned about its middle by an angle drawn evenly from -most..most degrees, and background turned in.

    x [b, h*w] for `image_shape` (h, w), pixels interpolated linearly; returns the same shape.

    >>> x = jnp.ones((3, 784))
    >>> random_rotation(jax.random.key(0), x).shape
    (3, 784)
    """
    angles = jnp.deg2rad(jax.random.uniform(key, (len(x),), x.dtype, -most, most))
    images = x.reshape(-1, *image_shape)
    return jax.vmap(_rotate)(images, angles).reshape(x.shape)


def _rotate(image: Float[Array, "h w"], angle: Float[Array, ""]) -> Float[Array, "h w"]:
    middle = (jnp.array(image.shape, image.dtype) - 1) / 2
    y, x = jnp.indices(image.shape, dtype=image.dtype) - middle[:, None, None]
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    places = [cos * y - sin * x + middle[0], sin * y + cos * x + middle[1]]
    return map_coordinates(image, places, order=1, mode="constant")
