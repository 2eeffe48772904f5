"""A convolution and a max pooling that are fast on a CPU, inside `lax.scan` too; elsewhere they are plain `jax.lax`."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from .im2col import Pads, Window, convolve

Padding = str | Sequence[Sequence[int]]
"""What lies around the image: "SAME", "VALID" or ((top, bottom), (left, right)) rows and columns of zeros."""


def conv2d(
    x: Float[Array, "..."],
    kernel: Float[Array, "..."],
    *,
    stride: int = 1,
    padding: Padding = "SAME",
) -> Float[Array, "b oh ow o"]:
    """A 2-D convolution as neural networks have it: `lax.conv_general_dilated` in NHWC and HWIO.

    `x` float [b, h, w, i], `kernel` [kh, kw, i, o] of the same dtype; `stride` holds for both axes; `padding` is
    "SAME", "VALID" or ((top, bottom), (left, right)). Returns [b, oh, ow, o]. Values and derivatives of every order
    are those of `jax.lax`, up to rounding. Raises ValueError where these do not fit together.

    >>> conv2d(jnp.ones((1, 3, 3, 1)), jnp.ones((3, 3, 1, 1)))[0, :, :, 0]
    Array([[4., 6., 4.],
           [6., 9., 6.],
           [4., 6., 4.]], dtype=float32)
    """
    window = Window(stride, _pads(x, kernel, stride, padding))
    if min(window.outputs(x, kernel)) < 1:
        raise ValueError(f"a {kernel.shape[:2]} kernel does not fit into {x.shape[1:3]} images with padding {padding}")
    return _per_platform(convolve, _lax_conv, window, x, kernel)


def max_pool(x: Float[Array, "..."], window: int = 2) -> Float[Array, "b oh ow c"]:
    """The maximum of each `window` x `window` tile: `lax.reduce_window` with VALID padding and stride `window`.

    `x` float [b, h, w, c]; rows and columns that fill no tile are left out. Returns [b, h // window, w // window, c].
    The gradient goes to the first maximum of a tile, row by row, as in `jax.lax` and PyTorch. Raises ValueError
    where no tile fits.

    >>> x = jnp.array([[1.0, 5.0], [5.0, 2.0]]).reshape(1, 2, 2, 1)
    >>> jax.grad(lambda x: max_pool(x).sum())(x)[0, :, :, 0]
    Array([[0., 1.],
           [0., 0.]], dtype=float32)
    """
    if x.ndim != 4 or not isinstance(window, int) or not 1 <= window <= min(x.shape[1:3]):
        raise ValueError(f"max_pool takes x [b, h, w, c] and a window of 1..min(h, w), not {x.shape} and {window!r}")
    return _per_platform(_pool, _lax_pool, window, x)


class Conv(nnx.Conv):
    """`nnx.Conv` on `conv2d`: the same arguments, parameters and start, for 2-D kernels.

    x [..., h, w, in_features] -> [..., oh, ow, out_features]; `kernel` [kh, kw, in_features, out_features] and `bias`
    [out_features] as in `nnx.Conv`. Raises ValueError for what `conv2d` has not: kernels of one or three dimensions,
    strides that differ, dilations, feature groups, `precision`, `preferred_element_type`, `conv_general_dilated`.

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
            raise ValueError("Conv brings its own conv_general_dilated; nnx.Conv takes another")
        if np.shape(kernel_size) != (2,):
            raise ValueError(f"kernel_size must be (height, width), not {kernel_size}")
        options["conv_general_dilated"] = _for_conv
        super().__init__(in_features, out_features, kernel_size, strides, rngs=rngs, **options)
        # Traced once, so that what it does not support is said here and not at the first call.
        jax.eval_shape(self, jax.ShapeDtypeStruct((1, *self.kernel_size, in_features), self.param_dtype))


def conv_general_dilated(
    x: Array, kernel: Array, strides: Sequence[int], padding: Any, *, dimension_numbers: Any = None, **options: Any
) -> Array:
    """`lax.conv_general_dilated` as `nnx.Conv` calls it, by `conv2d` where that has what is asked for."""
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
    """What `nnx.Conv` asks for that `conv2d` has not."""
    plain = {"lhs_dilation": (1, 1), "rhs_dilation": (1, 1), "feature_group_count": 1}
    others = [f"{name}={value!r}" for name, value in options.items() if value not in (None, plain.get(name))]
    return others + ([f"strides {tuple(strides)} that differ"] if len(set(strides)) != 1 else [])


@jax.jit(static_argnums=(0, 1, 2))
def _per_platform(on_cpu: Callable, elsewhere: Callable, window: Any, *arrays: Array) -> Array:
    on_cpu, elsewhere = functools.partial(on_cpu, window), functools.partial(elsewhere, window)
    return lax.platform_dependent(*arrays, cpu=on_cpu, default=elsewhere)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _pool(window: int, x: Array) -> Array:
    return functools.reduce(jnp.maximum, _places(_tiles(window, x)))


@_pool.defjvp
def _pool_jvp(window: int, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    y = _pool(window, *primals)
    first = jnp.full(y.shape, window**2 - 1)
    for n, place in reversed(list(enumerate(_places(_tiles(window, *primals))))):
        first = jnp.where(place == y, n, first)
    chosen = first[:, :, None, :, None] == jnp.arange(window**2).reshape(1, 1, window, 1, window, 1)
    # Without the barrier XLA computes the gradient anew for each that reads it.
    tiles = _tiles(window, lax.optimization_barrier(tangents[0]))
    return y, jnp.sum(jnp.where(chosen, tiles, jnp.zeros((), tiles.dtype)), axis=(2, 4))


def _tiles(window: int, x: Array) -> Array:
    """[b, h, w, c] -> [b, oh, window, ow, window, c]."""
    oh, ow = x.shape[1] // window, x.shape[2] // window
    return x[:, : oh * window, : ow * window].reshape(x.shape[0], oh, window, ow, window, x.shape[3])


def _places(tiles: Array) -> list[Array]:
    window = tiles.shape[2]
    return [tiles[:, :, row, :, column] for row in range(window) for column in range(window)]


def _lax_conv(window: Window, x: Array, kernel: Array) -> Array:
    strides = (window.stride, window.stride)
    return lax.conv_general_dilated(x, kernel, strides, window.pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _lax_pool(window: int, x: Array) -> Array:
    return nnx.max_pool(x, (window, window), strides=(window, window))


def _pads(x: Array, kernel: Array, stride: int, padding: Padding) -> Pads:
    if x.ndim != 4 or kernel.ndim != 4 or x.shape[3] != kernel.shape[2]:
        raise ValueError(f"x [b, h, w, i] and kernel [kh, kw, i, o] do not fit together: {x.shape}, {kernel.shape}")
    if x.dtype != kernel.dtype:
        raise ValueError(f"x and kernel must be of one dtype, not {x.dtype} and {kernel.dtype}")
    if not isinstance(stride, int) or stride < 1:
        raise ValueError(f"stride must be a positive integer, not {stride!r}")
    if isinstance(padding, str):
        if padding not in ("SAME", "VALID"):
            raise ValueError(f'padding must be "SAME", "VALID" or ((top, bottom), (left, right)), not {padding!r}')
        padding = lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], (stride, stride), padding)
    (top, bottom), (left, right) = padding
    return (top, bottom), (left, right)
