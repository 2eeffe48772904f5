"""The chapter's "End-to-End SGD Example": a parabola fitted to the speed of a roller coaster."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ..losses import mse
from ..types import ArrayLike, Params
from .from_scratch import step


class Quadratic(NamedTuple):
    """Parameters of the parabola a t^2 + b t + c: numbers or arrays []."""

    a: Any
    b: Any
    c: Any


def measured_speeds(key: PRNGKeyArray, time: Float[ArrayLike, " n"]) -> Float[Array, " n"]:
    """Return noisy speed measurements: 0.75 (t - 9.5)^2 + 1 plus normal noise with standard deviation 3.

    `time` is float [n] in seconds, 0..19 in the chapter. Returns float [n]. From the chapter's section "An End-to-End
    SGD Example".

    >>> measured_speeds(jax.random.key(0), jnp.arange(20.0)).shape
    (20,)
    """
    time = jnp.asarray(time)
    return 3 * jax.random.normal(key, time.shape, time.dtype) + 0.75 * (time - 9.5) ** 2 + 1


def quadratic(params: Quadratic, time: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
    """Return a t^2 + b t + c, the example's model: the chapter's `f(t, params)`.

    `time` is float [...]; returns float [...].

    >>> quadratic(Quadratic(1.0, 2.0, 3.0), jnp.array([0.0, 1.0]))
    Array([3., 6.], dtype=float32)
    """
    time = jnp.asarray(time)
    return params.a * time**2 + params.b * time + params.c


def quadratic_loss(params: Quadratic, time: Float[ArrayLike, " n"], speed: Float[ArrayLike, " n"]) -> Float[Array, ""]:
    """Return the mean squared error of the parabola.

    `time` and `speed` are float [n]; returns float [].

    >>> quadratic_loss(Quadratic(0.0, 0.0, 1.0), jnp.arange(2.0), jnp.array([1.0, 3.0]))
    Array(2., dtype=float32)
    """
    return jnp.mean(mse(quadratic(params, time), speed))


def descend(
    loss: Callable[[Params], Array], params: Params, learning_rate: float, count: int
) -> tuple[Params, Float[Array, " steps"]]:
    """Minimize any loss by gradient descent and return every step: the chapter's loop over `apply_step`.

    `loss(params)` returns a float [], `params` is the starting point, and `count` is the number of steps. Returns the
    parameters before the first step and after each step, stacked [count + 1, ...], and their losses [count + 1].

    >>> path, losses = descend(lambda x: x**2, jnp.array(-1.0), 0.01, 1)
    >>> path, losses.round(4)
    (Array([-1.  , -0.98], dtype=float32), Array([1.    , 0.9604], dtype=float32))
    """

    def one_step(params: Params, _: None) -> tuple[Params, Params]:
        return step(params, jax.grad(loss)(params), learning_rate), params

    last, path = jax.lax.scan(one_step, params, length=count)
    path = jax.tree.map(lambda before, after: jnp.concatenate([before, jnp.asarray(after)[None]]), path, last)
    return path, jax.vmap(loss)(path)
