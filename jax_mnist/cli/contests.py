"""What `benchmark` times: for each claim, our way and the ways that people take today, with what each must learn."""

import contextlib
import functools
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from ..data.batches import epoch_indices
from ..data.load import load
from ..losses import mnist_loss, softmax_cross_entropy
from ..models.dense import mlp
from ..training.evaluation import evaluate
from ..training.loop import train_step
from ..types import Batch, Splits, TrainState
from . import torch_side
from .side_by_side import Epoch, Task, few_steps, in_torch, make_learner, scanned, start

Work = Callable[[], object]


class Side(NamedTuple):
    """One way to do it: a unit of work, done when it returns, and what it has learnt by then, in [0, 1]."""

    name: str
    work: Work
    accuracy: Callable[[], float]
    units: int = 1
    """How many of the contest's units one run of `work` is."""


class Contest(NamedTuple):
    """Sides that do the same work, ours first; each must have learnt so much by the end.

    Where `grows_with` names a quantity, the sides are ours at growing values of it, which are their names.
    """

    name: str
    unit: str
    sides: list[Side]
    least_accuracy: float
    around: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
    grows_with: str = ""


def chapter_linear(platform: str, quick: bool) -> Contest:
    """An epoch of the chapter's linear model, not shuffled, as in the chapter."""
    task = make_task(platform, load("mnist_sample"), (784, 1), 1.0, 256, shuffle=False)
    return _epochs("chapter: linear", task, 0.8 if quick else 0.94)


def chapter_net(platform: str, quick: bool) -> Contest:
    """An epoch of the chapter's two-layer net, not shuffled, as in the chapter."""
    task = make_task(platform, load("mnist_sample"), (784, 30, 1), 0.1, 256, shuffle=False)
    return _epochs("chapter: 784-30-1", task, 0.8 if quick else 0.94)


def dense(platform: str, quick: bool) -> Contest:
    """An epoch of a large dense net on the ten digits."""
    task = make_task(platform, some_digits(6000 if quick else None), (784, 1024, 1024, 10), 0.1, 128, shuffle=False)
    return _epochs("ten digits: 784-1024-1024-10", task, 0.7 if quick else 0.94, data_loader=False)


def some_digits(count: int | None) -> Splits:
    """The ten digits with so many training images, by default all."""
    train, valid = load("mnist")
    return Splits(train[:count], valid)


def make_task(
    platform: str, splits: Splits, sizes: tuple[int, ...], learning_rate: float, batch_size: int, shuffle: bool
) -> Task:
    """SGD on a chain of dense layers of these sizes."""
    loss_fn = mnist_loss if sizes[-1] == 1 else softmax_cross_entropy
    device = torch_side.choose_device(platform) if has_torch() else ""
    return Task(splits, mlp(sizes), loss_fn, learning_rate, batch_size, 0, device, shuffle)


def has_torch() -> bool:
    """Whether PyTorch is installed; it is not imported."""
    return importlib.util.find_spec("torch") is not None


def _epochs(name: str, task: Task, least_accuracy: float, data_loader: bool = True) -> Contest:
    sides = [scanned_side(task), _step_by_step(task)]
    around: Callable[[], Any] = contextlib.nullcontext
    if has_torch():
        sides.append(_in_torch("PyTorch, sliced tensors", task, torch_side.epoch_of_slices))
        around = functools.partial(torch_side.faster_threads, few_steps(task))
        if data_loader:
            sides.append(_in_torch("PyTorch, DataLoader", task, torch_side.epoch_of_data_loader))
    return Contest(name, "epoch", sides, least_accuracy, around)


def scanned_side(task: Task, name: str = "JAX, train_epoch") -> Side:
    """`train_epoch`, epoch after epoch."""
    work, state = scanned(task)
    return Side(name, work, lambda: _accuracy(task, state()))


def _step_by_step(task: Task) -> Side:
    """The usual way in JAX: a compiled step, fed batch by batch from NumPy."""
    learner, state = start(task)
    step = train_step(learner)
    images = (task.splits.train.images / np.float32(255)).reshape(len(task.splits.train), -1)

    def work() -> None:
        nonlocal state
        for places, mask in _places(task):
            state, _ = step(state, Batch(images[places], task.splits.train.labels[places], mask))
        jax.block_until_ready(state)

    return Side("JAX, a compiled step per NumPy batch", work, lambda: _accuracy(task, state))


def _places(task: Task) -> Iterator[tuple[np.ndarray, Any]]:
    count = len(task.splits.train)
    indices, mask = epoch_indices(jax.random.key(task.seed) if task.shuffle else None, 0, count, task.batch_size)
    yield from zip(np.asarray(indices), np.asarray(mask), strict=True)


def _accuracy(task: Task, state: TrainState) -> float:
    return float(evaluate(make_learner(task), state.params, task.splits.valid).accuracy)


def _in_torch(name: str, task: Task, make_epoch: Callable[..., Epoch]) -> Side:
    work, learner = in_torch(task, make_epoch)
    valid = torch_side.tensors_of(task.splits.valid, learner)
    return Side(name, work, lambda: torch_side.evaluate(learner, *valid)[1] / len(task.splits.valid))
