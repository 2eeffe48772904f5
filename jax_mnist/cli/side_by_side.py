"""What `compare_torch` does: both frameworks over the same batches, and then against the clock."""

import math
import statistics
import time
import timeit
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from ..data.batches import epoch_indices
from ..export.pytorch import to_state_dict
from ..training.loop import fit_epochs, init_state, train_epoch
from ..types import EpochRecord, Learner, LossFunction, Model, Params, Splits, TrainState
from . import torch_side
from .torch_side import TorchLearner


class Task(NamedTuple):
    """What both train, on which data and where."""

    splits: Splits
    model: Model
    loss_fn: LossFunction
    learning_rate: float
    batch_size: int
    seed: int
    device: str
    shuffle: bool = True


class Compared(NamedTuple):
    """One epoch of both: their rows, right answers on the validation images, the largest parameter difference."""

    torch: EpochRecord
    ours: EpochRecord
    torch_correct: int
    our_correct: int
    difference: float


class Timing(NamedTuple):
    """One variant's first epoch, with what it compiles, and the median of the later ones; or why there is none."""

    framework: str
    variant: str
    first_seconds: float = math.nan
    milliseconds: float = math.nan
    failure: str = ""


def compare(task: Task, count: int) -> Iterator[Compared]:
    """Train both for `count` epochs in the default float, from the same weights over the same batches."""
    learner, first = start(task)
    torch_learner = _torch_learner(task, first.params)
    train, valid = (torch_side.tensors_of(dataset, torch_learner) for dataset in task.splits)
    for state, ours in fit_epochs(None, learner, task.splits, epochs=count, state=first):
        order = _order(first.key, ours.epoch - 1, len(task.splits.train), task.batch_size)
        began = time.perf_counter()
        train_loss = torch_side.train_epoch(torch_learner, *train, order, task.batch_size)
        trained = time.perf_counter()
        loss, correct = torch_side.evaluate(torch_learner, *valid)
        seconds = trained - began, time.perf_counter() - trained
        images = len(task.splits.valid)
        theirs = EpochRecord(ours.epoch, train_loss, loss, correct / images, *seconds)
        yield Compared(theirs, ours, correct, round(ours.accuracy * images), _difference(torch_learner, state.params))


def make_learner(task: Task) -> Learner:
    """The task's learner, with plain SGD."""
    return Learner(task.model, task.loss_fn, optax.sgd(task.learning_rate), task.batch_size, task.shuffle)


def start(task: Task) -> tuple[Learner, TrainState]:
    """The task's learner and the state before the first epoch."""
    learner = make_learner(task)
    return learner, init_state(jax.random.key(task.seed), learner)


def _torch_learner(task: Task, params: Params) -> TorchLearner:
    return torch_side.make_learner(params, task.learning_rate, task.device)


def _order(key: Any, epoch: int, count: int, batch_size: int) -> np.ndarray:
    places, mask = epoch_indices(key, epoch, count, batch_size)
    return np.asarray(places)[np.asarray(mask)].astype(np.int64)


def _difference(learner: TorchLearner, params: Params) -> float:
    pairs = zip(learner.module.state_dict().values(), to_state_dict(params).values(), strict=True)
    return max(float(np.abs(theirs.cpu().numpy() - ours).max()) for theirs, ours in pairs)


Epoch = Callable[[], None]


def few_steps(task: Task) -> Epoch:
    """Ten of PyTorch's steps, to try its number of threads with."""
    first = jax.tree.map(lambda array: array[: 10 * task.batch_size], task.splits.train)
    return in_torch(task._replace(splits=task.splits._replace(train=first)), torch_side.epoch_of_slices)[0]


def time_variants(task: Task, count: int, with_compile: bool) -> list[Timing]:
    """Milliseconds per epoch of every variant: a first epoch of each, then `count`, the variants taking turns."""
    variants = [
        (Timing("PyTorch", "DataLoader over list(zip(x, y))"), in_torch(task, torch_side.epoch_of_data_loader)[0]),
        (Timing("PyTorch", "sliced tensors"), in_torch(task, torch_side.epoch_of_slices)[0]),
        (Timing("PyTorch", "sliced tensors, torch.compile"), in_torch(task, torch_side.epoch_of_compiled_slices)[0]),
        (Timing("JAX", "train_epoch"), scanned(task)[0]),
    ]
    if not with_compile:
        del variants[2]
    started = [(_first_epoch(timing, epoch), epoch) for timing, epoch in variants]
    turns = [[_seconds(epoch) for timing, epoch in started if not timing.failure] for _ in range(count)]
    medians = iter([statistics.median(seconds) for seconds in zip(*turns, strict=True)])
    return [timing if timing.failure else timing._replace(milliseconds=1000 * next(medians)) for timing, _ in started]


def _first_epoch(timing: Timing, epoch: Epoch) -> Timing:
    try:
        return timing._replace(first_seconds=_seconds(epoch))
    except Exception as error:  # torch.compile fails in as many ways as there are compilers
        return timing._replace(failure=f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}")


def _seconds(epoch: Epoch) -> float:
    return timeit.timeit(epoch, number=1)


def in_torch(task: Task, make_epoch: Callable[..., Epoch]) -> tuple[Epoch, TorchLearner]:
    """An epoch of one of PyTorch's variants, to be run again and again, and the learner that it trains."""
    learner = _torch_learner(task, start(task)[1].params)
    x, y = torch_side.tensors_of(task.splits.train, learner)
    return make_epoch(learner, x, y, task.batch_size, task.shuffle), learner


def scanned(task: Task) -> tuple[Epoch, Callable[[], TrainState]]:
    """Our epoch, to be run again and again, and what the state has become by then."""
    learner, state = start(task)
    dataset = jax.device_put(task.splits.train)

    def epoch() -> None:
        nonlocal state
        state, _ = jax.block_until_ready(train_epoch(learner, state, dataset))

    return epoch, lambda: state
