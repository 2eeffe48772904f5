"""What `benchmark` times to see how the cost grows: with the batch, the width, the images and the seeds."""

from collections.abc import Sequence

import jax
import numpy as np
import optax

from ..data.load import load
from ..losses import mnist_loss
from ..models.dense import mlp
from ..training.loop import fit
from ..training.sweeps import evaluate_many, fit_many, init_many, train_many
from ..types import Learner, Splits, TrainState
from .contests import Contest, Side, make_task, scanned_side, some_digits
from .side_by_side import Task

_NET, _RATE, _EPOCHS, _COUNT = (784, 30, 1), 0.1, 40, 64


def batch_sizes(platform: str, quick: bool) -> Contest:
    """An epoch of 784-128-10 in batches of growing size: fewer steps of more work each."""
    splits = some_digits(10_000 if quick else 60_000)
    sizes = (64, 1024) if quick else (16, 64, 256, 1024, 4096)
    tasks = [_ten_digits(platform, splits, 128, size) for size in sizes]
    return _growth("batch size", "epoch", sizes, tasks)


def widths(platform: str, quick: bool) -> Contest:
    """An epoch of 784-h-10 over 20,000 images, for growing h."""
    splits = some_digits(5_000 if quick else 20_000)
    hidden = (16, 64) if quick else (16, 64, 256, 1024, 2048)
    return _growth("hidden units", "epoch", hidden, [_ten_digits(platform, splits, size) for size in hidden])


def images(platform: str, quick: bool) -> Contest:
    """An epoch of 784-128-10 over a growing number of images."""
    counts = (2_500, 5_000) if quick else (3_750, 7_500, 15_000, 30_000, 60_000)
    return _growth("images", "epoch", counts, [_ten_digits(platform, some_digits(count), 128) for count in counts])


def seeds(platform: str, quick: bool) -> Contest:
    """An epoch of the chapter's net from growing numbers of seeds at once, all in one order."""
    counts = (1, 4) if quick else (1, 4, 16, 32, 64)
    sides = [_many(count) for count in counts]
    return Contest("784-30-1, growing number of seeds", "epoch", sides, 0.8, grows_with="seeds")


def many_models(platform: str, quick: bool) -> Contest:
    """Whole runs of the chapter's net, from as many seeds: one by one, and at once."""
    splits, epochs, count = load("mnist_sample"), 4 if quick else _EPOCHS, 8 if quick else _COUNT
    learner = Learner(mlp(_NET), mnist_loss, optax.sgd(_RATE))
    accuracies: dict[str, float] = {}

    def one_by_one() -> None:
        runs = [fit(jax.random.key(seed), learner, splits, epochs=epochs)[1] for seed in range(count // 8)]
        accuracies["one"] = float(np.mean([run.accuracy[-1] for run in runs]))

    def at_once(name: str, members: int, same_order: bool) -> Side:
        def work() -> None:
            keys = jax.random.split(jax.random.key(0), members)
            history = fit_many(keys, learner, splits, epochs=epochs, same_order=same_order)[1]
            accuracies[name] = float(history.accuracy[:, -1].mean())

        return Side(f"JAX, fit_many, {name}", work, lambda: accuracies[name], members)

    sides = [
        at_once("in one order", count, same_order=True),
        at_once("in their own orders", count // 8, same_order=False),
        Side("JAX, fit, one by one", one_by_one, lambda: accuracies["one"], count // 8),
    ]
    return Contest(f"{count} of the chapter's nets, {epochs} epochs", "model", sides, 0.9 if quick else 0.975)


def _ten_digits(platform: str, splits: Splits, hidden: int, batch_size: int = 256) -> Task:
    return make_task(platform, splits, (784, hidden, 10), 0.1, batch_size, shuffle=True)


def _growth(quantity: str, unit: str, values: Sequence[int], tasks: Sequence[Task]) -> Contest:
    sides = [scanned_side(task, f"{value:,}") for value, task in zip(values, tasks, strict=True)]
    return Contest(f"ten digits, growing {quantity}", unit, sides, 0.2, grows_with=quantity)


def _many(count: int) -> Side:
    """`fit_many`'s epoch without its evaluation."""
    train, valid = jax.device_put(load("mnist_sample"))
    learner = Learner(mlp(_NET), mnist_loss, optax.sgd(_RATE))
    keys = jax.random.split(jax.random.key(0), count)
    states: TrainState = init_many(keys, None, jax.random.key(0), learner=learner, same_order=True)

    def work() -> None:
        nonlocal states
        states, _ = jax.block_until_ready(train_many(learner, states, train, same_order=True))

    def accuracy() -> float:
        return float(evaluate_many(learner.model, mnist_loss, states.params, valid).accuracy.mean())

    return Side(f"{count:,}", work, accuracy)
