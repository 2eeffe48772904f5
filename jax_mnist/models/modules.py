"""A Flax NNX module as a Model: split when it is initialized, merged when it is applied."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from ..types import Model, Params
from .conv import conv_general_dilated

_STREAMS = nnx.RngState
_HELD = nnx.Not(nnx.Any(_STREAMS, nnx.Intermediate))


def from_flax(make: Callable[[nnx.Rngs], nnx.Module], input_shape: Sequence[int] | None = None) -> Model:
    """A Flax NNX module of one's own as a Model.

    `make(rngs)` builds it. Its call takes x float [b, h*w*c] with pixels in [0, 1], or, with `input_shape`,
    `x [b, *input_shape]`, such as (28, 28, 1) for convolutions; it may name `rngs`, which it gets while it trains, and
    needs no other argument. Parameters are a plain nested dict, as from `nnx.to_pure_dict`.

    Dropout and batch statistics work as after `module.train()` in a step and as after `module.eval()` elsewhere. The
    statistics are those of the whole batch, over all devices; where the images do not fill the last batch, the epoch's
    first ones do, in the statistics alone. They lie among the parameters, where a step overwrites them and, as with all
    that is no `nnx.Param`, no gradient reaches them. An `nnx.Conv` is computed by `conv2d`, which a CPU runs faster,
    where `conv2d` has what it asks for.

    Raises ValueError for a module that holds arrays that are no `nnx.Variable` or no floats, beside those that count
    random numbers; and in a step for one that writes an `nnx.Param` while it is called, as `nnx.SpectralNorm` does.

    >>> class Net(nnx.Module):
    ...     def __init__(self, rngs):
    ...         self.hidden, self.out = nnx.Linear(784, 30, rngs=rngs), nnx.Linear(30, 10, rngs=rngs)
    ...         self.norm, self.dropout = nnx.BatchNorm(30, rngs=rngs), nnx.Dropout(0.1, rngs=rngs)
    ...
    ...     def __call__(self, x):
    ...         return self.out(self.dropout(nnx.relu(self.norm(self.hidden(x)))))
    >>> model = from_flax(Net)
    >>> params = model.init(jax.random.key(0))
    >>> model.apply(params, jnp.zeros((2, 784))).shape, sorted(params["norm"])
    ((2, 10), ['bias', 'mean', 'scale', 'var'])
    """
    if isinstance(make, nnx.Module):
        raise ValueError(f"give what makes the module, such as lambda rngs: Net(rngs), not a {type(make).__name__}")
    graph, held, streams = jax.eval_shape(lambda: _split(make(nnx.Rngs(0))))
    _check_floats(held)
    fixed = nnx.to_pure_dict(nnx.map_state(lambda path, variable: not isinstance(variable, nnx.Param), held))
    paths = {path for path, _ in nnx.to_flat_state(held)}
    call = getattr(nnx.merge(graph, held, streams), "__call__", None)  # noqa: B004, its signature is what is asked
    takes_rngs = call is not None and "rngs" in inspect.signature(call).parameters

    def init(key: PRNGKeyArray) -> Params:
        return nnx.to_pure_dict(nnx.state(make(nnx.Rngs(key)), _HELD))

    def merge(params: Params, key: PRNGKeyArray) -> Any:
        moved = jax.tree.map(lambda fixed, leaf: lax.stop_gradient(leaf) if fixed else leaf, fixed, params)
        return nnx.merge(graph, moved, _seeded(streams, key))

    def shaped(x: Float[Array, "b i"]) -> Array:
        return x if input_shape is None else x.reshape(x.shape[0], *input_shape)

    def apply(params: Params, x: Float[Array, "b i"]) -> Any:
        module = merge(params, jax.random.key(0))
        module.eval()
        return module(shaped(x))

    def train(params: Params, x: Float[Array, "b i"], key: PRNGKeyArray) -> tuple[Any, Params]:
        streams_key, call_key = jax.random.split(key)
        module = merge(params, streams_key)
        module.train()
        scores = module(shaped(x), **({"rngs": nnx.Rngs(call_key)} if takes_rngs else {}))
        after = nnx.to_pure_dict(nnx.state(module, lambda path, _: tuple(path) in paths))
        return scores, jax.tree_util.tree_map_with_path(_change, fixed, params, after)

    differs = takes_rngs or any(jax.tree.leaves(fixed)) or jax.tree.leaves(streams)
    return Model(init, apply, train if differs else None)


def _split(module: Any) -> tuple[Any, Any, Any]:
    """The module's structure, with fast convolutions, its parameters and statistics, and its random streams."""
    if not isinstance(module, nnx.Module):
        raise ValueError(f"a Flax NNX module is needed, not a {type(module).__name__}")
    parts = list(nnx.iter_modules(module))
    for _, part in parts:
        if isinstance(part, nnx.Conv) and part.conv_general_dilated is lax.conv_general_dilated:
            part.conv_general_dilated = conv_general_dilated
    graph, held, streams, _ = nnx.split(module, _HELD, _STREAMS, ...)
    # Flax takes a traced array that is no variable for a constant of the structure, which would outlive its trace.
    found = {path for path, _ in nnx.to_flat_state(held)}
    arrays = [(*path, name) for path, part in parts for name, leaf in vars(part).items() if isinstance(leaf, jax.Array)]
    if plain := [".".join(map(str, path)) for path in arrays if path not in found]:
        raise ValueError(
            f"the module holds arrays that are no nnx.Variable: {', '.join(plain)}; make them nnx.Variable"
        )
    return graph, held, streams


def _check_floats(held: Any) -> None:
    others = [
        f"{jax.tree_util.keystr(path, simple=True, separator='.')} ({leaf.dtype})"
        for path, leaf in jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(held))
        if not jnp.issubdtype(leaf.dtype, jnp.floating)
    ]
    if others:
        raise ValueError(f"a Model's parameters and statistics are floats; the module holds {', '.join(others)}")


def _seeded(streams: Any, key: PRNGKeyArray) -> Any:
    """The module's random streams from their start, each with a key of its own."""
    leaves, structure = jax.tree.flatten(streams)
    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(structure, [_seeded_leaf(leaf, keys[i]) for i, leaf in enumerate(leaves)])


def _seeded_leaf(leaf: Any, key: PRNGKeyArray) -> Array:
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.random.split(key, leaf.shape) if is_key else jnp.zeros(leaf.shape, leaf.dtype)


def _change(path: Any, fixed: bool, before: Array, after: Array) -> Array | None:
    if not fixed and after is not before:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        raise ValueError(f"the module writes its parameter {name} while it is called, which a Model cannot carry")
    return after.astype(before.dtype) if fixed else None
