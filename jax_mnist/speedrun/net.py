"""A small convolutional net for digits in which every layer is one matrix product.

A convolution is a matrix product as soon as every place that it looks at is a column. All arrays here are laid out
so: a row is a channel, a column is one place in one image, and the images stand side by side in each place.

    pixels, 24x24 of 28x28     25 patches of 8x8, 4 apart         one product for 2x2 pooling and all
    +--+--+--+--+--+--+        patches    [64, 25b]               filters [4*24, 64] @ patches = phases [4*24, 25b]
    |  |  |  |  |  |  |                                             +------+                     +----------------+
    +--+--+--+--+--+--+          place (0,0)  (0,1) ... (4,4)       |######| 6x6 at (0, 0)       | 24 rows at 0 0 |
    |  |##|##|  |  |  |         +------------+-----+-----------+    |######| in 8x8, the rest 0  +----------------+
    +--+--+--+--+--+--+  pixel 0| image 0..b | 0.. |           |    +------+                     | 24 rows at 0 2 |
    |  |##|##|  |  |  |      .. |            |     |           |    then at (0, 2), (2, 0),      +----------------+
    +--+--+--+--+--+--+      63 |            |     |           |    (2, 2): the same filters     | ...            |
    |  |  |  |  |  |  |         +------------+-----+-----------+                                 +----------------+
    ...  a patch is 2x2 cells of 4x4 pixels                       pooling: the largest of the four blocks [24, 25b]

    layer                                 product                       result
    6x6 convolution, stride 2, 2x2 max    [4*24, 64]  @ [64, 25b]       [24, 25b]   5x5 places
    3x3 convolution                       [64, 9*24]  @ [9*24, 9b]      [64, 9b]    3x3 places
    dense                                 [10, 9*64]  @ [9*64, b]       [10, b]     the nine places of an image as rows

After both convolutions comes a bias and a hard swish. In the shapes below p is 25b, w is 9b, f and g count filters.
The backward pass is the same products transposed, written by hand: what XLA:CPU makes of these gradients by itself is
many times slower inside a loop.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Num, PRNGKeyArray, UInt8

from ..types import ArrayLike

CLASSES, PIXELS, PHASES = 10, 64, ((0, 0), (0, 2), (2, 0), (2, 2))
CHUNK = 500
"""How many images `predict` takes at a time."""


class Params(NamedTuple):
    """The net's weights, or one array for each of them: conv1 and conv2 have a filter a row, the biases are columns."""

    conv1: Any  # [f, 6, 6]
    bias1: Any  # [f, 1]
    conv2: Any  # [g, 9f], a filter's 3x3 weights of one channel side by side
    bias2: Any  # [g, 1]
    dense: Any  # [10, 9g]
    bias3: Any  # [10, 1]


class Layers(NamedTuple):
    """What the forward pass keeps for the backward one."""

    phases: Any  # [4, f, 25b]
    pooled: Any  # [f, 25b]
    windows: Any  # [9f, 9b]
    outputs: Any  # [g, 9b]
    features: Any  # [9g, b]
    logits: Any  # [10, b]


def init_params(key: PRNGKeyArray, filters: tuple[int, int] = (24, 64)) -> Params:
    """Random convolutions as nn.Conv2d draws them, uniform in +-1/sqrt(inputs), biases too; a dense layer of zeros.

    `filters` are the numbers of filters f and g of the two convolutions. Returns Params in the default float.

    >>> [array.shape for array in init_params(jax.random.key(0))]
    [(24, 6, 6), (24, 1), (64, 216), (64, 1), (10, 576), (10, 1)]
    """
    f, g = filters
    shapes = (f, 6, 6), (f, 1), (g, 9 * f), (g, 1)
    ends = [sum(map(math.prod, shapes[: i + 1])) for i in range(len(shapes))]
    # One draw for all: each would compile a random number generator of its own.
    drawn = jnp.split(jax.random.uniform(key, (ends[-1],), minval=-1, maxval=1), ends[:-1])
    inputs = 36, 36, 9 * f, 9 * f
    scaled = (x.reshape(shape) / i**0.5 for x, shape, i in zip(drawn, shapes, inputs, strict=True))
    conv1, bias1, conv2, bias2 = scaled
    return Params(conv1, bias1, conv2, bias2, jnp.zeros((CLASSES, 9 * g)), jnp.zeros((CLASSES, 1)))


def cut_patches(images: UInt8[ArrayLike, "b 28 28"], offset: tuple[int, int] = (2, 2)) -> Float[Array, "64 25*b"]:
    """The 25 patches of 8x8 pixels, 4 apart, from the 24x24 pixels at `offset`: a column each, place by place.

    Returns the default float, shifted and scaled by the mean and deviation of MNIST's pixels.

    >>> import numpy as np
    >>> cut_patches(np.zeros((2, 28, 28), np.uint8)).shape
    (64, 50)
    """
    row, column = offset
    corners = [(row + 4 * i, column + 4 * j) for i in range(5) for j in range(5)]
    patches = jnp.stack([jnp.asarray(images)[:, i : i + 8, j : j + 8] for i, j in corners])
    return ((patches.astype(float) / 255 - 0.1307) / 0.3081).reshape(-1, PIXELS).T


def spread_filters(conv1: Float[Array, "f 6 6"]) -> Float[Array, "4*f 64"]:
    """The filters at the four places of a 2x2 pooling within an 8x8 patch, zero around them."""
    padded = [jnp.pad(conv1, ((0, 0), (i, 2 - i), (j, 2 - j))) for i, j in PHASES]
    return jnp.concatenate(padded).reshape(-1, PIXELS)


