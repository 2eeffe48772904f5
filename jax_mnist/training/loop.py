"""The training loop for every Learner: steps 6 and 7 of the chapter's seven, repeat and stop."""

import concurrent.futures
import functools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer
from jax.sharding import Mesh
from jaxtyping import Array, Float, PRNGKeyArray

from ..data.batches import epoch_indices, take_batch, use_mesh
from ..types import Batch, Dataset, EpochRecord, History, Learner, Params, Splits, TrainState
from .ema import apply_model_updates, evaluation_params, update_ema
from .evaluation import check_model_and_data, check_params, evaluate_params
from .mesh import replicate
from .optimizers import init_optimizer, update_optimizer

_STEP_KEY_EPOCH = 2**32 - 1  # a sentinel epoch: folded into the state's key, it gives a key stream apart from shuffling


def init_state(key: PRNGKeyArray, learner: Learner) -> TrainState:
    """Return the state before the first epoch, computed by one compiled function.

    The key is split into one for the parameters and one that the state carries. Inside another program the result is
    the same up to rounding. To start from given parameters, replace the model's `init`:
    `learner._replace(model=model._replace(init=lambda key: params))`. Raises ValueError if the parameters are not
    arrays, or if the optimizer cannot be initialized with them, with optax's reason.

    >>> from jax_mnist import linear, mnist_loss
    >>> init_state(jax.random.key(0), Learner(linear(), mnist_loss, optax.sgd(1.0))).epoch
    Array(0, dtype=int32)
    """
    # `device_put` returns a tracer if a program is being traced. Inside one, a jit takes no compiler options.
    is_traced = isinstance(jax.device_put(0), Tracer)
    init = _init_state if is_traced or jax.default_backend() != "cpu" else _init_state_on_cpu
    return init(key, learner.model.init, learner.optimizer)


def _first_state(key: PRNGKeyArray, init: Callable[..., Params], optimizer: Any) -> TrainState:
    params_key, state_key = jax.random.split(key)
    params = init(params_key)
    check_params(params)
    params = jax.tree.map(_strong, params)
    return TrainState(params, init_optimizer(optimizer, params), jnp.zeros((), jnp.int32), state_key)


_init_state = jax.jit(_first_state, static_argnames=("init", "optimizer"))
# It runs once, in milliseconds, and compiles in a third of the time without optimization.
_init_state_on_cpu = jax.jit(
    _first_state, static_argnames=("init", "optimizer"), compiler_options={"xla_backend_optimization_level": 0}
)


def _strong(array: Any) -> Array:
    # A step returns no weak types, such as that of `jnp.full(10, 0.5)`, so the second step would compile again.
    return jax.lax.convert_element_type(array, jnp.result_type(array))


def train_step(learner: Learner) -> Callable[..., tuple[TrainState, Float[Array, ""]]]:
    """Return the learner's training step as a compiled function: `step(state, batch, key=None) -> (state, loss)`.

    The loss is the mean over the batch before the step, without padding. The step needs a key, another one each time,
    if the learner augments or its model has an `apply_train`; without it the step raises ValueError. It compiles once
    for each batch size. The state's epoch and key stay as they are, so a later `fit` counts no epoch for these steps.
    `train_epoch` scans this step over an epoch; the step itself takes batches from any iterator, which is how data
    larger than memory trains, here with grain:

    >>> import grain
    >>> from jax_mnist import linear, load, make_batch, mnist_loss
    >>> learner = Learner(linear(), mnist_loss, optax.sgd(1.0))
    >>> step = train_step(learner)
    >>> state = init_state(jax.random.key(0), learner)
    >>> for images, labels in grain.MapDataset.source(load("mnist_sample").train).shuffle(seed=0).batch(256):
    ...     state, loss = step(state, make_batch(images, labels))
    >>> bool(loss < 0.2)
    True
    """
    # A step does not depend on these, so learners that differ only in them share one program.
    return functools.partial(_compiled_step, learner._replace(batch_size=0, shuffle=True, unroll=1))


@jax.jit(static_argnums=0)
def _compiled_step(
    learner: Learner, state: TrainState, batch: Batch, key: PRNGKeyArray | None = None
) -> tuple[TrainState, Float[Array, ""]]:
    return _step(learner, state, batch, jnp.sum(batch.mask), key)


