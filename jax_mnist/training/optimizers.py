"""Any optax optimizer as one call of init and update, and its state searched by type.

An optimizer's state is searched by type and not by name, since a parameter may have any name.
"""

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax
from optax.contrib import DifferentiallyPrivateAggregateState

from ..types import Params

State = TypeVar("State")

INJECTED = "optax.inject_hyperparams(make)(learning_rate=0.1)"


def init_optimizer(optimizer: Any, params: Params) -> Any:
    """Return the optimizer's first state. Raises ValueError, with optax's reason, if the optimizer cannot be used."""
    with _naming_failed_call("init"):
        opt_state = optimizer.init(params)
    if find_states(opt_state, DifferentiallyPrivateAggregateState):
        raise ValueError(
            "the optimizer must take the gradient of a batch, got optax.contrib.dpsgd, which needs one gradient per "
            "example and would take the first axis of each parameter for the examples"
        )
    return opt_state


def update_optimizer(
    optimizer: Any, gradients: Params, opt_state: Any, params: Params, loss: Any, loss_fn: Callable[[Params], Any]
) -> tuple[Any, Any]:
    """Return the optimizer's updates and its next state.

    `loss` [] is the loss at `params` and `loss_fn` the function params -> loss, which line searches evaluate. Raises
    ValueError, with optax's reason, if the call fails or changes the structure, shapes or dtypes of the state.
    """
    # Line searches and a few others take the loss, the gradients and the loss function as well.
    extra_args = {"value": loss, "grad": gradients, "value_fn": loss_fn}
    parameters = inspect.signature(optimizer.update).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        extra_args = {name: value for name, value in extra_args.items() if name in parameters}
    with _naming_failed_call("update"):
        updates, next_state = optimizer.update(gradients, opt_state, params, **extra_args)
        if (before := _kinds(opt_state)) != (after := _kinds(next_state)):
            raise TypeError(f"the state must keep its structure, shapes and dtypes: {before} became {after}")
    return updates, next_state


def _kinds(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: f"{leaf.dtype} {list(leaf.shape)}", jax.eval_shape(lambda: tree))


@contextlib.contextmanager
def _naming_failed_call(method: str) -> Iterator[None]:
    """Turn any exception of an optax optimizer into a ValueError that names the method and gives optax's reason."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"the optimizer's {method} failed ({type(error).__name__}: {error})") from error


def find_states(opt_state: Any, kind: type[State]) -> list[State]:
    """Return the states of one type in an optimizer's state, wherever they are, outermost only.

    >>> optimizer = optax.chain(optax.clip(1.0), optax.sgd(0.1, momentum=0.9))
    >>> find_states(optimizer.init(jnp.zeros(2)), optax.TraceState)
    [TraceState(trace=Array([0., 0.], dtype=float32))]
    """
    leaves = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, kind))
    return [leaf for leaf in leaves if isinstance(leaf, kind)]


def last_transformation(opt_state: Any) -> Any:
    """Return the state of the last transformation of a chain, which determines the updates."""
    if isinstance(opt_state, optax.InjectStatefulHyperparamsState):
        return last_transformation(opt_state.inner_state)
    if type(opt_state) is tuple and opt_state:
        return last_transformation(opt_state[-1])
    return opt_state


def set_learning_rate(opt_state: Any, learning_rate: Any) -> Any:
    """Return the optimizer's state with another learning rate, which `optax.inject_hyperparams` keeps in it.

    For a schedule, the number is its peak: `make` in `optax.inject_hyperparams(make)` builds the schedule from it.
    Raises ValueError, with the line to write, if the state has no learning rate, more than one, or one that a schedule
    overwrites at each step.

    >>> state = optax.inject_hyperparams(optax.sgd)(learning_rate=0.1).init(jnp.zeros(2))
    >>> set_learning_rate(state, 0.5).hyperparams["learning_rate"]
    Array(0.5, dtype=float32)
    """
    kind = optax.InjectStatefulHyperparamsState
    injected = [state for state in find_states(opt_state, kind) if "learning_rate" in state.hyperparams]
    if len(injected) != 1:
        raise ValueError(
            f"to set the learning rate, the optimizer must be {INJECTED}, where make is a function of the learning "
            f"rate, such as optax.sgd; got an optimizer with {len(injected)} such states"
        )
    if "learning_rate" in injected[0].hyperparams_states:
        raise ValueError(
            "the learning rate must be a number, got a schedule, which overwrites it at each step: give its peak, "
            f"{INJECTED} with make = lambda learning_rate: optax.sgd(lambda step: learning_rate * shape(step))"
        )

    def replace(state: Any) -> Any:
        if not isinstance(state, kind) or "learning_rate" not in state.hyperparams:
            return state
        old: Any = state.hyperparams["learning_rate"]
        return state._replace(hyperparams=state.hyperparams | {"learning_rate": jnp.asarray(learning_rate, old.dtype)})

    return jax.tree.map(replace, opt_state, is_leaf=lambda node: isinstance(node, kind))
