"""A convolution and a max pooling that XLA compiles well for a CPU, inside `lax.scan` too.

XLA:CPU has fast code for one layout of a convolution and rewrites the others into it, but not inside a loop: there both
gradients of `lax.conv_general_dilated` run scalar code, ten to a hundred times slower. Here, on a CPU, a convolution
is a matrix product, and so are its gradients:

    y         [b, oh, ow, o] = patches of x                         @ kernel            [kh*kw*i, o]
    d loss/dx [b, h, w, i]   = patches of dy (spread by the stride) @ the kernel turned [kh*kw*o, i]
    d loss/dkernel           = (patches of x)^T                     @ dy

The patches repeat a pixel kh*kw times, so they are made for a few images at a time and used while they are in the
cache. Where a patch is small, as on a first layer's one channel, `block` neighbouring outputs share one wider patch:
less to copy, and a larger product. On GPU and TPU all of this is `lax.conv_general_dilated` and `lax.reduce_window`.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

Pads = tuple[tuple[int, int], tuple[int, int]]

PATCH_NUMBERS = 2**19
"""How many numbers the patches of one chunk of images hold at most: 2 MiB of float32, which stay in the cache."""


class Window(NamedTuple):
    """Where a kernel stands on an image: every `stride` pixels, with zeros around it ((top, bottom), (left, right))."""

    stride: int
    pads: Pads

    def outputs(self, x: Any, kernel: Any) -> tuple[int, int]:
        """The height and width of the output, for x [b, h, w, i] and kernel [kh, kw, i, o]."""
        sizes = zip(x.shape[1:3], kernel.shape[:2], self.pads, strict=True)
        oh, ow = ((size + low + high - side) // self.stride + 1 for size, side, (low, high) in sizes)
        return oh, ow


def conv2d(
    x: Float[Array, "b h w i"], kernel: Float[Array, "kh kw i o"], *, stride: int = 1, padding: str | Pads = "SAME"
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
        raise ValueError(f"a kernel of {kernel.shape[:2]} does not fit into images of {x.shape[1:3]} padded {padding}")
    on_cpu, elsewhere = (functools.partial(f, window) for f in (_conv, _lax_conv))
    return lax.platform_dependent(x, kernel, cpu=on_cpu, default=elsewhere)


def max_pool(x: Float[Array, "b h w c"], window: int = 2) -> Float[Array, "b oh ow c"]:
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
    on_cpu, elsewhere = (functools.partial(f, window) for f in (_pool, _lax_pool))
    return lax.platform_dependent(x, cpu=on_cpu, default=elsewhere)


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
        kernel_size: Sequence[int],
        strides: int | Sequence[int] | None = 1,
        *,
        rngs: nnx.Rngs,
        **options: Any,
    ):
        if "conv_general_dilated" in options:
            raise ValueError("Conv brings its own conv_general_dilated; nnx.Conv takes another")
        options["conv_general_dilated"] = _for_nnx
        super().__init__(in_features, out_features, kernel_size, strides, rngs=rngs, **options)
        if np.ndim(kernel_size) != 1 or len(self.kernel_size) != 2:
            raise ValueError(f"kernel_size must be (height, width), not {kernel_size}")
        image = jax.ShapeDtypeStruct((1, *self.kernel_size, in_features), self.dtype or self.param_dtype)
        jax.eval_shape(functools.partial(super().__call__), image)


def _for_nnx(
    x: Array, kernel: Array, strides: tuple[int, ...], padding: str | Pads, *, dimension_numbers: Any, **options: Any
) -> Array:
    plain = {"lhs_dilation": (1, 1), "rhs_dilation": (1, 1), "feature_group_count": 1}
    unsupported = {name: value for name, value in options.items() if value is not None and value != plain.get(name)}
    if unsupported or len(set(strides)) != 1:
        raise ValueError(f"Conv supports equal strides and no {', '.join(options)}, not {strides}, {unsupported}")
    return conv2d(x, kernel, stride=strides[0], padding=padding)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _conv(window: Window, x: Array, kernel: Array) -> Array:
    return _product(window, x, kernel)


@functools.partial(_conv.defjvp, symbolic_zeros=True)
def _conv_jvp(window: Window, primals: tuple[Array, Array], tangents: tuple[Any, Any]) -> tuple[Array, Array]:
    # Reverse mode transposes the tangent. It is written as the transpose of each gradient, so that this gradient is
    # what comes out; a custom_vjp would give the gradient directly, and refuse jax.jvp.
    y = _conv(window, *primals)
    gradients = (functools.partial(gradient, window, *primals) for gradient in (_input_gradient, _kernel_gradient))
    moves = [
        jax.linear_transpose(gradient, y)(tangent)[0]
        for gradient, tangent in zip(gradients, tangents, strict=True)
        if not isinstance(tangent, jax.custom_derivatives.SymbolicZero)
    ]
    return y, functools.reduce(jnp.add, moves)


def _product(window: Window, x: Array, kernel: Array) -> Array:
    oh, ow = window.outputs(x, kernel)
    block = _block(kernel, ow)
    wide = _widen(window, block, kernel)
    chunks = _chunks(x, oh * ow // block * len(wide))
    y = lax.map(lambda x: jnp.matmul(_patches(window, block, x, kernel), wide), chunks)
    return y.reshape(-1, oh, ow, kernel.shape[3])[: len(x)]


def _kernel_gradient(window: Window, x: Array, kernel: Array, dy: Array) -> Array:
    _, oh, ow, o = dy.shape
    block = _block(kernel, ow)
    widen = functools.partial(_widen, window, block)
    inputs, outputs = jax.eval_shape(widen, kernel).shape

    def add_chunk(total: Array, chunk: tuple[Array, Array]) -> tuple[Array, None]:
        patches = _patches(window, block, chunk[0], kernel).reshape(-1, inputs)
        return total + jnp.matmul(patches.T, chunk[1].reshape(-1, outputs)), None

    chunks = tuple(_chunks(images, oh * ow // block * inputs) for images in (x, dy))
    total, _ = lax.scan(add_chunk, jnp.zeros((inputs, outputs), dy.dtype), chunks)
    return jax.linear_transpose(widen, kernel)(total)[0]


def _input_gradient(window: Window, x: Array, kernel: Array, dy: Array) -> Array:
    between = (0, 0, window.stride - 1)
    dy = lax.pad(dy, jnp.zeros((), dy.dtype), [(0, 0, 0), between, between, (0, 0, 0)])
    sizes = zip(x.shape[1:3], dy.shape[1:3], kernel.shape[:2], window.pads, strict=True)
    rows, columns = ((side - 1 - low, size - spread + low) for size, spread, side, (low, _) in sizes)
    return _product(Window(1, (rows, columns)), dy, jnp.flip(kernel, (0, 1)).swapaxes(2, 3))


def _patches(window: Window, block: int, x: Array, kernel: Array) -> Array:
    """What each `block` outputs side by side see: [b, oh, ow / block, kh * columns * i]."""
    (b, h, w, i), (kh, kw, *_), ((top, bottom), (left, _)) = x.shape, kernel.shape, window.pads
    oh, ow = window.outputs(x, kernel)
    step, columns, groups = block * window.stride, (block - 1) * window.stride + kw, ow // block
    # With the image cut into runs of `step` columns, a row of a patch is a few runs, copied as a whole.
    runs = -(-columns // step)
    right = (groups + runs - 1) * step - w - left
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), (top, bottom, 0), (left, right, 0), (0, 0, 0)])
    x = x.reshape(b, h + top + bottom, groups + runs - 1, step * i)
    x = jnp.concatenate([x[:, :, n : n + groups, : (columns - n * step) * i] for n in range(runs)], axis=-1)
    last = (oh - 1) * window.stride
    return jnp.concatenate([x[:, n : n + last + 1 : window.stride] for n in range(kh)], axis=-1)


def _block(kernel: Array, ow: int) -> int:
    return math.gcd(4, ow) if math.prod(kernel.shape[:3]) <= 64 else 1


def _widen(window: Window, block: int, kernel: Array) -> Array:
    """`block` kernels side by side, each one stride further in their patch: [kh * columns * i, block * o]."""
    shifts = [(window.stride * n, window.stride * (block - 1 - n)) for n in range(block)]
    wide = jnp.concatenate([jnp.pad(kernel, ((0, 0), shift, (0, 0), (0, 0))) for shift in shifts], axis=-1)
    return wide.reshape(-1, wide.shape[-1])


def _chunks(images: Array, numbers: int) -> Array:
    """[b, ...] -> [n, size, ...], filled up with zeros; an image's patches hold `numbers` numbers."""
    size = max(1, min(2 ** max(0, (PATCH_NUMBERS // numbers).bit_length() - 1), len(images)))
    count = -(-len(images) // size)
    missing = [(0, count * size - len(images))] + [(0, 0)] * (images.ndim - 1)
    return jnp.pad(images, missing).reshape(count, size, *images.shape[1:])


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
    return x[:, : oh * window, : ow * window].reshape(len(x), oh, window, ow, window, x.shape[3])


def _places(tiles: Array) -> list[Array]:
    window = tiles.shape[2]
    return [tiles[:, :, row, :, column] for row in range(window) for column in range(window)]


def _lax_conv(window: Window, x: Array, kernel: Array) -> Array:
    strides = (window.stride, window.stride)
    return lax.conv_general_dilated(x, kernel, strides, window.pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _lax_pool(window: int, x: Array) -> Array:
    shape = (1, window, window, 1)
    return lax.reduce_window(x, jnp.array(-jnp.inf, x.dtype), lax.max, shape, shape, "VALID")


def _pads(x: Array, kernel: Array, stride: int, padding: str | Pads) -> Pads:
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
