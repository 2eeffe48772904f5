"""Many runs at once: one model from many seeds or at many learning rates."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PRNGKeyArray, Real, Shaped

from ..types import ArrayLike, Dataset, History, Metrics, Model, Params, Splits, TrainState
from .ema import evaluation_params
from .evaluation import LossFunction, check_fit, evaluate_epoch
from .loop import Augment, init_state, train_epoch
from .mesh import replicate, split

Optimizer = optax.GradientTransformation | Callable[[Any], optax.GradientTransformation]
"""An optimizer, or, where learning rates are mapped, a function of the learning rate, such as `optax.sgd`."""


class Members(NamedTuple):
    """What tells the members of a sweep apart: their keys [k] and, where they differ, their learning rates [k]."""

    keys: Any
    rates: Any

    def at(self, places: Any) -> "Members":
        """Those at the given places; a slice of keys counts as their use, hence the clone."""
        return Members(jax.random.clone(self.keys)[places], None if self.rates is None else self.rates[places])


def fit_many(
    keys: Shaped[Array, "..."],
    model: Model,
    splits: Splits,
    *,
    epochs: int,
    loss_fn: LossFunction,
    optimizer: Optimizer,
    batch_size: int = 256,
    shuffle: bool = True,
    augment: Augment | None = None,
    learning_rates: Real[ArrayLike, " k"] | Sequence[float] | None = None,
    same_order: bool = False,
    chunk: int | None = None,
    mesh: Mesh | None = None,
) -> tuple[TrainState, History]:
    """Train k members at once, each as `fit` would: from k seeds, at k learning rates, or both.

    `keys` [k] are one a member; a single key [] serves all `learning_rates` [k]. With those, `optimizer` is a
    function `learning_rate -> optimizer`, such as `optax.sgd`. The other arguments are those of `fit`. At most
    `chunk` members are trained at a time, which bounds the memory; by default 32 in one order and 4
    otherwise, where a CPU is fastest (a GPU takes more). With a `mesh`, such as `data_mesh()`, its devices take `chunk`
    members each, and every one holds all images.

    Each member sees the images in the order of its own key. With `same_order` all see them in the order of the
    first one's, as they do with a single key: a layer of all members is then one matrix product on one batch, and
    a CPU trains small nets more than twice as fast as one by one.

    Returns the members' states and records stacked: TrainState with a leading axis [k] in every array, History with
    arrays [k, epochs], where a member's seconds are its share of its chunk's. Raises ValueError where the arguments
    do not fit together.

    >>> from jax_mnist import linear, load, mnist_loss
    >>> state, history = fit_many(jax.random.key(0), linear(), load("mnist_sample"), epochs=2, loss_fn=mnist_loss,
    ...                           optimizer=optax.sgd, learning_rates=[1e-6, 1.0])
    >>> history.accuracy.shape, state.params[0].weights.shape, bool(history.accuracy[0, -1] < history.accuracy[1, -1])
    ((2, 2), (2, 784, 1), True)
    """
    same_order = same_order or keys.ndim == 0
    members = _members(keys, learning_rates, optimizer)
    params = jax.eval_shape(model.init, jax.random.key(0))
    for part in splits:
        check_fit(model, params, part, loss_fn, batch_size)
    options = {"model": model, "loss_fn": loss_fn}
    order = {"optimizer": optimizer, "same_order": same_order}
    train_options = options | order | {"batch_size": batch_size, "shuffle": shuffle, "augment": augment}
    splits = replicate(jax.device_put(splits), mesh)
    states, histories = [], []
    chunk = (32 if same_order else 4) if chunk is None else chunk
    for places in _chunks(len(members.keys), chunk, 1 if mesh is None else mesh.size):
        some = members.at(places)
        state = init_many(some, members.at(0).keys, model=model, **order)
        state, rates = split((state, some.rates), mesh)
        state, history = _fit_chunk(state, rates, splits, epochs, train_options, options, mesh)
        states.append(state)
        histories.append(history)
    count = len(members.keys)
    history = History(*(np.concatenate(parts)[:count] for parts in zip(*histories, strict=True)))
    return _join(states, count=count), history


def _members(keys: Array, learning_rates: Any, optimizer: Optimizer) -> Members:
    if not jnp.issubdtype(keys.dtype, jax.dtypes.prng_key) or keys.ndim > 1 or keys.size == 0:
        raise ValueError(f"keys must be one or more of jax.random.key, [k] or [], not {keys.dtype} {list(keys.shape)}")
    if (learning_rates is None) != isinstance(optimizer, optax.GradientTransformation):
        raise ValueError(
            "with learning_rates, optimizer must be a function of the rate, such as optax.sgd; without, an optimizer, "
            f"such as optax.sgd(0.1); not {optimizer} with learning_rates {learning_rates}"
        )
    if learning_rates is None:
        return Members(keys.reshape(-1), None)
    rates = jnp.asarray(learning_rates, jnp.result_type(float))
    if rates.ndim != 1 or rates.size == 0 or keys.shape not in ((), rates.shape):
        raise ValueError(f"learning_rates must be [k], one a key, not {list(rates.shape)} for keys {list(keys.shape)}")
    return Members(jnp.broadcast_to(keys, rates.shape), rates)


def _chunks(count: int, chunk: int, devices: int = 1) -> Int[np.ndarray, "chunks members"]:
    """The members of each chunk, in chunks of one size that the devices divide, so that one compilation serves all.

    Members are spread evenly, at most `chunk` a device, and the last one is repeated where they do not come out even:
    on one device there are fewer such repetitions than chunks, and none for a single chunk.
    """
    if chunk < 1:
        raise ValueError(f"chunk must be 1 or more, not {chunk}")
    chunks = -(-count // (chunk * devices))
    size = -(-count // (chunks * devices)) * devices
    return np.minimum(np.arange(chunks * size), count - 1).reshape(chunks, size)


def _at(optimizer: Any, rate: Any) -> optax.GradientTransformation:
    return optimizer if rate is None else optimizer(rate)


@jax.jit(static_argnames=("model", "optimizer", "same_order"))
def init_many(
    members: Members, first: PRNGKeyArray, *, model: Model, optimizer: Optimizer, same_order: bool
) -> TrainState:
    """The members' states before the first epoch, stacked; with `same_order` the order is that of the key `first`."""
    states = jax.vmap(lambda member: init_state(member.keys, model, _at(optimizer, member.rates)))(members)
    if same_order:
        order = init_state(first, model, _at(optimizer, None if members.rates is None else members.rates[0])).key
        states = states._replace(key=jnp.broadcast_to(order, states.key.shape))
    return states


