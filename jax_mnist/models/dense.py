"""The pairs made of the chapter's own functions."""

import functools
from collections.abc import Sequence

from ..chapter.from_scratch import init_params, predict
from ..types import Model


def mlp(sizes: Sequence[int], std: float | None = None) -> Model:
    """A chain of linear layers with ReLUs between, as a Model: the chapter's `simple_net` is mlp((784, 30, 1)).

    `sizes` and `std` are those of `init_params`; by default it starts as PyTorch's `nn.Linear` does. Raises
    ValueError for sizes that make no layer, when it is initialized.

    >>> import jax
    >>> [layer.bias.shape for layer in mlp((784, 30, 10)).init(jax.random.key(0))]
    [(30,), (10,)]
    """
    return Model(functools.partial(init_params, sizes=tuple(sizes), std=std), predict)


def linear(inputs: int = 784, outputs: int = 1, std: float | None = None) -> Model:
    """One linear layer as a Model: the chapter's `linear1`, or `nn.Linear(784, 1)` with the default start.

    >>> import jax
    >>> [layer.weights.shape for layer in linear().init(jax.random.key(0))]
    [(784, 1)]
    """
    return mlp((inputs, outputs), std)
