"""The chapter's baseline: a digit is what it looks most like on average."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num

from ..pixels import to_float
from ..types import ArrayLike, Dataset


def class_means(dataset: Dataset, class_count: int | None = None) -> Float[Array, "c h w"]:
    """The mean image of every class: the chapter's `mean3` and `mean7`.

    `class_count` is c, by default the largest label + 1; inside `jit` it must be given. Returns float [c, h, w]
    with pixels in [0, 1]: the mean of class 1 is at [1]. Raises ValueError for a class without images.

    >>> images = np.stack([np.zeros((28, 28), np.uint8), np.full((28, 28), 255, np.uint8)])
    >>> class_means(Dataset(images, np.array([0, 1], np.int32)))[:, 0, 0]
    Array([0., 1.], dtype=float32)
    """
    if class_count is None:
        counts = np.bincount(np.asarray(dataset.labels))
        if len(dataset) == 0 or not counts.all():
            raise ValueError(f"every class needs an image to have a mean; images per class: {counts.tolist()}")
        class_count = len(counts)
    images, labels = jnp.asarray(dataset.images), jnp.asarray(dataset.labels)
    counts = jax.ops.segment_sum(jnp.ones_like(labels), labels, class_count)[:, None, None]
    if images.dtype != jnp.uint8:
        return jax.ops.segment_sum(to_float(images), labels, class_count) / counts.astype(images.dtype)
    # Whole numbers add up exactly; thousands of float32 pixels would be off in the fifth digit.
    sums = jax.ops.segment_sum(images.astype(jnp.int32), labels, class_count)
    return sums / (255 * counts)


def _difference(a: Num[ArrayLike, "*n h w"], b: Num[ArrayLike, "*m h w"]) -> Float[Array, "*k h w"]:
    a, b = jnp.broadcast_arrays(to_float(a), to_float(b))
    return a - b


def l1_distance(a: Num[ArrayLike, "*n h w"], b: Num[ArrayLike, "*m h w"]) -> Float[Array, "*k"]:
    """The mean absolute difference of two images, or of many images and one: the chapter's `mnist_distance`.

    `a` and `b` are [..., h, w], float with pixels in [0, 1] or uint8 (taken as 0..255); they broadcast. Returns
    float [...] in [0, 1].

    >>> l1_distance(jnp.zeros((5, 28, 28)), jnp.full((28, 28), 0.25))
    Array([0.25, 0.25, 0.25, 0.25, 0.25], dtype=float32)
    """
    return jnp.abs(_difference(a, b)).mean((-1, -2))


def l2_distance(a: Num[ArrayLike, "*n h w"], b: Num[ArrayLike, "*m h w"]) -> Float[Array, "*k"]:
    """The root of the mean squared difference (RMSE) of two images, or of many images and one.

    `a` and `b` are [..., h, w], float with pixels in [0, 1] or uint8 (taken as 0..255); they broadcast. Returns
    float [...] in [0, 1]. Its gradient at two equal images is NaN, as that of any root at 0.

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
    """The class whose mean image is nearest: the chapter's `is_3`, for any number of classes.

    `images` [..., h, w], uint8 or float in [0, 1]; `means` [c, h, w] as from `class_means`; `distance` is
    `l1_distance` or `l2_distance`. Returns int32 [...]; the lower class where two are equally near.

    >>> means = jnp.stack([jnp.zeros((28, 28)), jnp.ones((28, 28))])
    >>> nearest_mean(jnp.full((2, 28, 28), 0.9), means)
    Array([1, 1], dtype=int32)
    """
    return jnp.argmin(jax.vmap(lambda mean: distance(images, mean))(means), axis=0).astype(jnp.int32)
