"""A small convolutional net for digits in which every layer is one matrix product.

im2col turns a convolution into a matrix product: each patch of pixels under the filters becomes a column. All arrays
here have one layout: a row is a channel, a column is one position in one image, and the images of a batch are adjacent
within each position.

    pixels, 24x24 of 28x28     25 patches of 8x8, stride 4        one product for the convolution at all 4 pool offsets
    +--+--+--+--+--+--+        patches    [64, 25b]               filters [4*24, 64] @ patches = conv1  [4*24, 25b]
    |  |  |  |  |  |  |                                             +------+                     +----------------+
    +--+--+--+--+--+--+       position (0,0)  (0,1) ... (4,4)       |######| 6x6 at (0, 0)       | 24 rows at 0 0 |
    |  |##|##|  |  |  |         +------------+-----+-----------+    |######| in 8x8, the rest 0  +----------------+
    +--+--+--+--+--+--+  pixel 0| image 0..b | 0.. |           |    +------+                     | 24 rows at 0 2 |
    |  |##|##|  |  |  |      .. |            |     |           |    then at (0, 2), (2, 0),      +----------------+
    +--+--+--+--+--+--+      63 |            |     |           |    (2, 2): the same filters     | ...            |
    |  |  |  |  |  |  |         +------------+-----+-----------+                                 +----------------+
    ...  a patch is 2x2 cells of 4x4 pixels                    max pooling: the maximum of the four blocks  [24, 25b]

    layer                                 product                       result
    6x6 convolution, stride 2, 2x2 max    [4*24, 64]  @ [64, 25b]       [24, 25b]   5x5 positions
    3x3 convolution                       [64, 9*24]  @ [9*24, 9b]      [64, 9b]    3x3 positions
    dense                                 [10, 9*64]  @ [9*64, b]       [10, b]     the 9 positions of an image as rows

A bias and a hard swish follow each convolution. In the shapes below, p is 25b, w is 9b, and f and g are the numbers of
filters. The backward pass is written by hand and consists of the same products, transposed: the gradients that JAX
derives compile on XLA:CPU to code that is many times slower inside a loop.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Num, PRNGKeyArray, UInt8

from ..types import ArrayLike

CLASSES = 10
PATCH_PIXELS = 64
POOL_OFFSETS = (0, 0), (0, 2), (2, 0), (2, 2)
"""Row and column, within an 8x8 patch, of the four filter positions that one 2x2 max pooling covers."""
CHUNK = 500
"""Number of images that `predict` processes at a time."""


class Params(NamedTuple):
    """The net's weights, or one value for each weight array. Filters are rows, biases are columns."""

    conv1: Any  # [f, 6, 6]
    bias1: Any  # [f, 1]
    conv2: Any  # [g, 9f], the 3x3 weights of one channel are adjacent
    bias2: Any  # [g, 1]
    dense: Any  # [10, 9g]
    bias3: Any  # [10, 1]


class Activations(NamedTuple):
    """Results of the forward pass that the backward pass needs."""

    conv1: Any  # [4, f, 25b], at the four pool offsets
    pooled: Any  # [f, 25b], with bias1
    columns: Any  # [9f, 9b], the im2col matrix of the second convolution
    conv2: Any  # [g, 9b], with bias2
    features: Any  # [9g, b], the input of the dense layer
    logits: Any  # [10, b]


def init_params(key: PRNGKeyArray, filters: tuple[int, int] = (24, 64)) -> Params:
    """Return random weights for the convolutions and zeros for the dense layer.

    Weights and biases of the convolutions are uniform in +-1/sqrt(inputs), as in PyTorch's `nn.Conv2d`. `key` is a PRNG
    key, `filters` the numbers of filters f and g of the two convolutions. Returns Params in the default float dtype.

    >>> [array.shape for array in init_params(jax.random.key(0))]
    [(24, 6, 6), (24, 1), (64, 216), (64, 1), (10, 576), (10, 1)]
    """
    f, g = filters
    shapes = (f, 6, 6), (f, 1), (g, 9 * f), (g, 1)
    ends = [sum(map(math.prod, shapes[: i + 1])) for i in range(len(shapes))]
    # One draw for all arrays, because every draw compiles another random number generator.
    drawn = jnp.split(jax.random.uniform(key, (ends[-1],), minval=-1, maxval=1), ends[:-1])
    inputs = 36, 36, 9 * f, 9 * f
    scaled = (x.reshape(shape) / i**0.5 for x, shape, i in zip(drawn, shapes, inputs, strict=True))
    conv1, bias1, conv2, bias2 = scaled
    return Params(conv1, bias1, conv2, bias2, jnp.zeros((CLASSES, 9 * g)), jnp.zeros((CLASSES, 1)))


