"""From random weights to 99% of the test digits as fast as two cores can: one compiled program.

The net is that of models/columns.py, where the picture is. Its two convolutions learn by Muon, the rest by Adam, and
the first convolution only in the first steps: its backward pass is the dearest, and it has learnt what it needs by
then. An epoch is not needed: 352 batches of 128 are three quarters of one.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from ..types import ArrayLike
from .net import Params, backward_lower, backward_upper, cut_patches, forward, init_params, predict

__all__ = ["RECIPE", "Params", "Recipe", "init_params", "orthogonalize", "predict", "train"]


class Recipe(NamedTuple):
    """What was chosen on held-out training images; plain numbers, so that one compiled program serves all values."""

    muon_rate: Any = 0.05
    muon_momentum: Any = 0.8
    adam_rate: Any = 0.007
    adam_means: Any = (0.7, 0.9)
    """How much of the running mean of the gradient, and of its square, a step keeps."""
    smoothing: Any = 0.1
    """The share of a label that is spread over all classes."""
    warm_up: Any = 0.1
    """The share of the steps in which the rates rise, from a tenth; then they fall to 0."""
    conv1_learns: Any = 0.5
    """The share of the steps in which the first convolution learns."""


RECIPE = Recipe()


class Slot(NamedTuple):
    """One weight array with the running means that its optimizer keeps; Muon has no square."""

    value: Any
    mean: Any
    square: Any


def orthogonalize(matrix: Float[Array, "i o"], iterations: int = 3) -> Float[Array, "i o"]:
    """Nearly the orthogonal matrix nearest to a wide one: its singular values go to about 1, by Newton-Schulz.

    Source: Keller Jordan's Muon, https://kellerjordan.github.io/posts/muon/

    >>> singular = jnp.linalg.svd(orthogonalize(jnp.array([[3., 0., 0.], [0., 1., 1.]])), compute_uv=False)
    >>> bool((abs(singular - 1) < 0.4).all())
    True
    """
    x = matrix / (jnp.linalg.norm(matrix) + 1e-7)
    for _ in range(iterations):
        square = x @ x.T
        x = 3.4445 * x + (-4.775 * square + 2.0315 * square @ square) @ x
    return x


def _muon(slot: Slot, gradient: Array, rate: Any, recipe: Recipe) -> Slot:
    mean = recipe.muon_momentum * slot.mean + gradient
    ahead = gradient + recipe.muon_momentum * mean
    direction = orthogonalize(ahead.reshape(len(ahead), -1)).reshape(ahead.shape)
    return slot._replace(value=slot.value - rate * recipe.muon_rate * direction, mean=mean)


def _adam(slot: Slot, gradient: Array, rate: Any, recipe: Recipe, step: Any) -> Slot:
    keep_mean, keep_square = recipe.adam_means
    mean = keep_mean * slot.mean + (1 - keep_mean) * gradient
    square = keep_square * slot.square + (1 - keep_square) * gradient**2
    scale = jnp.sqrt(square / (1 - keep_square**step)) + 1e-8
    return Slot(slot.value - rate * recipe.adam_rate * mean / (1 - keep_mean**step) / scale, mean, square)


def _update(slots: Params, patches: Array, labels: Array, done: Any, step: Any, recipe: Recipe) -> Params:
    """One step: `done` is the share of the steps before it, `step` counts from 1."""
    params = Params(*(slot.value for slot in slots))
    rate = jnp.minimum(0.1 + 0.9 * done / recipe.warm_up, (1 - done) / (1 - recipe.warm_up))
    layers = forward(params, patches)
    upper, outputs = backward_upper(params, layers, labels, recipe.smoothing)
    muon, adam = functools.partial(_muon, rate=rate, recipe=recipe), functools.partial(_adam, rate=rate, recipe=recipe)

    def learn() -> tuple[Slot, Slot]:
        conv1, bias1 = backward_lower(params, layers, patches, outputs)
        return muon(slots.conv1, conv1), adam(slots.bias1, bias1, step=step)

    conv1, bias1 = lax.cond(done < recipe.conv1_learns, learn, lambda: (slots.conv1, slots.bias1))
    conv2 = muon(slots.conv2, upper[0])
    bias2, dense, bias3 = (adam(slot, x, step=step) for slot, x in zip(slots[3:], upper[1:], strict=True))
    return Params(conv1, bias1, conv2, bias2, dense, bias3)


@functools.partial(jax.jit, static_argnames=("steps", "batch_size", "filters"))
def train(
    key: PRNGKeyArray,
    images: UInt8[ArrayLike, "n 28 28"],
    labels: Int[ArrayLike, " n"],
    recipe: Recipe = RECIPE,
    *,
    steps: int = 352,
    batch_size: int = 128,
    filters: tuple[int, int] = (24, 64),
) -> Params:
    """Train from random weights: `steps` batches, each a block of `batch_size` neighbours, in random order.

    `key` draws the weights and the order; `labels` are in 0..9. A block comes back when all have been seen; the
    n % batch_size images after the last block are not. Raises ValueError where there is no whole block.

    >>> import numpy as np
    >>> images, labels = np.zeros((256, 28, 28), np.uint8), np.zeros(256, np.int32)
    >>> params = train(jax.random.key(0), images, labels, steps=8)
    >>> predict(params, images).argmax(axis=1)[:3].tolist()
    [0, 0, 0]
    """
    blocks = len(images) // batch_size
    if blocks < 1:
        raise ValueError(f"{len(images)} images do not fill a batch of {batch_size}")
    init_key, order_key = jax.random.split(key)
    order = jnp.argsort(jax.random.bits(order_key, (-(-steps // blocks), blocks)), axis=1).reshape(-1)[:steps]

    def step(slots: Params, at: tuple[Array, Array]) -> tuple[Params, None]:
        index, block = at
        x, y = (lax.dynamic_slice_in_dim(jnp.asarray(a), block * batch_size, batch_size) for a in (images, labels))
        return _update(slots, cut_patches(x), y, index / steps, index + 1, recipe), None

    slots = Params(*(Slot(x, jnp.zeros_like(x), jnp.zeros_like(x)) for x in init_params(init_key, filters)))
    slots, _ = lax.scan(step, slots, (jnp.arange(steps), order))
    return Params(*(slot.value for slot in slots))
