"""Where a run lost its numbers: the step at which the loss or a parameter turned NaN or infinite."""

import math
import traceback
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..types import Batch, Dataset, EpochRecord, TrainState
from .loop import Places, epoch_places, place_batch, train_step


class BadStep(NamedTuple):
    """A step whose loss or parameters are not finite: its number in the epoch, from 1, and what it was given."""

    number: int
    state: TrainState
    batch: Batch
    key: Any


def is_finite(row: EpochRecord) -> bool:
    """Whether both of an epoch's losses are numbers.

    >>> is_finite(EpochRecord(1, 0.5, 0.4, 0.9, 0.1, 0.1)), is_finite(EpochRecord(1, float("nan"), 0.4, 0.5, 0.1, 0.1))
    (True, False)
    """
    return math.isfinite(row.train_loss) and math.isfinite(row.valid_loss)


def find_bad_step(
    state: TrainState,
    dataset: Dataset,
    *,
    batch_size: int = 256,
    shuffle: bool = True,
    augment: Any = None,
    **options: Any,
) -> BadStep | None:
    """The first step of the epoch after `state` at which the loss or a parameter is not finite, or None.

    The epoch is trained again, step by step, with the arguments of `train_epoch`.

    >>> import optax
    >>> from jax_mnist import binary_cross_entropy, init_state, linear, load
    >>> options = dict(model=linear(), loss_fn=lambda s, y: jnp.log(s[:, 0]), optimizer=optax.sgd(1.0))
    >>> state = init_state(jax.random.key(0), options["model"], options["optimizer"])
    >>> find_bad_step(state, load("mnist_sample").train, **options).number
    1
    """
    step = train_step(**options)
    dataset = jax.device_put(dataset)
    places = epoch_places(state, len(dataset), batch_size, shuffle)
    for number in range(len(places.mask)):
        here = Places(*(part[number] for part in places))
        batch, key = place_batch(state, dataset, here, augment)
        after, loss = step(state, batch, jax.random.clone(key))
        if not all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves((loss, after.params))):
            return BadStep(number + 1, state, batch, key)
        state = after
    return None


def find_operations(bad: BadStep, **options: Any) -> list[str]:
    """The first operation of that step that gives an infinite number and the first that gives NaN, each with its line.

    `options` are the arguments of `train_step`. The step is taken again, operation by operation, under JAX's debug_infs
    and debug_nans. What went wrong only by its gradient is found in the line that takes the gradient.
    """
    found = []
    for checked in (jax.debug_infs, jax.debug_nans):
        try:
            with checked(True), jax.disable_jit():
                train_step(**options)(bad.state, bad.batch, jax.random.clone(bad.key))
        except FloatingPointError as error:
            frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_not_jax(frame.filename)]
            what, last = str(error).splitlines()[0], frames[-1]
            found.append(f"{what} {Path(last.filename).name}:{last.lineno}: {last.line}")
    return found


def _is_not_jax(file: str) -> bool:
    return not Path(file).is_relative_to(Path(jax.__file__).parent)
