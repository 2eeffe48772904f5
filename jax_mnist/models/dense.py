"""The chapter's linear model and multilayer perceptron (MLP) as Models."""

import functools
import operator
from collections.abc import Sequence

from ..chapter.from_scratch import check_sizes, init_params, predict
from ..types import Model


def mlp(sizes: Sequence[int], std: float | None = None) -> Model:
    """Return a chain of linear layers with ReLUs between them: the chapter's `simple_net` is `mlp((784, 30, 1))`.

    `sizes` and `std` are those of `init_params`, except that `std` is None by default, which initializes the layers as
    PyTorch's `nn.Linear`. The same arguments return the same Model, so that it compiles once. Raises ValueError if the
    sizes make no layer.

    >>> import jax
    >>> [layer.bias.shape for layer in mlp((784, 30, 10)).init(jax.random.key(0))]
    [(30,), (10,)]
    """
    sizes = tuple(map(operator.index, sizes))
    check_sizes(sizes)
    return _mlp(sizes, None if std is None else float(std))


def linear(inputs: int = 784, outputs: int = 1, std: float | None = None) -> Model:
    """Return one linear layer: the chapter's `linear1`, by default initialized as `nn.Linear(784, 1)`.

    `inputs` and `outputs` are the sizes of the layer; `std` is that of `mlp`. The same arguments return the same Model,
    so that it compiles once. Raises ValueError if a size is below 1.

    >>> import jax
    >>> [layer.weights.shape for layer in linear().init(jax.random.key(0))]
    [(784, 1)]
    """
    return mlp((inputs, outputs), std)


@functools.cache
def _mlp(sizes: tuple[int, ...], std: float | None) -> Model:
    return Model(functools.partial(init_params, sizes=sizes, std=std), predict)
