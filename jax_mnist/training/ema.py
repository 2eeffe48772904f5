"""An exponential moving average of the parameters, kept in the optimizer's state and judged in their place."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ..types import Params, TrainState


class EmaState(NamedTuple):
    """The optimizer's own state, the number of its steps so far, and the average of the parameters after each."""

    inner: Any
    count: jax.Array  # pyright: ignore[reportIncompatibleMethodOverride]
    average: Params


def with_ema(optimizer: optax.GradientTransformation, decay: float) -> optax.GradientTransformation:
    """The optimizer, its state holding the exponential moving average of the parameters as well.

    The steps are the optimizer's own. Of the average each step keeps `decay`, in (0, 1); it is that of the steps so far
    alone, without the start, as `optax.ema` gives it when debiased. `evaluation_params` takes it out of a TrainState.
    Raises ValueError for a decay outside (0, 1).

    >>> optimizer = with_ema(optax.sgd(1.0), decay=0.5)
    >>> params = jnp.array(3.0)
    >>> state = optimizer.init(params)
    >>> for _ in range(2):  # 2, 1
    ...     updates, state = optimizer.update(jnp.array(1.0), state, params)
    ...     params = optax.apply_updates(params, updates)
    >>> round(float(state.average), 4)  # (0.25 * 2 + 0.5 * 1) / 0.75
    1.3333
    """
    if not 0 < decay < 1:
        raise ValueError(f"an average's decay must be in (0, 1), such as 0.999, not {decay}")

    def init(params: Params) -> EmaState:
        return EmaState(optimizer.init(params), jnp.zeros((), jnp.int32), params)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        updates, inner = optimizer.update(updates, state.inner, params)
        count = state.count + 1
        share = (1 - decay) / (1 - decay ** count.astype(float))
        average = optax.incremental_update(optax.apply_updates(params, updates), state.average, share)
        average = jax.tree.map(lambda new, old: new.astype(old.dtype), average, state.average)
        return updates, EmaState(inner, count, average)

    return optax.GradientTransformation(init, update)


def evaluation_params(state: TrainState) -> Params:
    """The parameters to judge and to use: the average where the optimizer keeps one, else those of the last step.

    >>> evaluation_params(TrainState(params=1.0, opt_state=(), epoch=0, key=None))
    1.0
    """
    return state.opt_state.average if isinstance(state.opt_state, EmaState) else state.params


def apply_model_updates(state: TrainState, changes: Any) -> TrainState:
    """The state with what a model has changed by itself put into its parameters, and into their average as it is.

    `changes` is what `Model.train` returns: a pytree like the parameters, or the beginning of one, with None in the
    place of what stays.

    >>> state = TrainState({"scale": 2.0, "mean": 0.0}, opt_state=(), epoch=0, key=None)
    >>> apply_model_updates(state, {"scale": None, "mean": 0.5}).params
    {'mean': 0.5, 'scale': 2.0}
    """

    def laid(params: Params) -> Params:
        return jax.tree.map(lambda new, old: old if new is None else new, changes, params, is_leaf=lambda x: x is None)

    if isinstance(state.opt_state, EmaState):
        state = state._replace(opt_state=state.opt_state._replace(average=laid(state.opt_state.average)))
    return state._replace(params=laid(state.params))
