"""Sweeps: one learner trained from many seeds or at many learning rates, as one vmapped program."""

import functools
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Real, Shaped

from ..types import ArrayLike, Dataset, History, Learner, LossFunction, Metrics, Model, Params, Splits, TrainState
from .ema import evaluation_params
from .evaluation import EVALUATION_BATCH_SIZE, evaluate_params
from .loop import check_learner, init_state, train_epoch
from .mesh import platform_of, replicate, shard
from .optimizers import set_learning_rate


def fit_many(
    keys: Shaped[Array, "..."],
    learner: Learner,
    splits: Splits,
    *,
    epochs: int,
    learning_rates: Real[ArrayLike, " k"] | Sequence[float] | None = None,
    same_order: bool = False,
    chunk: int | None = None,
    mesh: Mesh | None = None,
) -> tuple[TrainState, History]:
    """Train k members at once, each as `fit` would: from k seeds, at k learning rates, or both.

    `keys` [k] are one for each member; a single key [] serves all `learning_rates` [k]. With those, the learning rate
    must be in the optimizer's state: `optax.inject_hyperparams(make)(learning_rate=0.1)` with a function `make` of the
    learning rate, such as `optax.sgd`. A schedule is mapped by its peak, with
    `make = lambda learning_rate: optax.sgd(lambda step: learning_rate * shape(step))`.

    At most `chunk` members are trained at a time, which bounds the memory. The default is 64 on a GPU or TPU; on a CPU
    it is 32 in the same order and 4 otherwise, which is fastest there. With a `mesh`, such as `data_mesh()`, each
    device trains `chunk` members at a time and holds all images.

    Each member sees the images in the order of its own key. With `same_order` all see them in the order of the first
    key, as they do with a single key: then a layer of all members is one matrix product on one batch, and a CPU trains
    small nets more than twice as fast as one by one.

    Returns the members' states and records stacked: TrainState with a leading axis [k] in every array, History with
    arrays [k, epochs]; a member's seconds are its share of its chunk's. Raises ValueError if the arguments do not fit
    together.

    >>> import optax
    >>> from jax_mnist import linear, load, mnist_loss
    >>> learner = Learner(linear(), mnist_loss, optax.inject_hyperparams(optax.sgd)(learning_rate=1.0))
    >>> state, history = fit_many(jax.random.key(0), learner, load("mnist_sample"), epochs=2,
    ...                           learning_rates=[1e-6, 1.0])
    >>> history.accuracy.shape, state.params[0].weights.shape, bool(history.accuracy[0, -1] < history.accuracy[1, -1])
    ((2, 2), (2, 784, 1), True)
    """
    same_order = same_order or keys.ndim == 0
    keys, rates = _broadcast_members(keys, learning_rates)
    first_key = jax.random.clone(keys)[0]
    init_member = functools.partial(_init_member, learner)
    check_learner(learner, jax.eval_shape(init_member, first_key, None if rates is None else rates[0]), splits)
    splits = replicate(splits, mesh)
    if chunk is None:
        chunk = 64 if platform_of(mesh) != "cpu" else 32 if same_order else 4
    states, histories = [], []
    for indices in _chunk_indices(len(keys), chunk, 1 if mesh is None else mesh.size):
        # A slice of keys counts as their use, and each chunk uses the first key, hence the clones.
        chunk_keys, chunk_rates = jax.random.clone(keys)[indices], None if rates is None else rates[indices]
        order_key = jax.random.clone(first_key)
        state = init_many(chunk_keys, chunk_rates, order_key, learner=learner, same_order=same_order)
        state, history = _fit_chunk(learner, shard(state, mesh), splits, epochs, same_order, mesh)
        states.append(state)
        histories.append(history)
    history = History(*(np.concatenate(columns)[: len(keys)] for columns in zip(*histories, strict=True)))
    return _concatenate(states, count=len(keys)), history


def _broadcast_members(keys: Array, learning_rates: Any) -> tuple[Array, Array | None]:
    """Return one key for each member, [k], and their learning rates, [k], if they are given."""
    if not jnp.issubdtype(keys.dtype, jax.dtypes.prng_key) or keys.ndim > 1 or keys.size == 0:
        raise ValueError(f"keys must be [k] or [] of jax.random.key, k >= 1, got {keys.dtype} {list(keys.shape)}")
    if learning_rates is None:
        return keys.reshape(-1), None
    rates = jnp.asarray(learning_rates, jnp.result_type(float))
    if rates.ndim != 1 or rates.size == 0 or keys.shape not in ((), rates.shape):
        raise ValueError(
            f"learning_rates must be [k], one for each key, got {list(rates.shape)} for keys {list(keys.shape)}"
        )
    return jnp.broadcast_to(keys, rates.shape), rates


