"""One training loop for every model: steps 6 and 7 of the chapter's seven, repeat and stop."""

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, PRNGKeyArray

from ..data.batches import epoch_indices, take_batch
from ..types import Batch, Dataset, EpochRecord, History, Model, Params, Splits, TrainState
from .ema import apply_model_updates, evaluation_params
from .evaluation import LossFunction, check_fit, evaluate_epoch
from .mesh import ShardedDataset, replicate, shard_dataset

Augment = Callable[[Any, Any], Any]
"""key, x [b, i] -> x [b, i]: the images of a batch, changed at random."""

_NO_EPOCH = np.uint32(2**32 - 1)  # folded into a key like an epoch, where another stream than the order's is wanted


def init_state(key: PRNGKeyArray, model: Model, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first epoch: parameters drawn from the key, and a key of its own for the order.

    >>> from jax_mnist import linear
    >>> init_state(jax.random.key(0), linear(), optax.sgd(1.0)).epoch
    Array(0, dtype=int32)
    """
    params_key, order_key = jax.random.split(key)
    params = model.init(params_key)
    return TrainState(params, optimizer.init(params), jnp.zeros((), jnp.int32), order_key)


def train_step(
    model: Model, loss_fn: LossFunction, optimizer: optax.GradientTransformation
) -> Callable[..., tuple[TrainState, Float[Array, ""]]]:
    """One optimizer step as a compiled function: `step(state, batch, key=None) -> (state, loss)`.

    The loss is the batch's mean before the step, padding left out. A model that has a `train` needs the key, another
    at each step, and the step raises ValueError without. `train_epoch` scans this function over an
    epoch. It takes batches from any other iterator too, which is how data larger than memory trains; here grain's:

    >>> import grain
    >>> from jax_mnist import linear, load, make_batch, mnist_loss
    >>> optimizer = optax.sgd(1.0)
    >>> step = train_step(linear(), mnist_loss, optimizer)
    >>> state = init_state(jax.random.key(0), linear(), optimizer)
    >>> for images, labels in grain.MapDataset.source(load("mnist_sample").train).shuffle(seed=0).batch(256):
    ...     state, loss = step(state, make_batch(images, labels))
    >>> bool(loss < 0.2)
    True
    """

    def mean_loss(params: Params, batch: Batch, key: PRNGKeyArray | None) -> tuple[Float[Array, ""], Any]:
        logits, changes = training_scores(model, params, batch.x, key)
        return jnp.mean(loss_fn(logits, batch.y), where=batch.mask), changes

    @jax.jit
    def step(state: TrainState, batch: Batch, key: PRNGKeyArray | None = None) -> tuple[TrainState, Float[Array, ""]]:
        (loss, changes), gradients = jax.value_and_grad(mean_loss, has_aux=True)(state.params, batch, key)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        state = state._replace(params=optax.apply_updates(state.params, updates), opt_state=opt_state)
        return apply_model_updates(state, changes), loss

    return step


def training_scores(model: Model, params: Params, x: Float[Array, "b i"], key: PRNGKeyArray | None) -> tuple[Any, Any]:
    """The logits while training, and what the model changes by itself: (logits, None) for one without a `train`."""
    if model.train is None:
        return model.apply(params, x), None
    if key is None:
        raise ValueError("this model draws at random or keeps statistics while it trains: each step needs a key")
    return model.train(params, x, key)


@jax.jit(static_argnames=("model", "loss_fn", "optimizer", "batch_size", "shuffle", "augment"))
def train_epoch(
    state: TrainState,
    dataset: Dataset | ShardedDataset,
    *,
    model: Model,
    loss_fn: LossFunction,
    optimizer: optax.GradientTransformation,
    batch_size: int = 256,
    shuffle: bool = True,
    augment: Augment | None = None,
) -> tuple[TrainState, Float[Array, ""]]:
    """One epoch as one compiled program: a `lax.scan` of the step over all batches.

    `dataset` holds uint8 pixels, which become float batch by batch inside the program. `augment(key, x [b, h*w])`
    changes each batch at random, as `random_shift` does; its key, and that of a model that has a `train`, are functions
    of the state's key, the epoch and the step. Returns the new state and the mean loss over all images, each seen
    before its batch's step.

    >>> from jax_mnist import linear, load, mnist_loss
    >>> optimizer = optax.sgd(1.0)
    >>> state = init_state(jax.random.key(0), linear(), optimizer)
    >>> options = dict(model=linear(), loss_fn=mnist_loss, optimizer=optimizer)
    >>> state, loss = train_epoch(state, load("mnist_sample").train, **options)
    >>> int(state.epoch), bool(loss < 0.3)
    (1, True)
    """
    step = train_step(model, loss_fn, optimizer)

    def one_batch(state: TrainState, places: Places) -> tuple[TrainState, Float[Array, ""]]:
        state, loss = step(state, *place_batch(state, dataset, places, augment))
        return state, loss * jnp.sum(places.mask).astype(loss.dtype)

    state, losses = jax.lax.scan(one_batch, state, epoch_places(state, len(dataset), batch_size, shuffle))
    return state._replace(epoch=state.epoch + 1), jnp.sum(losses) / len(dataset)


class Places(NamedTuple):
    """Which images a batch takes, int32 [b], which of them count, bool [b], and the step's number in its epoch."""

    indices: Any
    mask: Any
    number: Any


def epoch_places(state: TrainState, count: int, batch_size: int, shuffle: bool) -> Places:
    """The places of the next epoch's batches, stacked [steps, ...]: a function of the state's key and epoch alone."""
    indices, mask = epoch_indices(state.key, state.epoch, count, batch_size, shuffle)
    return Places(indices, mask, jnp.arange(len(indices)))


def place_batch(
    state: TrainState, dataset: Dataset | ShardedDataset, places: Places, augment: Augment | None
) -> tuple[Batch, PRNGKeyArray]:
    """What a step takes: the batch at these places, changed at random where `augment` is given, and the model's key."""
    key = jax.random.fold_in(jax.random.fold_in(state.key, _NO_EPOCH), state.epoch)
    augment_key, model_key = jax.random.split(jax.random.fold_in(key, places.number))
    batch = take_batch(dataset, places.indices, places.mask)
    return batch if augment is None else batch._replace(x=augment(augment_key, batch.x)), model_key


def epochs(
    key: PRNGKeyArray,
    model: Model,
    splits: Splits,
    *,
    count: int,
    loss_fn: LossFunction,
    optimizer: optax.GradientTransformation,
    batch_size: int = 256,
    shuffle: bool = True,
    augment: Augment | None = None,
    state: TrainState | None = None,
    mesh: Mesh | None = None,
) -> Iterator[tuple[TrainState, EpochRecord]]:
    """Train, one epoch at a time: yields (TrainState, EpochRecord) after each, so that a plain `for` sees and stops it.

    `count` is the number of epochs in all: with a `state` to go on from, those it has behind it are counted in,
    and `key` is not used. `augment` is that of `train_epoch`. Where the optimizer is `with_ema`, the row is that of
    the averaged parameters. With a `mesh`, such as `data_mesh()`, every batch is split over its devices, the images lie
    there in equal shares, and the states are whole on each; what is computed is the same. The same key gives the same
    bits on the same machine. Compilation happens before the first epoch and is in no row's seconds. Raises ValueError
    where model, data and loss do not fit together.

    >>> from jax_mnist import linear, load, mnist_loss
    >>> run = epochs(jax.random.key(0), linear(), load("mnist_sample"), count=20, loss_fn=mnist_loss,
    ...              optimizer=optax.sgd(1.0))
    >>> for state, row in run:
    ...     if row.accuracy > 0.95:
    ...         break
    >>> row.epoch < 20
    True
    """
    state = init_state(key, model, optimizer) if state is None else state
    for part in splits:
        check_fit(model, state.params, part, loss_fn, batch_size)
    options = {"model": model, "loss_fn": loss_fn}
    how = {"optimizer": optimizer, "batch_size": batch_size, "shuffle": shuffle, "augment": augment}
    train, valid = (shard_dataset(part, mesh) for part in splits)
    return _epochs(replicate(state, mesh), train, valid, count, options | how, options)


def _epochs(
    state: TrainState, train: Any, valid: Any, count: int, train_options: dict[str, Any], options: dict[str, Any]
) -> Iterator[tuple[TrainState, EpochRecord]]:
    train_epoch.lower(state, train, **train_options).compile()
    evaluate_epoch.lower(evaluation_params(state), valid, **options).compile()
    while state.epoch < count:
        start = time.perf_counter()
        state, loss = jax.block_until_ready(train_epoch(state, train, **train_options))
        trained = time.perf_counter()
        metrics = jax.device_get(evaluate_epoch(evaluation_params(state), valid, **options))
        evaluated = time.perf_counter()
        losses = (float(loss), float(metrics.loss), float(metrics.accuracy))
        yield state, EpochRecord(int(state.epoch), *losses, trained - start, evaluated - trained)


_run_epochs = epochs  # `fit` has an argument of this name


def fit(
    key: PRNGKeyArray,
    model: Model,
    splits: Splits,
    *,
    epochs: int,
    loss_fn: LossFunction,
    optimizer: optax.GradientTransformation,
    batch_size: int = 256,
    shuffle: bool = True,
    augment: Augment | None = None,
    state: TrainState | None = None,
    mesh: Mesh | None = None,
) -> tuple[TrainState, History]:
    """Train to the end: the chapter's `Learner.fit`.

    The arguments are those of the function `epochs`, with its `count` named `epochs`. Returns the last state and
    the History, one array [epochs] a column. No array of the caller's is deleted. Raises ValueError where model,
    data and loss do not fit together.

    >>> from jax_mnist import load, mlp, mnist_loss
    >>> state, history = fit(jax.random.key(0), mlp((784, 30, 1)), load("mnist_sample"), epochs=2,
    ...                      loss_fn=mnist_loss, optimizer=optax.sgd(0.1))
    >>> history.accuracy.shape, bool(history.accuracy[-1] > 0.9)
    ((2,), True)
    """
    state = init_state(key, model, optimizer) if state is None else state
    run = _run_epochs(
        key,
        model,
        splits,
        count=epochs,
        loss_fn=loss_fn,
        optimizer=optimizer,
        batch_size=batch_size,
        shuffle=shuffle,
        augment=augment,
        state=state,
        mesh=mesh,
    )
    rows = []
    for state, row in run:  # noqa: B007, the last state is what is returned
        rows.append(row)
    return state, History.from_records(rows)
