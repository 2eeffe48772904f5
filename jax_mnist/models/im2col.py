"""Convolution by im2col: a convolution and its gradients as matrix products, fast on CPU also inside `lax.scan`.

XLA:CPU has fast code for one convolution layout and rewrites the others into it, but not inside a loop. There, both
gradients of `lax.conv_general_dilated` run scalar code, ten to a hundred times slower. im2col avoids this: it copies
the patch of pixels under each output into a row of a matrix, and the convolution becomes one matrix product. So do the
gradients:

    y          [b, oh, ow, o]   = patches of x                            @ kernel               [kh*kw*i, o]
    d loss/dx  [b, h, w, i]     = patches of dy, dilated by the stride    @ kernel rotated 180   [kh*kw*o, i]
    d loss/dkernel              = (patches of x)^T                        @ dy

The patches hold each pixel up to kh*kw times. They are therefore built for a few images at a time and used while they
are in the cache. If a patch is small, as in a first layer with one channel, `block` neighboring outputs share one
wider patch, which copies less and makes the product larger.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

Pads = tuple[tuple[int, int], tuple[int, int]]

PATCH_NUMBERS = 2**18
"""Maximum size of the patches of one chunk of images: 1 MiB of float32, which stays in the cache of a core."""


class Window(NamedTuple):
    """Stride of a kernel in pixels, and zero padding of the image, ((top, bottom), (left, right))."""

    stride: int
    pads: Pads

    def outputs(self, x: Any, kernel: Any) -> tuple[int, int]:
        """Return the height and width of the output for x [b, h, w, i] and kernel [kh, kw, i, o]."""
        sizes = zip(x.shape[1:3], kernel.shape[:2], self.pads, strict=True)
        oh, ow = ((size + sum(pads) - side) // self.stride + 1 for size, side, pads in sizes)
        return oh, ow


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def convolve(window: Window, x: Array, kernel: Array) -> Array:
    """Convolve x [b, h, w, i] with kernel [kh, kw, i, o]; returns [b, oh, ow, o]."""
    return _product(window, x, kernel)


@functools.partial(convolve.defjvp, symbolic_zeros=True)
def _convolve_jvp(window: Window, primals: tuple[Array, Array], tangents: tuple[Any, Any]) -> tuple[Array, Array]:
    # Reverse mode transposes this tangent. The tangent is the transpose of each gradient, so reverse mode recovers the
    # gradients below. A custom_vjp would be more direct but does not support jax.jvp.
    y = convolve(window, *primals)
    gradients = (functools.partial(gradient, window, *primals) for gradient in (_input_gradient, _kernel_gradient))
    products = [
        jax.linear_transpose(gradient, y)(tangent)[0]
        for gradient, tangent in zip(gradients, tangents, strict=True)
        if not isinstance(tangent, jax.custom_derivatives.SymbolicZero)
    ]
    return y, functools.reduce(jnp.add, products)


def _product(window: Window, x: Array, kernel: Array) -> Array:
    oh, ow = window.outputs(x, kernel)
    block = _block(kernel, ow)
    wide = _widen(window, block, kernel)
    chunks = _chunks(x, oh * ow // block * len(wide))
    y = lax.map(lambda x: jnp.matmul(_patches(window, block, x, kernel), wide), chunks)
    return y.reshape(-1, oh, ow, kernel.shape[3])[: x.shape[0]]


def _kernel_gradient(window: Window, x: Array, kernel: Array, dy: Array) -> Array:
    _, oh, ow, _ = dy.shape
    block = _block(kernel, ow)
    widen = functools.partial(_widen, window, block)
    inputs, outputs = jax.eval_shape(widen, kernel).shape
    dtype = np.promote_types(dy.dtype, np.float32)  # summing chunks in bfloat16 would round at every chunk

    def add_chunk(total: Array, chunk: tuple[Array, Array]) -> tuple[Array, None]:
        patches = _patches(window, block, chunk[0], kernel).reshape(-1, inputs)
        return total + jnp.matmul(patches.T, chunk[1].reshape(-1, outputs), preferred_element_type=dtype), None

    numbers = oh * ow // block * inputs
    total, _ = lax.scan(add_chunk, jnp.zeros((inputs, outputs), dtype), (_chunks(x, numbers), _chunks(dy, numbers)))
    return jax.linear_transpose(widen, kernel)(total.astype(dy.dtype))[0]


def _input_gradient(window: Window, x: Array, kernel: Array, dy: Array) -> Array:
    dilation = (0, 0, window.stride - 1)  # zeros between the rows and columns of dy
    dy = lax.pad(dy, jnp.zeros((), dy.dtype), [(0, 0, 0), dilation, dilation, (0, 0, 0)])
    sizes = zip(x.shape[1:3], dy.shape[1:3], kernel.shape[:2], window.pads, strict=True)
    rows, columns = ((side - 1 - low, size - dilated + low) for size, dilated, side, (low, _) in sizes)
    return _product(Window(1, (rows, columns)), dy, jnp.flip(kernel, (0, 1)).swapaxes(2, 3))


def _patches(window: Window, block: int, x: Array, kernel: Array) -> Array:
    """Return the im2col matrix, one patch per `block` neighboring outputs: [b, oh, ow / block, kh * columns * i]."""
    (b, h, w, i), (kh, kw, *_), ((top, bottom), (left, _)) = x.shape, kernel.shape, window.pads
    oh, ow = window.outputs(x, kernel)
    step, columns, groups = block * window.stride, (block - 1) * window.stride + kw, ow // block
    # The image is split into runs of `step` columns, so that a row of a patch consists of a few contiguous runs.
    runs = -(-columns // step)
    right = (groups + runs - 1) * step - w - left
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), (top, bottom, 0), (left, right, 0), (0, 0, 0)])
    x = x.reshape(b, h + top + bottom, groups + runs - 1, step * i)
    rows = [slice(row, row + (oh - 1) * window.stride + 1, window.stride) for row in range(kh)]
    parts = [x[:, row, n : n + groups, : (columns - n * step) * i] for row in rows for n in range(runs)]
    return jnp.concatenate(parts, axis=-1)


def _block(kernel: Array, ow: int) -> int:
    return math.gcd(4, ow) if math.prod(kernel.shape[:3]) <= 64 else 1


def _widen(window: Window, block: int, kernel: Array) -> Array:
    """Return `block` shifted copies of the kernel, each one stride further right: [kh * columns * i, block * o]."""
    shifts = [(window.stride * n, window.stride * (block - 1 - n)) for n in range(block)]
    wide = jnp.concatenate([jnp.pad(kernel, ((0, 0), shift, (0, 0), (0, 0))) for shift in shifts], axis=-1)
    return wide.reshape(-1, wide.shape[-1])


def _chunks(images: Array, numbers: int) -> Array:
    """Split [b, ...] into zero-padded chunks [n, size, ...]; the patches of one image hold `numbers` values."""
    b, *rest = images.shape
    if not isinstance(b, int):  # a symbolic dimension of jax.export
        return images[None]
    size = max(1, min(2 ** max(0, (PATCH_NUMBERS // numbers).bit_length() - 1), b))
    count = -(-b // size)
    return jnp.pad(images, [(0, count * size - b)] + [(0, 0)] * len(rest)).reshape(count, size, *rest)