def _chunk_indices(count: int, chunk: int, devices: int = 1) -> Int[np.ndarray, "chunks members"]:
    """Return the members of each chunk, in chunks of one size that the devices divide, so that one program serves all.

    The members are spread evenly, at most `chunk` on a device, and the last one is repeated to fill the last chunk: on
    one device there are fewer repetitions than chunks, and none in a single chunk.
    """
    if chunk < 1:
        raise ValueError(f"chunk must be 1 or more, got {chunk}")
    chunks = -(-count // (chunk * devices))
    size = -(-count // (chunks * devices)) * devices
    return np.minimum(np.arange(chunks * size), count - 1).reshape(chunks, size)


def init_many(keys: Array, rates: Any, first_key: Array, *, learner: Learner, same_order: bool) -> TrainState:
    """Return the members' states before the first epoch, stacked; with `same_order` all order images by `first_key`."""
    states = jax.vmap(functools.partial(_init_member, learner))(keys, rates)
    if same_order:
        states = states._replace(key=jnp.broadcast_to(init_state(first_key, learner).key, states.key.shape))
    return states


def _init_member(learner: Learner, key: Array, rate: Any) -> TrainState:
    state = init_state(key, learner)
    return state if rate is None else state._replace(opt_state=set_learning_rate(state.opt_state, rate))


@jax.jit(static_argnames=("learner", "same_order"))
def train_many(
    learner: Learner, states: TrainState, dataset: Dataset, *, same_order: bool
) -> tuple[TrainState, Float[Array, " k"]]:
    """Train every member for one epoch, as one compiled program: `train_epoch` under `vmap`."""
    # Only what differs is mapped: with one key there is one order, one batch, and one matrix product for each layer.
    axes = TrainState(params=0, opt_state=0, epoch=None, key=None if same_order else 0)  # pyright: ignore[reportArgumentType]
    shared = states._replace(epoch=states.epoch[0], key=states.key[0] if same_order else states.key)
    train = jax.vmap(lambda state: train_epoch(learner, state, dataset), in_axes=(axes,), out_axes=(axes, 0))
    trained, losses = train(shared)
    epoch, key = (jnp.broadcast_to(value, states.epoch.shape) for value in (trained.epoch, trained.key))
    return trained._replace(epoch=epoch, key=key), losses


@jax.jit(static_argnames=("model", "loss_fn"))
def evaluate_many(model: Model, loss_fn: LossFunction, stacked_params: Params, dataset: Dataset) -> Metrics:
    """Evaluate stacked parameters: `evaluate` under `vmap`, Metrics with arrays [k]."""
    # The members' batches are in memory at once, so each is small on every platform.
    evaluate = functools.partial(evaluate_params, model, loss_fn, batch_size=EVALUATION_BATCH_SIZE)
    return jax.vmap(lambda params: evaluate(params, dataset)[0])(stacked_params)


def _fit_chunk(
    learner: Learner, states: TrainState, splits: Splits, epochs: int, same_order: bool, mesh: Mesh | None
) -> tuple[TrainState, History]:
    size, evaluated = len(states.epoch), (learner.model, learner.loss_fn)
    train_many.lower(learner, states, splits.train, same_order=same_order).compile()
    evaluate_many.lower(*evaluated, jax.vmap(evaluation_params)(states), splits.valid).compile()
    columns = [np.empty((size, epochs), int), *np.empty((5, size, epochs))]
    for epoch in range(epochs):
        start = time.perf_counter()
        states, losses = jax.block_until_ready(train_many(learner, states, splits.train, same_order=same_order))
        trained = time.perf_counter()
        metrics = jax.block_until_ready(evaluate_many(*evaluated, jax.vmap(evaluation_params)(states), splits.valid))
        seconds = (trained - start) / size, (time.perf_counter() - trained) / size
        record = (*replicate((states.epoch, losses, metrics.loss, metrics.accuracy), mesh), *seconds)
        for column, values in zip(columns, record, strict=True):
            column[:, epoch] = values
    return states, History(*columns)


@jax.jit(static_argnames="count")
def _concatenate(parts: list[TrainState], *, count: int) -> TrainState:
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[:count], *parts)
