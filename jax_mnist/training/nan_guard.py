"""NaN guard: find the step at which the loss or a parameter became NaN or infinite."""

import math
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..data.batches import take_batch
from ..types import Batch, Dataset, EpochRecord, Learner, TrainState
from .loop import step_inputs, train_step


class BadStep(NamedTuple):
    """A step after which the loss or a parameter is not finite: its number in the epoch, from 1, and its arguments."""

    number: int
    state: TrainState
    batch: Batch
    key: Any


def is_finite(record: EpochRecord) -> bool:
    """Return True if both losses of an epoch are finite.

    >>> is_finite(EpochRecord(1, 0.5, 0.4, 0.9, 0.1, 0.1)), is_finite(EpochRecord(1, math.nan, 0.4, 0.5, 0.1, 0.1))
    (True, False)
    """
    return math.isfinite(record.train_loss) and math.isfinite(record.valid_loss)


def find_bad_step(learner: Learner, state: TrainState, dataset: Dataset) -> BadStep | None:
    """Return the first step of the epoch after `state` whose loss or parameters are not finite, or None.

    The epoch is trained again, step by step.

    >>> import optax
    >>> from jax_mnist import init_state, linear, load
    >>> learner = Learner(linear(), lambda logits, labels: jnp.log(logits[:, 0]), optax.sgd(1.0))
    >>> find_bad_step(learner, init_state(jax.random.key(0), learner), load("mnist_sample").train).number
    1
    """
    step = train_step(learner)
    dataset = jax.device_put(dataset)
    inputs = step_inputs(learner, state, len(dataset))
    for number in range(len(inputs.count)):
        batch = take_batch(dataset, inputs.indices[number], inputs.mask[number])
        # A slice of keys counts as their use, hence the clones.
        key = None if inputs.key is None else jax.random.clone(inputs.key)[number]
        after, loss = step(state, batch, None if key is None else jax.random.clone(key))
        if not all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves((loss, after.params))):
            return BadStep(number + 1, state, batch, key)
        state = after
    return None


def find_operations(learner: Learner, bad: BadStep) -> list[str]:
    """Return the first operation of the step that gives infinity and the first that gives NaN, each with its line.

    The step is taken again, operation by operation, under JAX's debug_infs and debug_nans. If only the gradient is
    bad, the line that takes the gradient is named.
    """
    found = []
    for checked in (jax.debug_infs, jax.debug_nans):
        try:
            with checked(True), jax.disable_jit():
                train_step(learner)(bad.state, bad.batch, None if bad.key is None else jax.random.clone(bad.key))
        except FloatingPointError as error:
            frames = traceback.extract_tb(error.__traceback__)
            jax_folder = Path(jax.__file__).parent
            last = [frame for frame in frames if not Path(frame.filename).is_relative_to(jax_folder)][-1]
            found.append(f"{str(error).splitlines()[0]} {Path(last.filename).name}:{last.lineno}: {last.line}")
    return found


def describe_divergence(
    record: EpochRecord, learner: Learner, state: TrainState, dataset: Dataset, schedule: Callable[[int], Any]
) -> str:
    """Return in words where an epoch with a non-finite loss went wrong: the step, its learning rate, the operations.

    `record` is that of the epoch after `state`, and `schedule` maps the step of the run, from 0, to the learning rate.
    The epoch is trained again, step by step, and the bad step operation by operation.

    >>> import optax
    >>> from jax_mnist import init_state, linear, load
    >>> learner = Learner(linear(), lambda logits, labels: jnp.log(logits[:, 0]), optax.sgd(1.0))
    >>> state, record = init_state(jax.random.key(0), learner), EpochRecord(1, math.nan, math.nan, 0.5, 0.1, 0.1)
    >>> describe_divergence(record, learner, state, load("mnist_sample").train, lambda step: 1.0).partition(";")[0]
    'the loss became nan in epoch 1 at step 1 of 49 (1 of the run), at learning rate 1'
    """
    steps = math.ceil(len(dataset) / learner.batch_size)
    bad = find_bad_step(learner, state, dataset)
    number = steps if bad is None else bad.number
    total = (record.epoch - 1) * steps + number
    loss = record.valid_loss if math.isfinite(record.train_loss) else record.train_loss
    where = f"in epoch {record.epoch} at step {number} of {steps} ({total} of the run)"
    rate = float(schedule(total - 1))
    operations = [] if bad is None else find_operations(learner, bad)
    return "; ".join([f"the loss became {loss} {where}, at learning rate {rate:g}", *operations])
