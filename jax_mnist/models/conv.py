"""Convolution and max pooling that are fast on CPU, also inside `lax.scan`; other platforms use plain `jax.lax`."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from .im2col import Pads, Window, convolve
from .platforms import per_platform

Padding = str | Sequence[Sequence[int]]
"""Zero padding of an image: "SAME", "VALID" or ((top, bottom), (left, right)) in rows and columns."""


def conv2d(
    x: Float[Array, "..."],
    kernel: Float[Array, "..."],
    *,
    stride: int = 1,
    padding: Padding = "SAME",
) -> Float[Array, "b oh ow o"]:
    """Convolve images with a kernel, as `lax.conv_general_dilated` does with layouts NHWC and HWIO.

    `x` is float [b, h, w, i] and `kernel` [kh, kw, i, o] of the same dtype. `stride` applies to both axes. `padding` is
    "SAME", "VALID" or ((top, bottom), (left, right)) in pixels. Returns [b, oh, ow, o]. Values and derivatives of every
    order equal those of `jax.lax`, up to rounding. Raises ValueError if the shapes, dtypes or options are invalid.

    >>> conv2d(jnp.ones((1, 3, 3, 1)), jnp.ones((3, 3, 1, 1)))[0, :, :, 0]
    Array([[4., 6., 4.],
           [6., 9., 6.],
           [4., 6., 4.]], dtype=float32)
    """
    window = Window(stride, _pads(x, kernel, stride, padding))
    if min(window.outputs(x, kernel)) < 1:
        raise ValueError(f"kernel must fit into the image, got {kernel.shape[:2]} in {x.shape[1:3]}, padding {padding}")
    return per_platform(convolve, _lax_conv, window, x, kernel)


def max_pool(x: Float[Array, "..."], window: int = 2) -> Float[Array, "b oh ow c"]:
    """Return the maximum of each `window` x `window` tile, with stride `window` and VALID padding.

    `x` is float [b, h, w, c]; rows and columns left over after the last whole tile are ignored. Returns
    [b, h // window, w // window, c]. The gradient goes to the first maximum of a tile in row-major order, as in
    `lax.reduce_window` and PyTorch. Raises ValueError if `x` is not 4-D or `window` is not in 1..min(h, w).

    >>> x = jnp.array([[1.0, 5.0], [5.0, 2.0]]).reshape(1, 2, 2, 1)
    >>> jax.grad(lambda x: max_pool(x).sum())(x)[0, :, :, 0]
    Array([[0., 1.],
           [0., 0.]], dtype=float32)
    """
    if x.ndim != 4 or not isinstance(window, int) or not 1 <= window <= min(x.shape[1:3]):
        raise ValueError(f"max_pool needs x [b, h, w, c] and window in 1..min(h, w), got {x.shape} and {window!r}")
    return per_platform(_pool, _lax_pool, window, x)


class Conv(nnx.Conv):
    """An `nnx.Conv` that computes with `conv2d`: the same arguments, parameters and initialization, for 2-D kernels.

    Maps x [..., h, w, in_features] to [..., oh, ow, out_features], with `kernel` [kh, kw, in_features, out_features]
    and `bias` [out_features]. Raises ValueError for options that `conv2d` does not support: 1-D or 3-D kernels, strides
    that differ between axes, dilations, feature groups, `precision`, `preferred_element_type` and
    `conv_general_dilated`.

    >>> conv = Conv(1, 24, (5, 5), rngs=nnx.Rngs(0))
    >>> conv(jnp.zeros((2, 28, 28, 1))).shape
    (2, 28, 28, 24)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] | None = 1,
        *,
        rngs: nnx.Rngs,
        **options: Any,
    ):
        if "conv_general_dilated" in options:
            raise ValueError("Conv sets conv_general_dilated itself; use nnx.Conv to pass your own")
        if np.shape(kernel_size) != (2,):
            raise ValueError(f"kernel_size must be (height, width), got {kernel_size}")
        options["conv_general_dilated"] = _for_conv
        super().__init__(in_features, out_features, kernel_size, strides, rngs=rngs, **options)
        # Trace one call, so that unsupported options raise here and not at the first use.
        jax.eval_shape(self, jax.ShapeDtypeStruct((1, *self.kernel_size, in_features), self.param_dtype))