def gather_filters(gradient: Float[Array, "r 64"]) -> Float[Array, "f 6 6"]:
    """The transpose of `spread_filters`: the sum over the four places."""
    phases = gradient.reshape(len(PHASES), -1, 8, 8)
    return sum((phases[k, :, i : i + 6, j : j + 6] for k, (i, j) in enumerate(PHASES)), jnp.zeros(()))


def pool(phases: Float[Array, "4 f n"]) -> Float[Array, "f n"]:
    """The largest of the four."""
    return jnp.maximum(jnp.maximum(phases[0], phases[1]), jnp.maximum(phases[2], phases[3]))


def unpool(phases: Float[Array, "4 f n"], gradient: Float[Array, "f n"]) -> Float[Array, "4*f n"]:
    """The gradient of `pool`: all of it to the largest, the first of them at ties."""
    upper = jnp.maximum(phases[0], phases[1]) >= jnp.maximum(phases[2], phases[3])
    first, third = phases[0] >= phases[1], phases[2] >= phases[3]
    largest = jnp.where(upper, jnp.where(first, 0, 1), jnp.where(third, 2, 3))
    here = largest[None] == jnp.arange(4)[:, None, None]
    return jnp.where(here, gradient[None], 0).reshape(-1, gradient.shape[1])


def hard_swish(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x * clip(0.3x + 0.5, 0, 1): 0 below -5/3, x above 5/3."""
    return x * jnp.clip(0.3 * x + 0.5, 0, 1)


def hard_swish_slope(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The derivative of `hard_swish`."""
    return jnp.where(jnp.abs(x) < 5 / 3, 0.6 * x + 0.5, (x > 0).astype(x.dtype))


def cut_windows(x: Float[Array, "f p"]) -> Float[Array, "9*f w"]:
    """The nine 3x3 windows of the 5x5 places: a column each, place by place."""
    f, b = x.shape[0], x.shape[1] // 25
    places = x.reshape(f, 5, 5, b)
    windows = [places[:, i : i + 3, j : j + 3] for i in range(3) for j in range(3)]
    return jnp.stack(windows, axis=1).reshape(f * 9, 9 * b)


def add_windows(gradient: Float[Array, "r w"]) -> Float[Array, "f p"]:
    """The transpose of `cut_windows`: each place gets the sum over its windows, columns first and then rows."""
    f, b = gradient.shape[0] // 9, gradient.shape[1] // 9
    x = gradient.reshape(f, 3, 3, 3, 3, b)  # channel, row and column in the window, row and column of the window, image
    inside = [[o for o in range(3) if 0 <= place - o < 3] for place in range(5)]
    columns = jnp.stack([sum(x[:, :, o, :, p - o] for o in inside[p]) for p in range(5)], axis=3)
    return jnp.stack([sum(columns[:, o, p - o] for o in inside[p]) for p in range(5)], axis=1).reshape(f, 25 * b)


def forward(params: Params, patches: Float[Array, "64 p"]) -> Layers:
    """All layers' values, from the patches to the logits [10, b]."""
    b = patches.shape[1] // 25
    phases = (spread_filters(params.conv1) @ patches).reshape(len(PHASES), -1, 25 * b)
    pooled = pool(phases) + params.bias1
    windows = cut_windows(hard_swish(pooled))
    outputs = params.conv2 @ windows + params.bias2
    features = hard_swish(outputs).reshape(-1, b)
    return Layers(phases, pooled, windows, outputs, features, params.dense @ features + params.bias3)


def backward_upper(
    params: Params, layers: Layers, labels: Int[Array, " b"], smoothing: Num[ArrayLike, ""] | float
) -> tuple[tuple[Array, Array, Array, Array], Float[Array, "g w"]]:
    """The gradients of conv2, bias2, dense and bias3, and that of the second convolution's output.

    The loss is the mean softmax cross entropy with label smoothing.
    """
    targets = (1 - smoothing) * jax.nn.one_hot(labels, CLASSES, axis=0) + smoothing / CLASSES
    logits = (jax.nn.softmax(layers.logits, axis=0) - targets) / labels.shape[0]
    outputs = (params.dense.T @ logits).reshape(layers.outputs.shape) * hard_swish_slope(layers.outputs)
    conv2 = (layers.windows @ outputs.T).T
    return (conv2, _row_sums(outputs), logits @ layers.features.T, _row_sums(logits)), outputs


def backward_lower(
    params: Params, layers: Layers, patches: Float[Array, "64 p"], outputs: Float[Array, "g w"]
) -> tuple[Float[Array, "f 6 6"], Float[Array, "f 1"]]:
    """The gradients of conv1 and bias1, from that of the second convolution's output."""
    pooled = add_windows(params.conv2.T @ outputs) * hard_swish_slope(layers.pooled)
    return gather_filters(unpool(layers.phases, pooled) @ patches.T), _row_sums(pooled)


def _row_sums(x: Float[Array, "i n"]) -> Float[Array, "i 1"]:
    return jnp.sum(x, axis=1, keepdims=True)


@jax.jit
def predict(params: Params, images: UInt8[ArrayLike, "n 28 28"]) -> Float[Array, "n 10"]:
    """The logits of the ten digits for every image; the largest is the answer.

    >>> import numpy as np
    >>> predict(init_params(jax.random.key(0)), np.zeros((3, 28, 28), np.uint8)).shape
    (3, 10)
    """
    count = len(images)
    chunk = min(CHUNK, count)
    chunks = jnp.pad(jnp.asarray(images), ((0, -count % chunk), (0, 0), (0, 0))).reshape(-1, chunk, 28, 28)
    logits = lax.map(lambda x: forward(params, cut_patches(x)).logits.T, chunks)
    return logits.reshape(-1, CLASSES)[:count]
