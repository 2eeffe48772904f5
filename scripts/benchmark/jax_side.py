"""JAX's side of a comparison: what is trained, and an epoch of it."""

import itertools
from typing import NamedTuple

import jax
import numpy as np
import optax

from jax_mnist import Batch, Learner, Model, Splits, TrainState, evaluate, init_state, train_epoch, train_step
from jax_mnist.data.batches import epoch_indices
from jax_mnist.losses import mnist_loss, softmax_cross_entropy

from .timing import Side


class Task(NamedTuple):
    """A learner on a dataset, and its state before the first epoch.

    `make_task` makes it plain SGD at `learning_rate`, which PyTorch's side repeats from the same parameters.
    """

    learner: Learner
    learning_rate: float
    state: TrainState
    splits: Splits
    platform: str


def make_task(
    model: Model,
    splits: Splits,
    learning_rate: float,
    *,
    batch_size: int = 256,
    shuffle: bool = True,
    seed: int = 0,
    platform: str = "cpu",
) -> Task:
    """Return the task; labels of two classes have the chapter's loss, more have softmax cross entropy."""
    loss_fn = mnist_loss if splits.train.labels.max() == 1 else softmax_cross_entropy
    learner = Learner(model, loss_fn, optax.sgd(learning_rate), batch_size, shuffle)
    return Task(learner, learning_rate, init_state(jax.random.key(seed), learner), splits, platform)


def epoch_side(task: Task, name: str = "JAX, train_epoch", restart: bool = False) -> Side:
    """Return `train_epoch`, each run the next epoch, or with `restart` the first epoch again."""
    state, dataset = task.state, jax.device_put(task.splits.train)

    def work() -> None:
        nonlocal state
        state, _ = jax.block_until_ready(train_epoch(task.learner, task.state if restart else state, dataset))

    return Side(name, work, lambda: _accuracy(task, state))


def steps_side(task: Task) -> Side:
    """Return the usual way in JAX: a compiled step, fed with a NumPy batch at a time."""
    state, train, step, epochs = task.state, task.splits.train, train_step(task.learner), itertools.count()
    images = (train.images / np.float32(255)).reshape(len(train), -1)

    def work() -> None:
        nonlocal state
        key = jax.random.key(0) if task.learner.shuffle else None
        order = epoch_indices(key, next(epochs), len(train), task.learner.batch_size)
        for indices, mask in zip(*map(np.asarray, order), strict=True):
            state, _ = step(state, Batch(images[indices], train.labels[indices], mask))
        jax.block_until_ready(state)

    return Side("JAX, a compiled step per NumPy batch", work, lambda: _accuracy(task, state))


def _accuracy(task: Task, state: TrainState) -> float:
    return float(evaluate(task.learner, state.params, task.splits.valid).accuracy)
