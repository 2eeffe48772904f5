"""Plots of the chapter's worked example: the slope of a function, and a parabola that is fitted step by step."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes

from .axes import BLUE, GRAY, RED, WIDTH, axes_or_new, styled


@styled()
def tangent(
    function: Callable[[Any], Any], at: float, low: float = -2, high: float = 2, ax: Axes | None = None
) -> Axes:
    """Plot a scalar function with its tangent at one point, from `jax.grad`: the chapter's `plot_function`.

    The function is drawn from `low` to `high`, with the point and the tangent at `at`.

    >>> tangent(lambda x: x**2, at=-1.0).get_title()
    'f(-1) = 1, slope -2'
    """
    ax = axes_or_new(ax)
    x = np.linspace(low, high, 201, dtype=np.float32)
    value, slope = (float(v) for v in jax.value_and_grad(function)(float(at)))
    near = np.array([at - (high - low) / 6, at + (high - low) / 6])
    ax.plot(x, jax.vmap(function)(x), color=BLUE, linestyle="-")
    ax.plot(near, value + slope * (near - at), color=GRAY, linestyle="--")
    ax.plot([at], [value], "o", color=RED)
    ax.set(xlabel="x", ylabel="f(x)", title=f"f({at:.4g}) = {value:.4g}, slope {slope:.4g}")
    return ax


@styled()
def parabola(
    time: Float[Any, " n"], speed: Float[Any, " n"], fits: Sequence[Float[Any, " n"]], titles: Sequence[str] = ()
) -> np.ndarray:
    """Plot the steps of a fit side by side, each as a curve through the measurements.

    `time` (in s) and `speed` (in m/s) are float [n], `fits` is one curve [n] per plot, `titles` one title per plot or
    none. Returns the axes, an array [len(fits)].

    >>> time = np.arange(3.0)
    >>> parabola(time, time**2, [time, time**2], ["Before", "After"]).shape
    (2,)
    """
    import matplotlib.pyplot as plt

    axes = plt.subplots(1, len(fits), figsize=(WIDTH, 2.2), sharex=True, sharey=True, squeeze=False)[1][0]
    for i, ax in enumerate(axes):
        ax.scatter(time, speed, s=12, color=BLUE)
        ax.plot(time, fits[i], color=RED, linestyle="-")
        ax.set(xlabel="Time (s)", title=titles[i] if titles else "")
    axes[0].set_ylabel("Speed (m/s)")
    return axes
