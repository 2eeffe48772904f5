"""Parameters to and from PyTorch: a model's `state_dict` in our layouts and back. PyTorch is not imported."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import DictKey, SequenceKey

from ..types import Params

_ENTRY = {"weights": "weight", "kernel": "weight", "bias": "bias"}
"""What our leaves are called in PyTorch."""

_IN_ORDER = "expected convolutions, then dense layers, in PyTorch's order: give names={ours: PyTorch's} in it"

Path = tuple[Any, ...]


class _Entry(NamedTuple):
    """One array on both sides: its name in the state_dict, its place in our pytree, its shape there and here.

    Weights are also seen as a convolution's, `kernel` [o, i, h, w]: a dense layer is one over its whole input.
    """

    name: str
    path: Path
    torch_shape: tuple[int, ...]
    shape: tuple[int, ...]
    kernel: tuple[int, ...] | None


def from_state_dict(
    state_dict: Mapping[str, Any],
    like: Params,
    *,
    names: Mapping[str, str] | None = None,
    feature_map: Sequence[int] | None = None,
) -> Params:
    """Our parameters from those of a PyTorch model: `from_state_dict(module.state_dict(), like)`.

    `state_dict` maps names such as "0.weight" to tensors, on any device, or NumPy arrays; the model is a chain of
    convolutions (weight [o, i, h, w]) and linear layers (weight [o, i]). `like` is a pytree of the shapes and
    dtypes to return, such as `jax.eval_shape(model.init, key)`: the layers of `init_params`, or the dicts of a
    Flax module. Linear weights become [i, o], kernels [h, w, i, o], and the linear layer after a convolution
    reads the flattened feature map as Flax does, [h, w, c], not as PyTorch does, [c, h, w]. `feature_map` is its
    (h, w), by default a square; (1, 1) leaves the order as it is.

    Layers meet by name where both sides have the same names, else in order: that in which PyTorch's model was
    built, and ours in the pytree, where a dict is sorted by name. `names` says otherwise, from ours to PyTorch's:
    {"hidden": "0", "head": "2"}. Raises ValueError, naming the entry and what was expected, for one that is
    missing, left over or of another shape, and where layers of one shape could be mixed up.

    >>> from jax_mnist import Layer
    >>> like = (Layer(np.zeros((2, 1), np.float32), np.zeros(1, np.float32)),)
    >>> params = from_state_dict({"0.weight": np.array([[3.0, 4.0]]), "0.bias": np.array([5.0])}, like)
    >>> params[0].weights.tolist(), params[0].bias.tolist()
    ([[3.0], [4.0]], [5.0])
    """
    layers = _layers(like)
    theirs = _build_order(list(dict.fromkeys(name.rpartition(".")[0] for name in state_dict)))
    entries = _entries(layers, _match(layers, theirs, names), feature_map)
    arrays = _checked(state_dict, entries)
    leaves, structure = jax.tree_util.tree_flatten_with_path(like)
    ours = {entry.path: _to_ours(array, entry) for entry, array in zip(entries, arrays, strict=True)}
    return jax.tree.unflatten(structure, [jnp.asarray(ours[path].astype(leaf.dtype)) for path, leaf in leaves])


def to_state_dict(
    params: Params, *, names: Mapping[str, str] | None = None, feature_map: Sequence[int] | None = None
) -> dict[str, np.ndarray]:
    """A PyTorch model's `state_dict` from our parameters, as NumPy arrays: the way back of `from_state_dict`.

    `module.load_state_dict({name: torch.from_numpy(array) for name, array in to_state_dict(params).items()})`
    takes them into a module. Layers by number, as those of `mlp` and `flax_mlp`, get the names that
    `nn.Sequential` gives them with a ReLU after each, "0", "2", "4"; others keep their own. `names` says
    otherwise, from ours to PyTorch's and in PyTorch's order: {"conv1": "0", "conv2": "3", "head": "7"}.
    `feature_map` is that of `from_state_dict`. Raises ValueError, naming the layer, for parameters that are no
    chain of convolutions and then dense layers.

    >>> from jax_mnist import init_params
    >>> state_dict = to_state_dict(init_params(jax.random.key(0), (784, 30, 1)))
    >>> {name: array.shape for name, array in state_dict.items()}
    {'0.weight': (30, 784), '0.bias': (30,), '2.weight': (1, 30), '2.bias': (1,)}
    """
    layers = _layers(params)
    entries = _entries(layers, _check_names(layers, _sequential(layers) if names is None else names), feature_map)
    leaves = dict(jax.tree_util.tree_flatten_with_path(jax.device_get(params))[0])
    return {entry.name: _to_torch(leaves[entry.path], entry) for entry in entries}


def _to_ours(array: np.ndarray, entry: _Entry) -> np.ndarray:
    if entry.kernel is not None:
        array = array.reshape(entry.kernel).transpose(2, 3, 1, 0)
    return array.reshape(entry.shape)


def _to_torch(array: np.ndarray, entry: _Entry) -> np.ndarray:
    if entry.kernel is not None:
        o, i, h, w = entry.kernel
        array = array.reshape(h, w, i, o).transpose(3, 2, 0, 1)
    return array.reshape(entry.torch_shape).copy()  # copied, since torch.from_numpy warns of read-only arrays


Layers = dict[str, dict[str, tuple[Path, tuple[int, ...]]]]
"""Our layers by name, each with the path and shape of its weight and bias."""


def _layers(tree: Params) -> Layers:
    layers: Layers = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        *layer, last = (jax.tree_util.keystr((key,), simple=True) for key in path)
        if last not in _ENTRY:
            raise ValueError(f"{'.'.join([*layer, last])}: expected layers of weights (or kernel) and bias alone")
        layers.setdefault(".".join(layer), {})[_ENTRY[last]] = (path, tuple(leaf.shape))
    for name, arrays in layers.items():
        if len(arrays.get("weight", ((), ()))[1]) not in (2, 4):
            raise ValueError(f"layer {name!r}: expected weights [i, o] or [h, w, i, o], not {_shapes(arrays)}")
    return layers


def _shapes(arrays: Mapping[str, tuple[Path, tuple[int, ...]]]) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, (_, shape) in arrays.items())


def _build_order(names: list[str]) -> list[str]:
    """nn.Sequential numbers its layers as it was built; a file may have sorted them as text, "10" before "2"."""
    ends = [name.rpartition(".")[2] for name in names]
    one_parent = len({name.rpartition(".")[0] for name in names}) == 1
    if one_parent and all(end.isdecimal() for end in ends):
        return sorted(names, key=lambda name: int(name.rpartition(".")[2]))
    return names


def _match(layers: Layers, theirs: list[str], names: Mapping[str, str] | None) -> dict[str, str]:
    """PyTorch's name for each of our layers, in PyTorch's order."""
    if names is not None or layers.keys() == set(theirs):
        chosen = {name: name for name in layers} if names is None else _check_names(layers, names)
        place = {name: i for i, name in enumerate(theirs)}
        return dict(sorted(chosen.items(), key=lambda pair: place.get(pair[1], len(theirs))))
    if len(layers) != len(theirs):
        expected = "; ".join(f"{name} with {_shapes(arrays)}" for name, arrays in layers.items())
        raise ValueError(
            f"the state_dict holds {len(theirs)} layers ({', '.join(theirs)}); expected {len(layers)}, "
            f"of our shapes: {expected}"
        )
    _check_order_is_known(layers)
    return dict(zip(layers, theirs, strict=True))


def _check_names(layers: Layers, names: Mapping[str, str]) -> Mapping[str, str]:
    if names.keys() != layers.keys() or len(set(names.values())) < len(names):
        raise ValueError(f"names must give each of the layers {sorted(layers)} a name of its own, not {dict(names)}")
    return names


def _check_order_is_known(layers: Layers) -> None:
    for (one, first), (other, second) in itertools.combinations(layers.items(), 2):
        (path, shape), (other_path, other_shape) = first["weight"], second["weight"]
        where_they_part = next(keys for keys in zip(path, other_path, strict=False) if keys[0] != keys[1])
        if shape == other_shape and not all(map(_is_number, where_they_part)):
            raise ValueError(
                f"the layers {one!r} and {other!r} have one shape, {list(shape)}, and their names do not say which "
                "comes first in PyTorch: give names={ours: PyTorch's}"
            )


def _is_number(key: Any) -> bool:
    return isinstance(key, SequenceKey) or (isinstance(key, DictKey) and isinstance(key.key, int))


def _sequential(layers: Layers) -> dict[str, str]:
    paths = [arrays["weight"][0] for arrays in layers.values()]
    numbered = all(len(path) > 1 and _is_number(path[-2]) and path[:-2] == paths[0][:-2] for path in paths)
    return {name: str(2 * i) if numbered else name for i, name in enumerate(layers)}


def _entries(layers: Layers, names: Mapping[str, str], feature_map: Sequence[int] | None) -> list[_Entry]:
    entries, before = [], None
    for our_name, their_name in names.items():
        for name in sorted(layers[our_name], reverse=True):  # "weight", then "bias", as in PyTorch
            path, shape = layers[our_name][name]
            kernel = _kernel(their_name, shape, before, feature_map) if name == "weight" else None
            torch_shape = shape if kernel is None else kernel if len(shape) == 4 else shape[::-1]
            entries.append(_Entry(f"{their_name}.{name}".lstrip("."), path, torch_shape, shape, kernel))
        before = layers[our_name]["weight"][1]
    return entries


def _kernel(
    name: str, shape: tuple[int, ...], before: tuple[int, ...] | None, feature_map: Sequence[int] | None
) -> tuple[int, ...]:
    """A layer's weights as a convolution's [o, i, h, w], from our shape and that of the layer before it."""
    *window, inputs, outputs = shape
    if window or before is None:
        if window and before is not None and len(before) == 2:
            raise ValueError(f"layer {name!r} is a convolution after a dense layer; {_IN_ORDER}")
        return outputs, inputs, *(window or (1, 1))
    channels = before[-1]
    if len(before) == 4:
        h, w = feature_map or [math.isqrt(inputs // channels)] * 2
        if h * w * channels != inputs and (feature_map is None or h * w != 1):
            raise ValueError(
                f"layer {name!r} takes {inputs} values from a convolution of {channels} channels; expected "
                f"{channels} * h * w of them, with h and w equal or given as feature_map=(h, w)"
            )
        return outputs, inputs // (h * w), h, w
    if channels != inputs:
        raise ValueError(f"layer {name!r} takes {inputs} values, the one before it gives {channels}; {_IN_ORDER}")
    return outputs, inputs, 1, 1


def _checked(state_dict: Mapping[str, Any], entries: list[_Entry]) -> list[np.ndarray]:
    expected = {entry.name: entry.torch_shape for entry in entries}
    if missing := [f"{name} {list(shape)}" for name, shape in expected.items() if name not in state_dict]:
        raise ValueError(f"the state_dict has no {', '.join(missing)}; it holds {', '.join(state_dict)}")
    if extra := [name for name in state_dict if name not in expected]:
        raise ValueError(f"the state_dict holds {', '.join(extra)}, which has no place; expected {', '.join(expected)}")
    arrays = [_as_array(name, state_dict[name]) for name in expected]
    for array, (name, shape) in zip(arrays, expected.items(), strict=True):
        if array.shape != shape:
            raise ValueError(f"the state_dict's {name} is {list(array.shape)}; expected {list(shape)}")
    return arrays


def _as_array(name: str, value: Any) -> np.ndarray:
    # .double() since NumPy has no bfloat16; the way to the dtype of `like` is exact
    array = np.asarray(value.detach().cpu().double() if hasattr(value, "detach") else value)
    if not np.issubdtype(array.dtype, np.number):
        raise ValueError(f"the state_dict's {name} is {type(value).__name__}; expected a tensor or an array of numbers")
    return array