def extract_patches(images: UInt8[ArrayLike, "b 28 28"], offset: tuple[int, int] = (2, 2)) -> Float[Array, "64 25*b"]:
    """Return the 25 patches of 8x8 pixels, stride 4, of the 24x24 pixels at `offset`: one column per patch.

    `images` is uint8 [b, 28, 28] with pixels in 0..255, `offset` a row and a column in 0..4. Returns [64, 25b] in the
    default float dtype, ordered by position and then by image, normalized by the mean and standard deviation of MNIST.

    >>> import numpy as np
    >>> extract_patches(np.zeros((2, 28, 28), np.uint8)).shape
    (64, 50)
    """
    row, column = offset
    corners = [(row + 4 * i, column + 4 * j) for i in range(5) for j in range(5)]
    patches = jnp.stack([jnp.asarray(images)[:, i : i + 8, j : j + 8] for i, j in corners])
    return ((patches.astype(float) / 255 - 0.1307) / 0.3081).reshape(-1, PATCH_PIXELS).T


def shift_filters(conv1: Float[Array, "f 6 6"]) -> Float[Array, "4*f 64"]:
    """Return the 6x6 filters at each of the four pool offsets in an 8x8 patch, padded with zeros."""
    padded = [jnp.pad(conv1, ((0, 0), (i, 2 - i), (j, 2 - j))) for i, j in POOL_OFFSETS]
    return jnp.concatenate(padded).reshape(-1, PATCH_PIXELS)


def shift_filters_transpose(gradient: Float[Array, "r 64"]) -> Float[Array, "f 6 6"]:
    """Return the transpose of `shift_filters`: the sum over the four pool offsets."""
    shifted = gradient.reshape(len(POOL_OFFSETS), -1, 8, 8)
    return sum((shifted[k, :, i : i + 6, j : j + 6] for k, (i, j) in enumerate(POOL_OFFSETS)), jnp.zeros(()))


def max_pool(x: Float[Array, "4 f n"]) -> Float[Array, "f n"]:
    """Return the maximum over the four pool offsets."""
    return jnp.maximum(jnp.maximum(x[0], x[1]), jnp.maximum(x[2], x[3]))


def max_pool_gradient(x: Float[Array, "4 f n"], gradient: Float[Array, "f n"]) -> Float[Array, "4*f n"]:
    """Return the gradient of `max_pool` with respect to x: all of it goes to the first maximum."""
    in_upper_row = jnp.maximum(x[0], x[1]) >= jnp.maximum(x[2], x[3])
    argmax = jnp.where(in_upper_row, jnp.where(x[0] >= x[1], 0, 1), jnp.where(x[2] >= x[3], 2, 3))
    is_argmax = argmax[None] == jnp.arange(4)[:, None, None]
    return jnp.where(is_argmax, gradient[None], 0).reshape(-1, gradient.shape[1])