@jax.jit(static_argnums=0)  # so that the check before training and the epoch trace it once
def _step(
    learner: Learner, state: TrainState, batch: Batch, count: Any, key: PRNGKeyArray | None
) -> tuple[TrainState, Float[Array, ""]]:
    """Take one step; `count` is the number of unmasked images."""
    model = learner.model
    augment_key = model_key = None
    if _needs_key(learner):
        if key is None:
            raise ValueError("step must have a key: the learner augments, or its model is random or keeps statistics")
        augment_key, model_key = jax.random.split(key)
    x = batch.x if learner.augment is None else learner.augment(augment_key, batch.x)

    def mean_loss(params: Params) -> tuple[Float[Array, ""], Any]:
        if model.apply_train is None:
            logits, model_updates = model.apply(params, x), None
        else:
            # A clone, since line searches evaluate this loss several times, each time with the same randomness.
            logits, model_updates = model.apply_train(params, x, jax.random.clone(model_key))
        losses = learner.loss_fn(logits, batch.y)
        return jnp.sum(losses, where=batch.mask) / count.astype(losses.dtype), model_updates

    (loss, model_updates), gradients = jax.value_and_grad(mean_loss, has_aux=True)(state.params)
    updates, opt_state = update_optimizer(
        learner.optimizer, gradients, state.opt_state, state.params, loss, lambda params: mean_loss(params)[0]
    )
    params = optax.apply_updates(state.params, updates)
    params = apply_model_updates(params, model_updates)
    opt_state = update_ema(opt_state, params, model_updates)
    return state._replace(params=params, opt_state=opt_state), loss


def _needs_key(learner: Learner) -> bool:
    return learner.augment is not None or learner.model.apply_train is not None


class StepInputs(NamedTuple):
    """The inputs of the steps of an epoch, stacked [steps, ...].

    `indices` int32 [b] are the images of a batch, `mask` bool [b] is False for padding, `count` int32 [] is the number
    of unmasked images, and `key` is the step's PRNG key, None if the learner needs none.
    """

    indices: Any
    mask: Any
    count: Any
    key: Any


def step_inputs(learner: Learner, state: TrainState, count: int, mesh: Mesh | None = None) -> StepInputs:
    """Return the inputs of the next epoch's steps over `count` images, a function of the state's key and epoch only."""
    order_key = state.key if learner.shuffle else None
    indices, mask = epoch_indices(order_key, state.epoch, count, learner.batch_size, mesh=mesh)
    steps = len(indices)
    keys = None
    if _needs_key(learner):
        keys = jax.random.split(jax.random.fold_in(jax.random.fold_in(state.key, _STEP_KEY_EPOCH), state.epoch), steps)
    # Counted here and not in the step, where counting a sharded mask would need an all-reduce of its own.
    counts = jnp.minimum(count - jnp.arange(steps) * learner.batch_size, learner.batch_size)
    return StepInputs(indices, mask, counts, keys)


@jax.jit(static_argnames=("learner", "mesh"))
def train_epoch(
    learner: Learner, state: TrainState, dataset: Dataset, *, mesh: Mesh | None = None
) -> tuple[TrainState, Float[Array, ""]]:
    """Train for one epoch, one compiled program: a `lax.scan` of the step over all batches.

    `dataset` holds uint8 pixels, which become float batch by batch inside the program. The order of the images and all
    randomness are functions of the state's key and epoch. With a `mesh`, such as `data_mesh()`, on which state and
    dataset are replicated, every batch is sharded over its devices. Returns the new state and the mean loss over all
    images, each seen before its batch's step. Raises ValueError if the optimizer fails.

    >>> from jax_mnist import linear, load, mnist_loss
    >>> learner = Learner(linear(), mnist_loss, optax.sgd(1.0))
    >>> state = init_state(jax.random.key(0), learner)
    >>> state, loss = train_epoch(learner, state, load("mnist_sample").train)
    >>> int(state.epoch), bool(loss < 0.3)
    (1, True)
    """

    def one_step(state: TrainState, inputs: StepInputs) -> tuple[TrainState, Float[Array, ""]]:
        batch = take_batch(dataset, inputs.indices, inputs.mask)
        # Under vmap, JAX's debug_key_reuse takes the transposed keys for used ones, hence the clone.
        key = jax.tree.map(jax.random.clone, inputs.key)
        state, loss = _step(learner, state, batch, inputs.count, key)
        return state, loss * inputs.count.astype(loss.dtype)

    with use_mesh(mesh):
        inputs = step_inputs(learner, state, len(dataset), mesh)
        state, loss_sums = jax.lax.scan(one_step, state, inputs, unroll=learner.unroll)
    return state._replace(epoch=state.epoch + 1), jnp.sum(loss_sums) / len(dataset)


