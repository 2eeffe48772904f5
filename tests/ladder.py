"""The weights, batches and update rules that both PyTorch and jax_mnist start from, drawn with NumPy."""

from typing import NamedTuple

import numpy as np
import optax

from jax_mnist import Dataset

SIZES = (784, 30, 1)
BATCH_SIZE = 256
EPOCHS = 6  # of 49 steps
CHAPTER_EPOCHS = 40
EVERY = (
    23  # one in so many parameters is recorded; it shares no factor with 784 and 30, so each row and column has some
)


class Rule(NamedTuple):
    """The arguments of torch.optim.SGD."""

    lr: float
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0


RULES = {
    "sgd": Rule(0.1),
    "momentum": Rule(0.01, momentum=0.9),
    "nesterov": Rule(0.01, momentum=0.9, nesterov=True),
    "weight_decay": Rule(0.1, weight_decay=1e-2),
    "all": Rule(0.01, momentum=0.9, nesterov=True, weight_decay=1e-2),
}
CHAPTER_RULE = Rule(0.1)


def start() -> dict[str, np.ndarray]:
    """A start as nn.Linear's, float64, as a state_dict; RandomState's numbers never change."""
    random = np.random.RandomState(4)
    state_dict = {}
    for layer, (i, o) in zip(("0", "2"), ((784, 30), (30, 1)), strict=True):
        state_dict[f"{layer}.weight"] = random.uniform(-(i**-0.5), i**-0.5, (o, i))
        state_dict[f"{layer}.bias"] = random.uniform(-(i**-0.5), i**-0.5, o)
    return state_dict


def mixed(dataset: Dataset) -> Dataset:
    """The 3s and 7s in one fixed order, so that an epoch in the dataset's order has batches of both."""
    order = np.random.RandomState(0).permutation(len(dataset))
    return dataset[order]


def flat(state_dict: dict[str, np.ndarray]) -> np.ndarray:
    """All parameters as one vector."""
    return np.concatenate([np.asarray(array).ravel() for array in state_dict.values()])


def optimizer_of(rule: Rule) -> optax.GradientTransformation:
    """PyTorch's SGD in Optax, which has no weight decay in its own."""
    sgd = optax.sgd(rule.lr, momentum=rule.momentum or None, nesterov=rule.nesterov)
    return optax.chain(optax.add_decayed_weights(rule.weight_decay), sgd) if rule.weight_decay else sgd