def hard_swish(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return x * clip(0.3x + 0.5, 0, 1), which is 0 below -5/3 and x above 5/3."""
    return x * jnp.clip(0.3 * x + 0.5, 0, 1)


def hard_swish_derivative(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return the derivative of `hard_swish`."""
    return jnp.where(jnp.abs(x) < 5 / 3, 0.6 * x + 0.5, (x > 0).astype(x.dtype))


def im2col(x: Float[Array, "f p"]) -> Float[Array, "9*f w"]:
    """Return the nine 3x3 windows of the 5x5 positions: one column per window, by position and then by image."""
    f, b = x.shape[0], x.shape[1] // 25
    images = x.reshape(f, 5, 5, b)
    # Each of the nine slices holds one element of all windows: row i and column j within the window.
    elements = [images[:, i : i + 3, j : j + 3] for i in range(3) for j in range(3)]
    return jnp.stack(elements, axis=1).reshape(f * 9, 9 * b)


def col2im(gradient: Float[Array, "r w"]) -> Float[Array, "f p"]:
    """Return the transpose of `im2col`: the sum over all windows that contain a position."""
    f, b = gradient.shape[0] // 9, gradient.shape[1] // 9
    x = gradient.reshape(f, 3, 3, 3, 3, b)  # channel, row and column in the window, row and column of the window, image
    # Offset o in the window that starts at p - o is position p. Columns are summed first, then rows.
    offsets = [[o for o in range(3) if 0 <= p - o < 3] for p in range(5)]
    columns = jnp.stack([sum(x[:, :, o, :, p - o] for o in offsets[p]) for p in range(5)], axis=3)
    return jnp.stack([sum(columns[:, o, p - o] for o in offsets[p]) for p in range(5)], axis=1).reshape(f, 25 * b)


def forward(params: Params, patches: Float[Array, "64 p"]) -> Activations:
    """Return the activations of all layers, from patches [64, 25b] to logits [10, b]."""
    b = patches.shape[1] // 25
    conv1 = (shift_filters(params.conv1) @ patches).reshape(len(POOL_OFFSETS), -1, 25 * b)
    pooled = max_pool(conv1) + params.bias1  # the bias is the same at all offsets, so adding it once is enough
    columns = im2col(hard_swish(pooled))
    conv2 = params.conv2 @ columns + params.bias2
    features = hard_swish(conv2).reshape(-1, b)
    return Activations(conv1, pooled, columns, conv2, features, params.dense @ features + params.bias3)


def backward_upper(
    params: Params, activations: Activations, labels: Int[Array, " b"], smoothing: Num[ArrayLike, ""] | float
) -> tuple[tuple[Array, Array, Array, Array], Float[Array, "g w"]]:
    """Return the gradients of the upper layers, (conv2, bias2, dense, bias3), and that of the output of conv2.

    The loss is the mean softmax cross-entropy with label smoothing.
    """
    targets = (1 - smoothing) * jax.nn.one_hot(labels, CLASSES, axis=0) + smoothing / CLASSES
    d_logits = (jax.nn.softmax(activations.logits, axis=0) - targets) / labels.shape[0]
    d_features = (params.dense.T @ d_logits).reshape(activations.conv2.shape)
    d_conv2 = d_features * hard_swish_derivative(activations.conv2)
    conv2, dense = (activations.columns @ d_conv2.T).T, d_logits @ activations.features.T
    return (conv2, _row_sums(d_conv2), dense, _row_sums(d_logits)), d_conv2


def backward_conv1(
    params: Params, activations: Activations, patches: Float[Array, "64 p"], d_conv2: Float[Array, "g w"]
) -> tuple[Float[Array, "f 6 6"], Float[Array, "f 1"]]:
    """Return the gradients of conv1 and bias1, given that of the output of conv2."""
    d_pooled = col2im(params.conv2.T @ d_conv2) * hard_swish_derivative(activations.pooled)
    d_conv1 = max_pool_gradient(activations.conv1, d_pooled)
    return shift_filters_transpose(d_conv1 @ patches.T), _row_sums(d_pooled)


def _row_sums(x: Float[Array, "i n"]) -> Float[Array, "i 1"]:
    return jnp.sum(x, axis=1, keepdims=True)


@jax.jit
def predict(params: Params, images: UInt8[ArrayLike, "n 28 28"]) -> Float[Array, "n 10"]:
    """Return the logits of the ten digits for each image.

    `images` is uint8 [n, 28, 28] with pixels in 0..255. Returns float [n, 10]; the index of the largest logit is the
    predicted digit.

    >>> import numpy as np
    >>> predict(init_params(jax.random.key(0)), np.zeros((3, 28, 28), np.uint8)).shape
    (3, 10)
    """
    count = len(images)
    chunk = min(CHUNK, count)
    chunks = jnp.pad(jnp.asarray(images), ((0, -count % chunk), (0, 0), (0, 0))).reshape(-1, chunk, 28, 28)
    logits = lax.map(lambda x: forward(params, extract_patches(x)).logits.T, chunks)
    return logits.reshape(-1, CLASSES)[:count]