def fit_epochs(
    key: PRNGKeyArray | None,
    learner: Learner,
    splits: Splits,
    *,
    epochs: int,
    state: TrainState | None = None,
    mesh: Mesh | None = None,
) -> Iterator[tuple[TrainState, EpochRecord]]:
    """Train and yield (TrainState, EpochRecord) after every epoch, so that a plain `for` can show, save and stop.

    `epochs` is the total: with a `state` to go on from, the epochs that it has finished are counted in, and `key` is
    not used and may be None. If the state has finished all of them, nothing is yielded. The record is that of
    `evaluation_params(state)`. With a `mesh`, such as `data_mesh()`, every batch is sharded over its devices and the
    states are replicated; the results are the same up to rounding, if the devices divide the batches of a model with
    batch statistics. The same key gives the same bits on the same machine. Compilation happens before the first epoch
    and is not part of any record's seconds. Raises ValueError, at the call, if model, data, loss and optimizer do not
    fit together, or if the state has finished more than `epochs`.

    >>> from jax_mnist import linear, load, mnist_loss
    >>> learner = Learner(linear(), mnist_loss, optax.sgd(1.0))
    >>> for state, record in fit_epochs(jax.random.key(0), learner, load("mnist_sample"), epochs=20):
    ...     if record.accuracy > 0.95:
    ...         break
    >>> record.epoch < 20
    True
    """
    state = _start(key, learner, state)
    if int(state.epoch) > epochs:
        raise ValueError(
            f"epochs must be {int(state.epoch)} or more, the number that the state has finished, got {epochs}"
        )
    check_learner(learner, state, splits)
    return _epochs(learner, *replicate((state, splits), mesh), epochs, mesh)


def _epochs(
    learner: Learner, state: TrainState, splits: Splits, epochs: int, mesh: Mesh | None
) -> Iterator[tuple[TrainState, EpochRecord]]:
    evaluated = learner.model, learner.loss_fn
    # Compile both programs at once, before the clock starts; the calls below find them in JAX's cache.
    with concurrent.futures.ThreadPoolExecutor() as pool:
        lowered = train_epoch.lower(learner, state, splits.train, mesh=mesh)
        training = pool.submit(lowered.compile)
        lowered = evaluate_params.lower(*evaluated, evaluation_params(state), splits.valid, mesh=mesh)
        pool.submit(lowered.compile).result()
        training.result()
    for epoch in range(int(state.epoch) + 1, epochs + 1):
        start = time.perf_counter()
        state, loss = jax.block_until_ready(train_epoch(learner, state, splits.train, mesh=mesh))
        trained = time.perf_counter()
        metrics, _ = evaluate_params(*evaluated, evaluation_params(state), splits.valid, mesh=mesh)
        metrics = jax.device_get(metrics)
        seconds = trained - start, time.perf_counter() - trained
        yield state, EpochRecord(epoch, float(loss), float(metrics.loss), float(metrics.accuracy), *seconds)


def fit(
    key: PRNGKeyArray | None,
    learner: Learner,
    splits: Splits,
    *,
    epochs: int,
    state: TrainState | None = None,
    mesh: Mesh | None = None,
) -> tuple[TrainState, History]:
    """Train until `epochs` epochs are finished: the chapter's `Learner.fit`.

    The arguments are those of `fit_epochs`, which this loop runs to its end. Returns the last state and the History of
    the epochs trained here, an array [epochs] for each column. The caller's arrays are not donated. Raises ValueError
    if model, data, loss and optimizer do not fit together, or if the state has finished `epochs` already.

    >>> from jax_mnist import load, mlp, mnist_loss
    >>> learner = Learner(mlp((784, 30, 1)), mnist_loss, optax.sgd(0.1))
    >>> state, history = fit(jax.random.key(0), learner, load("mnist_sample"), epochs=2)
    >>> history.accuracy.shape, bool(history.accuracy[-1] > 0.9)
    ((2,), True)
    """
    state = _start(key, learner, state)
    if int(state.epoch) >= epochs:
        raise ValueError(
            f"epochs must be above {int(state.epoch)}, the number that the state has finished, got {epochs}"
        )
    run = fit_epochs(None, learner, splits, epochs=epochs, state=state, mesh=mesh)
    records = []
    for state, record in run:  # noqa: B007, the last state is returned
        records.append(record)
    return state, History.from_records(records)


def _start(key: PRNGKeyArray | None, learner: Learner, state: TrainState | None) -> TrainState:
    if state is not None:
        return state
    if key is None:
        raise ValueError("key must be a PRNG key, such as jax.random.key(0), if there is no state to go on from")
    return init_state(key, learner)


def check_learner(learner: Learner, state: TrainState, splits: Splits) -> None:
    """Raise ValueError if model, data, loss and optimizer do not fit together; nothing is computed."""
    for dataset in splits:
        check_model_and_data(learner.model, learner.loss_fn, state.params, dataset, learner.batch_size)
    jax.eval_shape(evaluation_params, state)  # raises if it cannot tell which parameters to evaluate

    def first_step(state: TrainState, dataset: Dataset) -> TrainState:
        inputs = jax.tree.map(lambda stacked: stacked[0], step_inputs(learner, state, len(dataset)))
        batch = take_batch(dataset, inputs.indices, inputs.mask)
        return _step(learner, state, batch, inputs.count, inputs.key)[0]

    def shapes(params: Params) -> Params:
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)

    after, before = shapes(jax.eval_shape(first_step, state, splits.train).params), shapes(state.params)
    if after != before:
        raise ValueError(f"a step must keep the parameters' shapes and dtypes: {before} became {after}")
