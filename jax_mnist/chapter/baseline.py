"""Nearest-mean classifier: the chapter's baseline."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num

from ..pixels import to_float
from ..types import ArrayLike, Dataset


def class_means(dataset: Dataset, class_count: int | None = None) -> Float[Array, "c h w"]:
    """Return the mean image of each class: the chapter's `mean3` and `mean7`.

    `class_count` is the number of classes c, by default the largest label + 1; inside `jit` it is required. Returns
    float [c, h, w] with pixels in [0, 1], indexed by label. Raises ValueError if a class has no images, unless
    `class_count` is given: its mean is then NaN.

    >>> images = np.stack([np.zeros((28, 28), np.uint8), np.full((28, 28), 255, np.uint8)])
    >>> class_means(Dataset(images, np.array([0, 1], np.int32)))[:, 0, 0]
    Array([0., 1.], dtype=float32)
    """
    if class_count is None:
        counts = np.bincount(np.asarray(dataset.labels))
        if len(dataset) == 0 or not counts.all():
            raise ValueError(f"every class must have at least one image, got {counts.tolist()} images per class")
        class_count = len(counts)
    images, labels = jnp.asarray(dataset.images), jnp.asarray(dataset.labels)
    # int32 whatever the dtype of the labels: a count in uint8 would wrap around at 256.
    counts = jax.ops.segment_sum(jnp.ones(labels.shape, jnp.int32), labels, class_count)[:, None, None]
    if images.dtype != jnp.uint8:
        return jax.ops.segment_sum(to_float(images), labels, class_count) / counts.astype(images.dtype)
    # Integer sums are exact; a float32 sum of thousands of pixels would be wrong in the fifth digit.
    sums = jax.ops.segment_sum(images.astype(jnp.int32), labels, class_count)
    return sums / (255 * counts)


def _difference(a: Num[ArrayLike, "*n h w"], b: Num[ArrayLike, "*m h w"]) -> Float[Array, "*k h w"]:
    a, b = jnp.broadcast_arrays(to_float(a), to_float(b))
    return a - b


def l1_distance(a: Num[ArrayLike, "*n h w"], b: Num[ArrayLike, "*m h w"]) -> Float[Array, "*k"]:
    """Return the mean absolute difference of two images: the chapter's `mnist_distance`.

    `a` and `b` are [..., h, w], float with pixels in [0, 1] or uint8 with pixels in 0..255. They broadcast, for example
    many images against one. Returns float [...] in [0, 1].

    >>> l1_distance(jnp.zeros((5, 28, 28)), jnp.full((28, 28), 0.25))
    Array([0.25, 0.25, 0.25, 0.25, 0.25], dtype=float32)
    """
    return jnp.abs(_difference(a, b)).mean((-1, -2))


def l2_distance(a: Num[ArrayLike, "*n h w"], b: Num[ArrayLike, "*m h w"]) -> Float[Array, "*k"]:
    """Return the root mean squared difference (RMSE) of two images.

    `a` and `b` are [..., h, w], float with pixels in [0, 1] or uint8 with pixels in 0..255. They broadcast, for example
    many images against one. Returns float [...] in [0, 1]. The gradient is NaN if the images are equal, because the
    square root has no derivative at 0.

    >>> l2_distance(jnp.zeros((28, 28)), jnp.full((28, 28), 0.25))
    Array(0.25, dtype=float32)
    """
    return jnp.sqrt(jnp.square(_difference(a, b)).mean((-1, -2)))


@jax.jit(static_argnames="distance")
def nearest_mean(
    images: Num[ArrayLike, "*n h w"],
    means: Float[ArrayLike, "c h w"],
    distance: Callable[[ArrayLike, ArrayLike], Array] = l1_distance,
) -> Int[Array, "*n"]:
    """Return the class with the nearest mean image: the chapter's `is_3`, for any number of classes.

    `images` is [..., h, w], uint8 or float with pixels in [0, 1], and `means` [c, h, w] from `class_means`. `distance`
    is `l1_distance` or `l2_distance`. Returns int32 [...]; a tie goes to the lowest class.

    >>> means = jnp.stack([jnp.zeros((28, 28)), jnp.ones((28, 28))])
    >>> nearest_mean(jnp.full((2, 28, 28), 0.9), means)
    Array([1, 1], dtype=int32)
    """
    distances = jax.vmap(lambda mean: distance(images, mean))(means)
    # A class without images has a NaN mean, and argmin would take its NaN distance for the smallest.
    return jnp.argmin(jnp.where(jnp.isnan(distances), jnp.inf, distances), axis=0).astype(jnp.int32)
