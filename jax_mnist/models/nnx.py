"""The chapter's net and a small convolutional one as Flax NNX modules, each as a Model."""

import itertools
from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ..types import Model
from .conv import Conv, max_pool
from .modules import from_flax


class Mlp(nnx.Module):
    """Linear layers with ReLUs between: x [b, sizes[0]] -> scores [b, sizes[-1]]."""

    def __init__(self, sizes: Sequence[int], rngs: nnx.Rngs):
        self.layers = nnx.List(
            [nnx.Linear(i, o, param_dtype=jnp.result_type(float), rngs=rngs) for i, o in itertools.pairwise(sizes)]
        )

    def __call__(self, x: Float[Array, "*b i"]) -> Float[Array, "*b c"]:
        *hidden, last = self.layers
        for layer in hidden:
            x = nnx.relu(layer(x))
        return last(x)


class Cnn(nnx.Module):
    """Convolutions with max pooling and ReLU, then linear layers: x [b, h, w, c] -> scores [b, classes]."""

    def __init__(
        self,
        image_shape: Sequence[int],
        filters: Sequence[int],
        kernels: Sequence[int],
        hidden: Sequence[int],
        classes: int,
        padding: str,
        rngs: nnx.Rngs,
    ):
        options = {"padding": padding, "param_dtype": jnp.result_type(float), "rngs": rngs}
        sides = zip(itertools.pairwise((image_shape[2], *filters)), kernels, strict=True)
        self.convolutions = nnx.List([Conv(i, o, (k, k), **options) for (i, o), k in sides])
        height, width = (_pooled(side, kernels, padding) for side in image_shape[:2])
        self.dense = Mlp((height * width * filters[-1], *hidden, classes), rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b classes"]:
        for convolution in self.convolutions:
            x = nnx.relu(max_pool(convolution(x)))
        return self.dense(x.reshape(x.shape[0], -1))


def _pooled(side: int, kernels: Sequence[int], padding: str) -> int:
    """What convolutions, each with a pooling, leave of an image's side; 0 or less where nothing."""
    for kernel in kernels:
        side = (side - kernel + 1 if padding == "VALID" else side) // 2
    return side


def flax_mlp(sizes: Sequence[int]) -> Model:
    """The chapter's net as a Flax NNX module, as a Model: the same chain of layers as `mlp`, started as Flax does.

    Parameters are {"layers": {0: {"kernel": [i, o], "bias": [o]}, ...}}. Raises ValueError for sizes that make
    no layer.

    >>> import jax
    >>> flax_mlp((784, 30, 1)).init(jax.random.key(0))["layers"][0]["kernel"].shape
    (784, 30)
    """
    if len(sizes) < 2 or any(size < 1 for size in sizes):
        raise ValueError(f"sizes must hold two or more positive integers, such as (784, 30, 1), not {tuple(sizes)}")
    return from_flax(lambda rngs: Mlp(tuple(sizes), rngs))


def cnn(
    filters: Sequence[int] = (24, 32),
    kernels: Sequence[int] = (5, 3),
    hidden: Sequence[int] = (256,),
    classes: int = 10,
    image_shape: Sequence[int] = (28, 28, 1),
    padding: str = "SAME",
) -> Model:
    """A small convolutional net, as a Model: convolution, 2 x 2 max pooling and ReLU, again, then linear layers.

    Each of `filters` is a convolution's number of output channels and each of `kernels` the side of its kernel;
    `hidden` are the sizes of the linear layers before the last, which has `classes` outputs; `padding` is "SAME" or
    "VALID". x arrives flat, [b, h*w*c] for `image_shape` (h, w, c). With "VALID" the defaults are the net of the
    published recipe that reaches 99% in one epoch; how they are trained best, `docs/choices.md` says. Raises
    ValueError where nothing is left after the poolings, for sizes below 1, and for another padding.

    >>> import jax
    >>> params = cnn().init(jax.random.key(0))
    >>> params["convolutions"][0]["kernel"].shape, params["dense"]["layers"][0]["kernel"].shape
    ((5, 5, 1, 24), (1568, 256))
    """
    sizes = (*filters, *kernels, *hidden, classes, *image_shape)
    if not filters or len(filters) != len(kernels) or any(size < 1 for size in sizes) or len(image_shape) != 3:
        raise ValueError(
            f"cnn takes a kernel for each of its filters and positive sizes, not filters={filters}, kernels={kernels}, "
            f"hidden={hidden}, classes={classes}, image_shape={image_shape}"
        )
    if padding not in ("SAME", "VALID"):
        raise ValueError(f'padding must be "SAME" or "VALID", not {padding!r}')
    if _pooled(min(image_shape[:2]), kernels, padding) < 1:
        raise ValueError(
            f"{len(filters)} convolutions and poolings leave nothing of an image of {tuple(image_shape[:2])}"
        )
    options = (tuple(image_shape), tuple(filters), tuple(kernels), tuple(hidden), classes, padding)
    return from_flax(lambda rngs: Cnn(*options, rngs), tuple(image_shape))