@jax.jit(static_argnames=("model", "loss_fn", "optimizer", "batch_size", "shuffle", "augment", "same_order"))
def train_many(
    states: TrainState, rates: Any, dataset: Dataset, *, optimizer: Optimizer, same_order: bool, **options: Any
) -> tuple[TrainState, Float[Array, " k"]]:
    """One epoch of every member as one compiled program: `train_epoch` under `vmap`."""
    # What is not mapped stays one for all: with one key there is one order, one batch, one matrix product a layer.
    axes = states._replace(params=0, opt_state=0, epoch=None, key=None if same_order else 0)
    shared = states._replace(epoch=states.epoch[0], key=states.key[0] if same_order else states.key)

    def one(state: TrainState, rate: Any) -> tuple[TrainState, Float[Array, ""]]:
        return train_epoch(state, dataset, optimizer=_at(optimizer, rate), **options)

    trained, losses = jax.vmap(one, in_axes=(axes, 0), out_axes=(axes, 0))(shared, rates)
    epoch, key = (jnp.broadcast_to(value, states.epoch.shape) for value in (trained.epoch, trained.key))
    return trained._replace(epoch=epoch, key=key), losses


@jax.jit(static_argnames=("model", "loss_fn"))
def evaluate_many(params: Params, dataset: Dataset, *, model: Model, loss_fn: LossFunction) -> Metrics:
    """`evaluate` of stacked parameters: Metrics with arrays [k]."""
    return jax.vmap(lambda one: evaluate_epoch(one, dataset, model=model, loss_fn=loss_fn))(params)


def _fit_chunk(
    states: TrainState,
    rates: Any,
    splits: Splits,
    epochs: int,
    train_options: Any,
    options: Any,
    mesh: Mesh | None,
) -> tuple[TrainState, History]:
    size = len(states.epoch)
    train_many.lower(states, rates, splits.train, **train_options).compile()
    evaluate_many.lower(evaluation_params(states), splits.valid, **options).compile()
    columns = [np.empty((size, epochs), int), *np.empty((5, size, epochs))]
    for epoch in range(epochs):
        start = time.perf_counter()
        states, losses = jax.block_until_ready(train_many(states, rates, splits.train, **train_options))
        trained = time.perf_counter()
        metrics = jax.block_until_ready(evaluate_many(evaluation_params(states), splits.valid, **options))
        shares = (trained - start) / size, (time.perf_counter() - trained) / size
        row = (*replicate((states.epoch, losses, metrics.loss, metrics.accuracy), mesh), *shares)
        for column, values in zip(columns, row, strict=True):
            column[:, epoch] = values
    return states, History(*columns)


@jax.jit(static_argnames="count")
def _join(parts: list[TrainState], *, count: int) -> TrainState:
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[:count], *parts)
