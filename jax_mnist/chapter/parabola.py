"""The chapter's worked example of gradient descent: a roller coaster's speed over time, fitted by a parabola."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ..losses import mse
from ..types import ArrayLike, Params
from .from_scratch import step


class Quadratic(NamedTuple):
    """The parameters of a t^2 + b t + c."""

    a: Any
    b: Any
    c: Any


def measured_speeds(key: PRNGKeyArray, time: Float[ArrayLike, " n"]) -> Float[Array, " n"]:
    """The example's measurements: 0.75 (t - 9.5)^2 + 1 with normal noise of standard deviation 3.

    `time` float [n] in seconds, the chapter's is 0..19; returns float [n]. From the section "An End-to-End SGD
    Example".

    >>> measured_speeds(jax.random.key(0), jnp.arange(20.0)).shape
    (20,)
    """
    time = jnp.asarray(time)
    return 3 * jax.random.normal(key, time.shape, time.dtype) + 0.75 * (time - 9.5) ** 2 + 1


def quadratic(params: Quadratic, time: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
    """The example's model, a t^2 + b t + c: the chapter's `f(t, params)`.

    >>> quadratic(Quadratic(1.0, 2.0, 3.0), jnp.array([0.0, 1.0]))
    Array([3., 6.], dtype=float32)
    """
    time = jnp.asarray(time)
    return params.a * time**2 + params.b * time + params.c


def quadratic_loss(params: Quadratic, time: Float[ArrayLike, " n"], speed: Float[ArrayLike, " n"]) -> Float[Array, ""]:
    """The mean squared error of the parabola.

    >>> quadratic_loss(Quadratic(0.0, 0.0, 1.0), jnp.arange(2.0), jnp.array([1.0, 3.0]))
    Array(2., dtype=float32)
    """
    return jnp.mean(mse(quadratic(params, time), speed))


def descend(
    loss: Callable[[Params], Array], params: Params, learning_rate: float, count: int
) -> tuple[Params, Float[Array, " steps"]]:
    """Gradient descent on any loss, with everything that it passed: the chapter's loop over `apply_step`.

    `loss` takes the parameters alone, `params` is where to start, `count` the number of steps. Returns the
    parameters before each step and after the last, stacked [count + 1, ...], and their losses [count + 1].

    >>> path, losses = descend(lambda x: x**2, jnp.array(-1.0), 0.01, 1)
    >>> path, losses.round(4)
    (Array([-1.  , -0.98], dtype=float32), Array([1.    , 0.9604], dtype=float32))
    """

    def one_step(params: Params, _: None) -> tuple[Params, Params]:
        return step(params, jax.grad(loss)(params), learning_rate), params

    last, path = jax.lax.scan(one_step, params, length=count)
    path = jax.tree.map(lambda passed, end: jnp.concatenate([passed, jnp.asarray(end)[None]]), path, last)
    return path, jax.vmap(loss)(path)
