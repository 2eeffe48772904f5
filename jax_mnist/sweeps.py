"""Many runs at once: one model from many seeds or at many learning rates, and what they say together."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PRNGKeyArray, Real, Shaped
from scipy.special import stdtrit

from .averaging import averaged_params
from .data.batches import epoch_indices, take_batch
from .metrics import class_probabilities
from .sharding import replicate, split
from .training import EVALUATION_BATCH, Augment, LossFunction, check_fit, evaluate_epoch, init_state, train_epoch
from .types import ArrayLike, Dataset, History, Metrics, Model, Params, Splits, TrainState

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
    evaluate_many.lower(averaged_params(states), splits.valid, **options).compile()
    columns = [np.empty((size, epochs), int), *np.empty((5, size, epochs))]
    for epoch in range(epochs):
        start = time.perf_counter()
        states, losses = jax.block_until_ready(train_many(states, rates, splits.train, **train_options))
        trained = time.perf_counter()
        metrics = jax.block_until_ready(evaluate_many(averaged_params(states), splits.valid, **options))
        shares = (trained - start) / size, (time.perf_counter() - trained) / size
        row = (*replicate((states.epoch, losses, metrics.loss, metrics.accuracy), mesh), *shares)
        for column, values in zip(columns, row, strict=True):
            column[:, epoch] = values
    return states, History(*columns)


@jax.jit(static_argnames="count")
def _join(parts: list[TrainState], *, count: int) -> TrainState:
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[:count], *parts)


class LearningRates(NamedTuple):
    """The rates tried [k], the validation loss that each came to [k], and the rate to take, with the reason."""

    rates: np.ndarray
    losses: np.ndarray
    suggestion: float
    reason: str


def lr_find(
    key: PRNGKeyArray,
    model: Model,
    splits: Splits,
    *,
    loss_fn: LossFunction,
    optimizer: Callable[[Any], optax.GradientTransformation],
    epochs: int = 2,
    batch_size: int = 256,
    rates: Real[ArrayLike, " k"] | Sequence[float] | None = None,
) -> LearningRates:
    """Train briefly at each of a hundred learning rates, all in one vmapped program, and suggest one.

    It chooses by the loss on `splits.valid`, which therefore must be training images set apart, as by `hold_out`. All
    start from the same parameters and see the same batches for `epochs` epochs, 1 to 4; `rates` [k] rise, by default
    from 1e-4 to 10. The suggestion is a third of the rate with the lowest loss, since the highest rate at which a
    short training succeeds is one at which a long one fails. fastai's lr_find, in the book's chapter 5, gives one run
    a rate that rises (Smith 2017, arXiv 1506.01186); here each rate has a run of its own. Raises ValueError for other
    epochs, and where no rate gives a loss.

    >>> from jax_mnist import hold_out, linear, load, mnist_loss
    >>> splits = hold_out(jax.random.key(0), load("mnist_sample").train, 2000)
    >>> found = lr_find(jax.random.key(0), linear(), splits, loss_fn=mnist_loss, optimizer=optax.sgd, epochs=1,
    ...                 rates=[0.001, 0.3, 0.6])
    >>> round(found.suggestion, 3)
    0.2
    """
    if not 1 <= epochs <= 4:
        raise ValueError(f"lr_find trains for 1 to 4 epochs, not {epochs}")
    rates = np.geomspace(1e-4, 10, 100) if rates is None else np.asarray(rates, float)
    how = {"epochs": epochs, "loss_fn": loss_fn, "optimizer": optimizer, "batch_size": batch_size}
    _, history = fit_many(key, model, splits, learning_rates=rates, chunk=max(len(rates), 1), **how)
    losses = history.valid_loss[:, -1]
    finite = np.where(np.isfinite(losses), losses, np.inf)
    best = int(finite.argmin())
    if not np.isfinite(finite[best]):
        raise ValueError(f"no learning rate from {rates[0]:g} to {rates[-1]:g} gives a finite loss")
    reason = f"a third of {rates[best]:.3g}, which had the lowest loss, {losses[best]:.4f}, after {epochs} epoch(s)"
    if best == len(rates) - 1:
        reason += "; it is the highest tried, and a better one may lie beyond"
    return LearningRates(rates, losses, float(rates[best] / 3), reason)


def vote(
    model: Model, stacked_params: Params, dataset: Dataset, batch_size: int = EVALUATION_BATCH
) -> Int[Array, " n"]:
    """The labels that an ensemble agrees on: the class with the highest mean of its members' probabilities.

    A mean of probabilities, unlike a majority, weighs a sure member more than one in doubt, and an even number of
    members seldom ties. `stacked_params` is a pytree with a leading axis [k], as in the state of `fit_many`. Returns
    int32 [n], so that `(vote(...) == dataset.labels).mean()` is the accuracy. Raises ValueError for a batch size
    below 1.

    >>> from jax_mnist import linear, load
    >>> params = jax.vmap(linear().init)(jax.random.split(jax.random.key(0), 3))
    >>> vote(linear(), params, load("mnist_sample").valid).shape
    (2038,)
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more, not {batch_size}")
    return _vote(stacked_params, jax.device_put(dataset), model=model, batch_size=batch_size)


@jax.jit(static_argnames=("model", "batch_size"))
def _vote(stacked_params: Params, dataset: Dataset, *, model: Model, batch_size: int) -> Int[Array, " n"]:
    def one_batch(places: tuple[Array, Array]) -> Array:
        x = take_batch(dataset, *places).x
        probabilities = jax.vmap(lambda params: class_probabilities(model.apply(params, x)))(stacked_params)
        return jnp.argmax(jnp.mean(probabilities, axis=0), axis=-1).astype(jnp.int32)

    places = epoch_indices(jax.random.key(0), 0, len(dataset), batch_size, shuffle=False)
    return jax.lax.map(one_batch, places).reshape(-1)[: len(dataset)]


class Spread(NamedTuple):
    """A sample's mean and standard deviation, and the interval in which its distribution's mean lies."""

    mean: float
    std: float
    interval: tuple[float, float]


def spread(values: Float[ArrayLike, " k"] | Sequence[float], confidence: float = 0.95) -> Spread:
    """Mean, standard deviation and the mean's confidence interval by Student's t, such as of k seeds' accuracies.

    `values` [k], `confidence` in (0, 1). The deviation divides by k - 1. Returns Spread(mean, std, (low, high)).
    Raises ValueError for fewer than two values, which say nothing of their spread.

    >>> mean, std, (low, high) = spread([0.97, 0.98, 0.99])
    >>> round(mean, 4), round(std, 4), round(low, 4), round(high, 4)
    (0.98, 0.01, 0.9552, 1.0048)
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"a spread is that of two or more values, [k], not {list(values.shape)}")
    mean, std = float(values.mean()), float(values.std(ddof=1))
    half = float(stdtrit(len(values) - 1, (1 + confidence) / 2)) * std / len(values) ** 0.5
    return Spread(mean, std, (mean - half, mean + half))
