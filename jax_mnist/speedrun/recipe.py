"""Training from random weights to 99% test accuracy on MNIST, as fast as two CPU cores allow, in one compiled program.

The net is defined and drawn in net.py. Muon trains its two convolutions and Adam the rest. The first convolution is
trained only in the first part of the run: its backward pass is the most expensive, and its filters have converged by
then. The run is shorter than an epoch: 352 batches of 128 images are three quarters of one.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from ..types import ArrayLike
from .net import Params, backward_conv1, backward_upper, extract_patches, forward, init_params, predict

__all__ = ["RECIPE", "Params", "Recipe", "init_params", "orthogonalize", "predict", "train"]


class Recipe(NamedTuple):
    """Hyperparameters, chosen on held-out training images. One compiled program serves all values."""

    muon_rate: Any = 0.05
    """Peak learning rate of Muon."""
    muon_momentum: Any = 0.8
    """Momentum of Muon."""
    adam_rate: Any = 0.007
    """Peak learning rate of Adam."""
    adam_means: Any = (0.7, 0.9)
    """Adam's beta1 and beta2: decay rates of the running means of the gradient and of its square."""
    smoothing: Any = 0.1
    """Label smoothing: the fraction of a target spread evenly over all classes."""
    warm_up: Any = 0.1
    """Fraction of steps in which the learning rates rise linearly, from a tenth of the peak; then they fall to 0."""
    conv1_learns: Any = 0.5
    """Fraction of the steps, from the first one, in which the first convolution is trained."""


RECIPE = Recipe()


class Slot(NamedTuple):
    """A weight array with the running means of its gradient and squared gradient. Muon does not use `square`."""

    value: Any
    mean: Any
    square: Any


def orthogonalize(matrix: Float[Array, "i o"], iterations: int = 3) -> Float[Array, "i o"]:
    """Return an approximation of the nearest orthogonal matrix, with all singular values near 1, by Newton-Schulz.

    `matrix` is float [i, o] with i <= o. More `iterations` bring the singular values closer to 1. Returns float [i, o].
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
    nesterov = gradient + recipe.muon_momentum * mean
    direction = orthogonalize(nesterov.reshape(len(nesterov), -1)).reshape(nesterov.shape)
    return slot._replace(value=slot.value - rate * recipe.muon_rate * direction, mean=mean)


def _adam(slot: Slot, gradient: Array, rate: Any, recipe: Recipe, step: Any) -> Slot:
    keep_mean, keep_square = recipe.adam_means
    mean = keep_mean * slot.mean + (1 - keep_mean) * gradient
    square = keep_square * slot.square + (1 - keep_square) * gradient**2
    scale = jnp.sqrt(square / (1 - keep_square**step)) + 1e-8
    return Slot(slot.value - rate * recipe.adam_rate * mean / (1 - keep_mean**step) / scale, mean, square)


def _update(slots: Params, patches: Array, labels: Array, done: Any, step: Any, recipe: Recipe) -> Params:
    """Take one training step. `done` is the fraction of the steps taken before it, `step` counts from 1."""
    params = Params(*(slot.value for slot in slots))
    rate = jnp.minimum(0.1 + 0.9 * done / recipe.warm_up, (1 - done) / (1 - recipe.warm_up))
    activations = forward(params, patches)
    upper, d_conv2 = backward_upper(params, activations, labels, recipe.smoothing)
    muon, adam = functools.partial(_muon, rate=rate, recipe=recipe), functools.partial(_adam, rate=rate, recipe=recipe)

    def train_conv1() -> tuple[Slot, Slot]:
        conv1, bias1 = backward_conv1(params, activations, patches, d_conv2)
        return muon(slots.conv1, conv1), adam(slots.bias1, bias1, step=step)

    conv1, bias1 = lax.cond(done < recipe.conv1_learns, train_conv1, lambda: (slots.conv1, slots.bias1))
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
    """Train the net from random weights for `steps` batches and return its weights.

    `key` is a PRNG key for the weights and the order of the batches. `images` is uint8 [n, 28, 28] with pixels in
    0..255, `labels` int [n] in 0..9, `filters` the numbers of filters of the two convolutions. A batch is a block of
    `batch_size` consecutive images. The blocks come in random order, and again in a new order after all have been used;
    the n % batch_size images after the last whole block are not used. Raises ValueError if n is below `batch_size`.

    >>> import numpy as np
    >>> images, labels = np.zeros((256, 28, 28), np.uint8), np.zeros(256, np.int32)
    >>> params = train(jax.random.key(0), images, labels, steps=8)
    >>> predict(params, images).argmax(axis=1)[:3].tolist()
    [0, 0, 0]
    """
    blocks = len(images) // batch_size
    if blocks < 1:
        raise ValueError(f"images must fill at least one batch of {batch_size}, got {len(images)} images")
    init_key, order_key = jax.random.split(key)
    order = jnp.argsort(jax.random.bits(order_key, (-(-steps // blocks), blocks)), axis=1).reshape(-1)[:steps]

    def step(slots: Params, index_and_block: tuple[Array, Array]) -> tuple[Params, None]:
        index, block = index_and_block
        x, y = (lax.dynamic_slice_in_dim(jnp.asarray(a), block * batch_size, batch_size) for a in (images, labels))
        return _update(slots, extract_patches(x), y, index / steps, index + 1, recipe), None

    slots = Params(*(Slot(x, jnp.zeros_like(x), jnp.zeros_like(x)) for x in init_params(init_key, filters)))
    slots, _ = lax.scan(step, slots, (jnp.arange(steps), order))
    return Params(*(slot.value for slot in slots))
