"""Parameters for evaluation: an exponential moving average (EMA), or those of optax's schedule_free."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax.contrib import ScheduleFreeState, schedule_free_eval_params

from ..types import Params, TrainState
from .optimizers import find_states, last_transformation

_ONE_EMA = "the optimizer must track at most one EMA of a parameter, got several: use with_ema once"


class EmaState(NamedTuple):
    """The state of `with_ema`: the inner optimizer's state, the decay, the step count, and the average."""

    inner: Any
    decay: jax.Array
    count: jax.Array  # pyright: ignore[reportIncompatibleMethodOverride]
    average: Params


def with_ema(optimizer: optax.GradientTransformation, decay: float) -> optax.GradientTransformationExtraArgs:
    """Make training track an exponential moving average of the parameters, and evaluate it.

    `decay` in (0, 1) is the share of the average that each step keeps. The average is debiased, as by `optax.ema`: it
    is over the steps taken so far, without the initial parameters. The optimizer's own updates do not change.

    The average is that of the parameters that the training step returns. An optimizer does not know those, since
    transformations may follow it, so the average is updated by `train_step` and `train_epoch` and not by this
    optimizer; a loop around optax's own `update` leaves it unchanged. It therefore works anywhere: in `optax.chain`, in
    `optax.multi_transform` (where it averages its own parameters), around a line search. `evaluation_params` returns
    the average. Raises ValueError if `decay` is outside (0, 1).

    >>> from jax_mnist import Learner, fit, linear, load, mnist_loss
    >>> learner = Learner(linear(), mnist_loss, with_ema(optax.sgd(1.0), decay=0.99))
    >>> state, history = fit(jax.random.key(0), learner, load("mnist_sample"), epochs=1)
    >>> evaluation_params(state)[0].weights.shape, bool(history.accuracy[-1] > 0.9)
    ((784, 1), True)
    """
    if not 0 < decay < 1:
        raise ValueError(f"the decay of an EMA must be in (0, 1), such as 0.999, got {decay}")
    optimizer = optax.with_extra_args_support(optimizer)

    def init(params: Params) -> EmaState:
        inner = optimizer.init(params)
        if find_states(inner, EmaState):
            raise ValueError(_ONE_EMA)
        return EmaState(inner, jnp.asarray(decay, jnp.result_type(float)), jnp.zeros((), jnp.int32), params)

    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> tuple[Any, Any]:
        updates, inner = optimizer.update(updates, state.inner, params, **extra_args)
        return updates, state._replace(inner=inner)

    return optax.GradientTransformationExtraArgs(init, update)


def update_ema(opt_state: Any, params: Params, model_updates: Any = None) -> Any:
    """Return the optimizer's state with every EMA in it updated by the parameters after a step.

    `model_updates`, as from `Model.apply_train`, are copied into the average instead of averaged: batch statistics are
    running means already.
    """

    def update_one(state: Any) -> Any:
        if not isinstance(state, EmaState):
            return state
        count = state.count + 1
        weight = (1 - state.decay) / (1 - state.decay ** count.astype(state.decay.dtype))

        def move(old: Any, new: Any) -> Any:
            if _is_masked(old):
                return old
            wide = old.astype(weight.dtype)  # bfloat16 would round small steps away
            return (wide + weight * (new.astype(weight.dtype) - wide)).astype(old.dtype)

        average = jax.tree.map(move, state.average, params, is_leaf=_is_masked)
        return state._replace(count=count, average=apply_model_updates(average, model_updates))

    return jax.tree.map(update_one, opt_state, is_leaf=lambda node: isinstance(node, EmaState))


def evaluation_params(state: TrainState) -> Params:
    """Return the parameters to evaluate and to keep: the EMA if the optimizer tracks one, else the current ones.

    With optax's schedule_free they are `schedule_free_eval_params`. Raises ValueError if the optimizer has more than
    one average of the same parameters, or has transformations after schedule_free.

    >>> evaluation_params(TrainState(params=1.0, opt_state=(), epoch=0, key=None))
    1.0
    """
    averages = [ema.average for ema in find_states(state.opt_state, EmaState)]
    if find_states(state.opt_state, ScheduleFreeState):
        last = last_transformation(state.opt_state)
        if averages or not isinstance(last, ScheduleFreeState):
            raise ValueError(
                "the optimizer must have optax's schedule_free as its last transformation and no EMA, since its "
                "evaluation parameters are computed from the parameters that it returned last"
            )
        return schedule_free_eval_params(last, state.params)
    # Under multi_transform each average covers its own parameters and is masked elsewhere.
    tracked = [[not _is_masked(leaf) for leaf in jax.tree.leaves(tree, is_leaf=_is_masked)] for tree in averages]
    if any(sum(counts) > 1 for counts in zip(*tracked, strict=True)):
        raise ValueError(_ONE_EMA)
    params = state.params
    for average in averages:
        params = jax.tree.map(lambda old, new: new if _is_masked(old) else old, average, params, is_leaf=_is_masked)
    return params


def apply_model_updates(params: Params, updates: Any) -> Params:
    """Return the parameters with those replaced that a model updates itself, such as batch statistics.

    `updates` is the prefix pytree that `Model.apply_train` returns, with None for unchanged parameters.

    >>> apply_model_updates({"scale": 2.0, "mean": 0.0}, {"scale": None, "mean": 0.5})
    {'mean': 0.5, 'scale': 2.0}
    """
    return jax.tree.map(
        lambda new, old: old if new is None or _is_masked(old) else new,
        updates,
        params,
        is_leaf=lambda leaf: leaf is None,
    )


def _is_masked(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)