def conv_general_dilated(
    x: Array, kernel: Array, strides: Sequence[int], padding: Any, *, dimension_numbers: Any = None, **options: Any
) -> Array:
    """Convolve as `nnx.Conv` asks, with `conv2d` if it supports the options, else `lax.conv_general_dilated`."""
    if x.ndim == 4 and not _unsupported(strides, options):
        return conv2d(x, kernel, stride=strides[0], padding=padding)
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=dimension_numbers, **options)


def _for_conv(
    x: Array, kernel: Array, strides: Sequence[int], padding: Any, *, dimension_numbers: Any, **options: Any
) -> Array:
    if others := _unsupported(strides, options):
        raise ValueError(f"Conv does not support {', '.join(others)}; nnx.Conv does")
    return conv2d(x, kernel, stride=strides[0], padding=padding)


def _unsupported(strides: Sequence[int], options: dict[str, Any]) -> list[str]:
    """Return the options of an `nnx.Conv` that `conv2d` does not support, as text."""
    supported = {"lhs_dilation": (1, 1), "rhs_dilation": (1, 1), "feature_group_count": 1}
    others = [f"{name}={value!r}" for name, value in options.items() if value not in (None, supported.get(name))]
    return others + ([f"strides {tuple(strides)} that differ"] if len(set(strides)) != 1 else [])


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _pool(window: int, x: Array) -> Array:
    return functools.reduce(jnp.maximum, _tile_elements(window, x))


@_pool.defjvp
def _pool_jvp(window: int, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # `_maximum` of batch_last.py does the same for stacked elements; stacking these would copy the images.
    y = _pool(window, *primals)
    # The index of the first maximum in each tile, in row-major order. Counting backwards lets the first one win ties.
    first = jnp.full(y.shape, window**2 - 1)
    for index, element in reversed(list(enumerate(_tile_elements(window, *primals)))):
        first = jnp.where(element == y, index, first)
    is_first = first[:, :, None, :, None] == jnp.arange(window**2).reshape(1, 1, window, 1, window, 1)
    # Without the barrier, XLA recomputes the gradient for every operation that reads it.
    tiles = _tiles(window, lax.optimization_barrier(tangents[0]))
    return y, jnp.sum(jnp.where(is_first, tiles, jnp.zeros((), tiles.dtype)), axis=(2, 4))


def _tiles(window: int, x: Array) -> Array:
    """Reshape [b, h, w, c] to [b, oh, window, ow, window, c]."""
    oh, ow = x.shape[1] // window, x.shape[2] // window
    return x[:, : oh * window, : ow * window].reshape(x.shape[0], oh, window, ow, window, x.shape[3])


def _tile_elements(window: int, x: Array) -> list[Array]:
    """Return the elements of each tile in row-major order, as window**2 arrays [b, oh, ow, c]."""
    tiles = _tiles(window, x)
    return [tiles[:, :, row, :, column] for row in range(window) for column in range(window)]


def _lax_conv(window: Window, x: Array, kernel: Array) -> Array:
    strides = (window.stride, window.stride)
    return lax.conv_general_dilated(x, kernel, strides, window.pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _lax_pool(window: int, x: Array) -> Array:
    return nnx.max_pool(x, (window, window), strides=(window, window))


def _pads(x: Array, kernel: Array, stride: int, padding: Padding) -> Pads:
    if x.ndim != 4 or kernel.ndim != 4 or x.shape[3] != kernel.shape[2]:
        raise ValueError(f"x must be [b, h, w, i] and kernel [kh, kw, i, o], got {x.shape} and {kernel.shape}")
    if x.dtype != kernel.dtype:
        raise ValueError(f"x and kernel must have the same dtype, got {x.dtype} and {kernel.dtype}")
    if not isinstance(stride, int) or stride < 1:
        raise ValueError(f"stride must be a positive integer, got {stride!r}")
    if isinstance(padding, str):
        if padding not in ("SAME", "VALID"):
            raise ValueError(f'padding must be "SAME", "VALID" or ((top, bottom), (left, right)), got {padding!r}')
        padding = lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], (stride, stride), padding)
    (top, bottom), (left, right) = padding
    return (top, bottom), (left, right)
