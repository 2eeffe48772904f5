"""Stochastic gradient descent from scratch: the chapter's seven steps, each under its own name.

    1. init       params = init_params(key, (784, 30, 1))            random weights and biases
    2. predict    logits = predict(params, batch.x)                  one row of logits per image
    3. loss       loss(params, batch)                                one number: how wrong the predictions are
    4. gradient   gradients = gradient(params, batch)                the slope of the loss in each parameter
    5. step       params = step(params, gradients, learning_rate)    a small move against the gradient
    6. repeat     steps 2 to 5 for each batch, epoch after epoch
    7. stop       after a number of epochs

`update` compiles steps 2 to 5 into one function. Training is then two `for` loops:

>>> from jax_mnist import accuracy, batches, load, make_batch
>>> train, valid = load("mnist_sample")
>>> params = init_params(jax.random.key(0), (784, 1))          # init
>>> for epoch in range(10):                                    # stop after 10 epochs
...     for batch in batches(train, batch_size=256):           # repeat
...         params = update(params, batch, learning_rate=1.0)  # predict, loss, gradient, step
>>> x, y, _ = make_batch(valid.images, valid.labels)
>>> bool(accuracy(predict(params, x), y) > 0.95)
True

`jax_mnist.fit` runs the same loops for any model, loss and optimizer, with a whole epoch in one compiled function.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, Real, Shaped

from ..losses import mnist_loss
from ..types import ArrayLike, Batch, Layer, Params

Layers = tuple[Layer, ...]


def init_params(key: PRNGKeyArray, sizes: Sequence[int], std: float | None = 1.0) -> Layers:
    """Return random weights and biases for a chain of linear layers: step 1 of 7.

    `key` is a PRNG key. `sizes` lists the number of inputs, the number of units in each hidden layer, and the number
    of outputs: (784, 1) is the chapter's linear model, (784, 30, 1) its two-layer net. Weights and biases are normal
    with mean 0 and standard deviation `std`, as in the chapter's `init_params`. With `std=None` they are uniform in
    +-1/sqrt(inputs), as in PyTorch's `nn.Linear`. Returns one Layer(weights [i, o], bias [o]) per pair of neighboring
    sizes, in the default float dtype. Raises ValueError if there are fewer than two sizes or one is below 1.

    >>> [layer.weights.shape for layer in init_params(jax.random.key(0), (784, 30, 1))]
    [(784, 30), (30, 1)]
    """
    check_sizes(sizes)
    return _init_layers(key, tuple(sizes), std)


def check_sizes(sizes: Sequence[int]) -> None:
    """Raise ValueError if the sizes make no layer: fewer than two, or one below 1."""
    if len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(f"sizes must be two or more positive integers, such as (784, 30, 1), got {tuple(sizes)}")


@jax.jit(static_argnames=("sizes", "std"))
def _init_layers(key: PRNGKeyArray, sizes: tuple[int, ...], std: float | None) -> Layers:
    # One compiled function: without jit, JAX compiles dozens of small programs, one for each operation and shape.
    def draw(key: PRNGKeyArray, shape: tuple[int, ...], inputs: int) -> Array:
        if std is None:
            bound = inputs**-0.5
            return jax.random.uniform(key, shape, minval=-bound, maxval=bound)
        # The barrier keeps the rounding of the two separate products: XLA would fold std into the constant sqrt(2).
        return jax.lax.optimization_barrier(jax.random.normal(key, shape)) * std

    layers = []
    keys = jax.random.split(key, len(sizes) - 1)
    for layer_key, (inputs, outputs) in zip(keys, itertools.pairwise(sizes), strict=True):
        weights_key, bias_key = jax.random.split(layer_key)
        layers.append(Layer(draw(weights_key, (inputs, outputs), inputs), draw(bias_key, (outputs,), inputs)))
    return tuple(layers)


def linear_layer(layer: Layer, x: Float[ArrayLike, "*b i"]) -> Float[Array, "*b o"]:
    """Apply one layer, `x @ weights + bias`: the chapter's `linear1`.

    `x` is float [..., i]; returns float [..., o].

    >>> linear_layer(Layer(jnp.ones((2, 1)), jnp.zeros(1)), jnp.array([[3.0, 4.0]]))
    Array([[7.]], dtype=float32)
    """
    activations = jnp.asarray(x) @ layer.weights
    # Explicit broadcasting, because the tests set jax_numpy_rank_promotion="raise".
    return activations + jnp.broadcast_to(layer.bias, activations.shape)


def predict(params: Layers, x: Shaped[ArrayLike, "..."]) -> Float[Array, "..."]:
    """Return the logits of a batch, the values before the sigmoid: step 2 of 7.

    `params` is the result of `init_params`, `x` float [b, i] (or one example, [i]) with pixels in [0, 1]. A ReLU
    follows every layer but the last. Returns float [b, c]. Raises ValueError if `x` is not float or does not have i
    columns.

    >>> params = init_params(jax.random.key(0), (784, 30, 1))
    >>> predict(params, jnp.zeros((5, 784))).shape
    (5, 1)
    """
    inputs = params[0].weights.shape[0]
    if not jnp.issubdtype(x.dtype, jnp.floating) or x.ndim < 1 or x.shape[-1] != inputs:
        raise ValueError(
            f"x must be float [b, {inputs}] with pixels in [0, 1], got {x.dtype} {list(x.shape)}; "
            "make_batch(images).x converts images to this form"
        )
    *hidden, last = params
    activations = jnp.asarray(x)
    for layer in hidden:
        activations = jax.nn.relu(linear_layer(layer, activations))
    return linear_layer(last, activations)


def loss(params: Layers, batch: Batch) -> Float[Array, ""]:
    """Return the mean `mnist_loss` of a batch, without its padding: step 3 of 7.

    The result is a float in [0, 1], or NaN if the batch contains only padding.

    >>> batch = Batch(jnp.zeros((2, 784)), jnp.array([1, 0]), jnp.array([True, True]))
    >>> loss(init_params(jax.random.key(0), (784, 1)), batch)
    Array(0.5, dtype=float32)
    """
    return jnp.mean(mnist_loss(predict(params, batch.x), batch.y), where=batch.mask)


def gradient(params: Layers, batch: Batch) -> Layers:
    """Return the gradient of the loss of a batch: step 4 of 7, `loss.backward()` in PyTorch.

    The result has the structure of `params`: each value is the derivative of the loss with respect to one parameter.

    >>> batch = Batch(jnp.ones((1, 2)), jnp.array([1]), jnp.array([True]))
    >>> gradient((Layer(jnp.zeros((2, 1)), jnp.zeros(1)),), batch)[0].bias
    Array([-0.25], dtype=float32)
    """
    return jax.grad(loss)(params, batch)


def step(params: Params, gradients: Params, learning_rate: Real[Any, ""] | float) -> Params:
    """Move every parameter against its gradient: step 5 of 7, `w -= grad * lr` in the chapter.

    `params` and `gradients` are pytrees of the same structure, `learning_rate` is a number. Returns the new parameters,
    in the dtypes of the old ones.

    >>> step(jnp.array(-1.0), jnp.array(-2.0), 0.01)
    Array(-0.98, dtype=float32)
    """
    # The rate takes the parameter's dtype: a float32 rate would turn bfloat16 parameters into float32.
    return jax.tree.map(lambda w, g: w - g * jnp.asarray(learning_rate, jnp.result_type(w)), params, gradients)


@jax.jit
def update(params: Layers, batch: Batch, learning_rate: Real[Any, ""] | float) -> Layers:
    """Take one step of gradient descent on a batch: steps 2 to 5 of 7, compiled.

    `params` is the result of `init_params`, `batch` comes from `batches`, which pads the last batch to the size of the
    others, and `learning_rate` is a float. Returns the new parameters. It compiles once per batch size; a new learning
    rate needs no compilation.

    >>> params = init_params(jax.random.key(0), (784, 1))
    >>> batch = Batch(jnp.ones((2, 784)), jnp.array([1, 0]), jnp.array([True, True]))
    >>> [layer.weights.shape for layer in update(params, batch, 0.1)]
    [(784, 1)]
    """
    return step(params, gradient(params, batch), learning_rate)
