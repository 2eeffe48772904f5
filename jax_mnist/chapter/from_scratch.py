"""The chapter's learner by hand: initialize, predict, loss, gradient, step; `training.py` repeats and stops."""

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PRNGKeyArray, Real, Shaped

from ..losses import mnist_loss
from ..types import ArrayLike, Batch, Layer, Params

Layers = tuple[Layer, ...]


def init_params(key: PRNGKeyArray, sizes: Sequence[int], std: float | None = 1.0) -> Layers:
    """Random parameters for layers of the given sizes: step 1 of the chapter's seven.

    `key` is a PRNG key, `sizes` the number of values before the first layer, between the layers and after the
    last: (784, 1) is the chapter's linear model, (784, 30, 1) its two-layer net. Weights and biases are normal
    with standard deviation `std` (the chapter's `init_params`), or, with `std=None`, uniform in
    +-1/sqrt(inputs) as PyTorch's `nn.Linear` starts. Returns one Layer(weights [i, o], bias [o]) for each pair
    of sizes, in the default float. Raises ValueError for sizes that make no layer.

    >>> [layer.weights.shape for layer in init_params(jax.random.key(0), (784, 30, 1))]
    [(784, 30), (30, 1)]
    """
    if len(sizes) < 2 or any(size < 1 for size in sizes):
        raise ValueError(f"sizes must hold two or more positive integers, such as (784, 30, 1), not {tuple(sizes)}")
    keys = jax.random.split(key, len(sizes) - 1)
    return tuple(_init_layer(k, i, o, std) for k, (i, o) in zip(keys, itertools.pairwise(sizes), strict=True))


def _init_layer(key: Key[Array, ""], inputs: int, outputs: int, std: float | None) -> Layer:
    weights_key, bias_key = jax.random.split(key)
    if std is None:
        bound = inputs**-0.5
        weights = jax.random.uniform(weights_key, (inputs, outputs), minval=-bound, maxval=bound)
        return Layer(weights, jax.random.uniform(bias_key, (outputs,), minval=-bound, maxval=bound))
    return Layer(jax.random.normal(weights_key, (inputs, outputs)) * std, jax.random.normal(bias_key, (outputs,)) * std)


def linear_layer(layer: Layer, x: Float[ArrayLike, "*b i"]) -> Float[Array, "*b o"]:
    """One layer, `x @ weights + bias`: the chapter's `linear1`.

    `x` float [..., i]; returns float [..., o].

    >>> linear_layer(Layer(jnp.ones((2, 1)), jnp.zeros(1)), jnp.array([[3.0, 4.0]]))
    Array([[7.]], dtype=float32)
    """
    activations = jnp.asarray(x) @ layer.weights
    return activations + jnp.broadcast_to(layer.bias, activations.shape)


def predict(params: Layers, x: Shaped[ArrayLike, "..."]) -> Float[Array, "..."]:
    """The logits of a batch, before the sigmoid: step 2 of the chapter's seven.

    `params` as from `init_params`, `x` float [b, i] with pixels in [0, 1] (or one example [i]); a ReLU stands
    between layers. Returns float [b, c]. Raises ValueError for pixels that are not float or not i in number.

    >>> params = init_params(jax.random.key(0), (784, 30, 1))
    >>> predict(params, jnp.zeros((5, 784))).shape
    (5, 1)
    """
    if not jnp.issubdtype(x.dtype, jnp.floating) or x.ndim < 1 or x.shape[-1] != params[0].weights.shape[0]:
        raise ValueError(
            f"x must be float [b, {params[0].weights.shape[0]}] with pixels in [0, 1], not {x.dtype} {list(x.shape)}; "
            "make_batch(images, labels).x is such an x"
        )
    *hidden, last = params
    activations = jnp.asarray(x)
    for layer in hidden:
        activations = jax.nn.relu(linear_layer(layer, activations))
    return linear_layer(last, activations)


def loss(params: Layers, batch: Batch) -> Float[Array, ""]:
    """The mean `mnist_loss` over the images of a batch, padding left out: step 3 of the chapter's seven.

    Returns a float in [0, 1]; NaN for a batch that is padding alone.

    >>> batch = Batch(jnp.zeros((2, 784)), jnp.array([1, 0]), jnp.array([True, True]))
    >>> loss(init_params(jax.random.key(0), (784, 1)), batch)
    Array(0.5, dtype=float32)
    """
    return jnp.mean(mnist_loss(predict(params, batch.x), batch.y), where=batch.mask)


def gradient(params: Layers, batch: Batch) -> Layers:
    """How the loss of a batch changes with each parameter: step 4 of the chapter's seven, `backward` in PyTorch.

    Returns a value of the shape of `params`.

    >>> batch = Batch(jnp.ones((1, 2)), jnp.array([1]), jnp.array([True]))
    >>> gradient((Layer(jnp.zeros((2, 1)), jnp.zeros(1)),), batch)[0].bias
    Array([-0.25], dtype=float32)
    """
    return jax.grad(loss)(params, batch)


def step(params: Params, gradients: Params, learning_rate: Real[Any, ""] | float) -> Params:
    """Every parameter moved against its gradient: step 5 of the chapter's seven, `w -= grad * lr`.

    `params` and `gradients` are pytrees of one shape, `learning_rate` a number; returns the new parameters in
    the dtypes of the old ones.

    >>> step(jnp.array(-1.0), jnp.array(-2.0), 0.01)
    Array(-0.98, dtype=float32)
    """
    return jax.tree.map(lambda w, g: w - g * jnp.asarray(learning_rate, jnp.result_type(w)), params, gradients)


@jax.jit
def update(params: Layers, batch: Batch, learning_rate: Real[Any, ""] | float) -> Layers:
    """One step of gradient descent on a batch, compiled: steps 2 to 5 of the chapter's seven.

    `params` as from `init_params`, `batch` of any one size (a short one comes padded, see `batches`),
    `learning_rate` a float; returns the new parameters. It compiles once for all batches of a size and all rates.

    >>> params = init_params(jax.random.key(0), (784, 1))
    >>> batch = Batch(jnp.ones((2, 784)), jnp.array([1, 0]), jnp.array([True, True]))
    >>> [layer.weights.shape for layer in update(params, batch, 0.1)]
    [(784, 1)]
    """
    return step(params, gradient(params, batch), learning_rate)
