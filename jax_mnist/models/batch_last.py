"""Convolution and max pooling as one matrix product, for images with the batch last: the layout of `cnn`.

All arrays are [channels, height, width, batch]. A row of pixels is then as long as the batch and contiguous, so that
cutting out patches copies long rows, and nothing is transposed between layers. Max pooling takes the maximum over the
positions of a window; here, a patch covers all positions at once, and the kernel stands in it once for each of them:

    pooling 2x2 after a 3x3 convolution      the filters [4*o, 4*4*i], 0 where a position has no weight
    +--+--+--+--+                            +--+--+--+--+        +--+--+--+--+
    |  |  |  |  |  a patch is 4x4 pixels;    |##|##|##|  |        |  |##|##|##|
    +--+--+--+--+  the next one begins       +--+--+--+--+        +--+--+--+--+
    |  |  |  |  |  2 pixels further,         |##|##|##|  |  then  |  |##|##|##|  and the two one row lower
    +--+--+--+--+  so each pixel is          +--+--+--+--+        +--+--+--+--+
    |  |  |  |  |  copied 4 times, not 9     |##|##|##|  |        |  |##|##|##|
    +--+--+--+--+                            +--+--+--+--+        +--+--+--+--+
    |  |  |  |  |                            |  |  |  |  |        |  |  |  |  |
    +--+--+--+--+                            +--+--+--+--+        +--+--+--+--+

    patches [4*4*i, oh, ow, b]  ->  filters @ patches [4*o, oh, ow, b]  ->  maximum of the four blocks [o, oh, ow, b]

With the zeros there are 16/9 times as many multiplications, but the product is larger and therefore faster, and fewer
copies and a pooling of whole blocks save more. The derivatives that JAX makes of the product are fast, also inside
`lax.scan`; only the maximum has one of its own. The patches of a whole batch are in memory at once: 38 kB per image in
the second layer of `cnn`, its largest.
"""

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from .platforms import per_platform


class Window(NamedTuple):
    """Stride of a kernel and side of the max pooling after it, 1 for none, in pixels; padding is "SAME" or "VALID"."""

    stride: int
    pool: int
    padding: str

    def outputs(self, side: int, kernel: int) -> int:
        """Return the side of the output for the sides of an image and a kernel; below 1 if nothing is left."""
        side = side if self.padding == "SAME" else side - kernel + 1
        return -(-side // self.stride) // self.pool


def convolve_and_pool(
    window: Window, x: Float[Array, "i h w b"], kernel: Float[Array, "kh kw i o"]
) -> Float[Array, "o oh ow b"]:
    """Convolve x with the kernel, then take the maximum of each tile of outputs.

    Outputs left over after the last whole tile are ignored. The result has the wider of the two dtypes.
    """
    dtype = jnp.result_type(x, kernel)
    x, kernel = x.astype(dtype), kernel.astype(dtype)
    strides = window.stride, window.stride
    pads = lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, window.padding)
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    return per_platform(_as_product, _as_lax, window, x, kernel, batch_axis=3)


def _as_product(window: Window, x: Array, kernel: Array) -> Array:
    kh, kw, _, outputs = kernel.shape
    step, reach = window.stride * window.pool, window.stride * (window.pool - 1)
    rows, columns = ((side - k - reach) // step + 1 for side, k in zip(x.shape[1:3], (kh, kw), strict=True))
    # Each slice holds one pixel of all patches.
    slices = [
        x[:, i : i + (rows - 1) * step + 1 : step, j : j + (columns - 1) * step + 1 : step]
        for i, j in itertools.product(range(kh + reach), range(kw + reach))
    ]
    rows_first = kernel.transpose(3, 0, 1, 2)
    offsets = itertools.product(range(0, reach + 1, window.stride), repeat=2)
    filters = [jnp.pad(rows_first, ((0, 0), (i, reach - i), (j, reach - j), (0, 0))) for i, j in offsets]
    wide = jnp.concatenate(filters).reshape(len(filters) * outputs, -1)
    patches = jnp.concatenate(slices).reshape(wide.shape[1], -1)
    return _maximum((wide @ patches).reshape(len(filters), outputs, -1)).reshape(outputs, rows, columns, -1)


@jax.custom_jvp
def _maximum(x: Float[Array, "k o n"]) -> Float[Array, "o n"]:
    """Return the maximum over the first axis. The gradient goes to the first maximum, as in PyTorch's max pooling."""
    return functools.reduce(jnp.maximum, x)


@_maximum.defjvp
def _maximum_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (tangent,) = primals, tangents
    largest, first = x[0], jnp.zeros(x.shape[1:], jnp.int32)
    for index in range(1, len(x)):
        first = jnp.where(x[index] > largest, index, first)
        largest = jnp.maximum(largest, x[index])
    is_first = first[None] == jnp.arange(len(x)).reshape(-1, 1, 1)
    return largest, jnp.sum(jnp.where(is_first, tangent, 0), axis=0)


def _as_lax(window: Window, x: Array, kernel: Array) -> Array:
    strides = window.stride, window.stride
    y = lax.conv_general_dilated(x, kernel, strides, "VALID", dimension_numbers=("CHWN", "HWIO", "CHWN"))
    tile = (1, window.pool, window.pool, 1)
    return lax.reduce_window(y, -jnp.inf, lax.max, tile, tile, "VALID") if window.pool > 1 else y
