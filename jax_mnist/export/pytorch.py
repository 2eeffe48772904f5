"""Conversion of parameters between our layouts and a PyTorch `state_dict`. PyTorch is not imported."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import DictKey, SequenceKey

from ..types import Params
from ..words import count_of

_TORCH_NAMES = {"weights": "weight", "kernel": "weight", "bias": "bias"}
"""The PyTorch name for each name of our leaves."""

_EXPECTED_ORDER = "expected convolutions, then dense layers: pass names={ours: PyTorch's} in PyTorch's order"

Path = tuple[Any, ...]


class _Entry(NamedTuple):
    """One array: its name and shape in the state_dict, and its path and shape in our pytree.

    For weights, `kernel_shape` is [o, i, h, w], as for a convolution: a dense layer is one over its whole input.
    """

    name: str
    path: Path
    torch_shape: tuple[int, ...]
    shape: tuple[int, ...]
    kernel_shape: tuple[int, ...] | None


def from_state_dict(
    state_dict: Mapping[str, Any],
    like: Params,
    *,
    names: Mapping[str, str] | None = None,
    feature_map: Sequence[int] | None = None,
) -> Params:
    """Convert a PyTorch model's `state_dict` to our parameters: `from_state_dict(module.state_dict(), like)`.

    `state_dict` maps names such as "0.weight" to tensors, on any device, or NumPy arrays; the model is a chain of
    convolutions (weight [o, i, h, w]) and linear layers (weight [o, i]). `like` is a pytree with the shapes and
    dtypes to return, such as `jax.eval_shape(model.init, key)`: the layers of `init_params`, or the dicts of a
    Flax module. Linear weights become [i, o] and kernels [h, w, i, o]. The inputs of the linear layer after a
    convolution are reordered from PyTorch's flattened feature map, [c, h, w], to Flax's, [h, w, c]. `feature_map` is
    its (h, w), by default a square; (1, 1) keeps the order.

    Layers are matched by name if both sides have the same names. Otherwise they are matched in order: the order in
    which the PyTorch model was built, and the order of our pytree, which sorts dicts by name. `names` overrides this
    and maps our names to PyTorch's: {"hidden": "0", "head": "2"}. Raises ValueError, naming the entry and what was
    expected, if an entry is missing, unexpected or of the wrong shape, or if layers of equal shape are ambiguous.

    A checkpoint that holds the state_dict under a name, or a module itself, is refused, with what to give.

    >>> from jax_mnist import Layer
    >>> like = (Layer(np.zeros((2, 1), np.float32), np.zeros(1, np.float32)),)
    >>> params = from_state_dict({"0.weight": np.array([[3.0, 4.0]]), "0.bias": np.array([5.0])}, like)
    >>> params[0].weights.tolist(), params[0].bias.tolist()
    ([[3.0], [4.0]], [5.0])
    """
    _check_is_state_dict(state_dict)
    layers = _layers(like)
    torch_layers = _build_order(list(dict.fromkeys(name.rpartition(".")[0] for name in state_dict)))
    entries = _entries(layers, _match(layers, torch_layers, names), feature_map)
    arrays = _checked_arrays(state_dict, entries)
    leaves, structure = jax.tree_util.tree_flatten_with_path(like)
    ours = {entry.path: _to_ours(array, entry) for entry, array in zip(entries, arrays, strict=True)}
    return jax.tree.unflatten(structure, [jnp.asarray(ours[path].astype(leaf.dtype)) for path, leaf in leaves])


def to_state_dict(
    params: Params, *, names: Mapping[str, str] | None = None, feature_map: Sequence[int] | None = None
) -> dict[str, np.ndarray]:
    """Convert our parameters to a PyTorch `state_dict` of NumPy arrays, the inverse of `from_state_dict`.

    `module.load_state_dict({name: torch.from_numpy(array) for name, array in to_state_dict(params).items()})`
    loads them into a module. Numbered layers, such as those of `mlp` and `flax_mlp`, get the names that
    `nn.Sequential` gives them with a ReLU after each layer: "0", "2", "4". Other layers keep their names. `names`
    overrides this and maps our names to PyTorch's, in PyTorch's order: {"conv1": "0", "conv2": "3", "head": "7"}.
    `feature_map` is that of `from_state_dict`. Raises ValueError, naming the layer, if the parameters are not a
    chain of convolutions followed by dense layers.

    >>> from jax_mnist import init_params
    >>> state_dict = to_state_dict(init_params(jax.random.key(0), (784, 30, 1)))
    >>> {name: array.shape for name, array in state_dict.items()}
    {'0.weight': (30, 784), '0.bias': (30,), '2.weight': (1, 30), '2.bias': (1,)}
    """
    layers = _layers(params)
    names = _sequential_names(layers) if names is None else _check_names(layers, names)
    entries = _entries(layers, names, feature_map)
    leaves = dict(jax.tree_util.tree_flatten_with_path(jax.device_get(params))[0])
    return {entry.name: _to_torch(leaves[entry.path], entry) for entry in entries}


def _check_is_state_dict(state_dict: Any) -> None:
    """Raise ValueError, with what to give instead, if something is not a mapping of names to arrays."""

    def is_state_dict(value: Any) -> bool:
        return isinstance(value, Mapping) and all(hasattr(array, "shape") for array in value.values())

    if is_state_dict(state_dict):
        return
    got, hint = type(state_dict).__name__, "; give module.state_dict()" if hasattr(state_dict, "state_dict") else ""
    if isinstance(state_dict, Mapping):
        others = {name: type(value).__name__ for name, value in state_dict.items() if not hasattr(value, "shape")}
        inner = [name for name, value in state_dict.items() if is_state_dict(value) and value]
        got, hint = str(others), f"; give checkpoint[{inner[0]!r}]" if inner else ""
    raise ValueError(f"state_dict must map names to tensors or arrays, got {got}{hint}")


def _to_ours(array: np.ndarray, entry: _Entry) -> np.ndarray:
    if entry.kernel_shape is not None:
        array = array.reshape(entry.kernel_shape).transpose(2, 3, 1, 0)
    return array.reshape(entry.shape)


def _to_torch(array: np.ndarray, entry: _Entry) -> np.ndarray:
    if entry.kernel_shape is not None:
        o, i, h, w = entry.kernel_shape
        array = array.reshape(h, w, i, o).transpose(3, 2, 0, 1)
    return array.reshape(entry.torch_shape).copy()  # torch.from_numpy warns about read-only arrays


Layers = dict[str, dict[str, tuple[Path, tuple[int, ...]]]]
"""Our layers by name: for "weight" and "bias", the path and shape of the leaf."""


def _layers(tree: Params) -> Layers:
    layers: Layers = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        *layer, last = (jax.tree_util.keystr((key,), simple=True) for key in path)
        if last not in _TORCH_NAMES:
            name = ".".join([*layer, last])
            raise ValueError(f"parameters must be layers with only weights (or kernel) and bias, got {name}")
        layers.setdefault(".".join(layer), {})[_TORCH_NAMES[last]] = (path, tuple(leaf.shape))
    for name, arrays in layers.items():
        if len(arrays.get("weight", ((), ()))[1]) not in (2, 4):
            raise ValueError(f"layer {name!r} must have weights [i, o] or [h, w, i, o], got {_shapes(arrays)}")
    return layers


def _shapes(arrays: Mapping[str, tuple[Path, tuple[int, ...]]]) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, (_, shape) in arrays.items())


def _build_order(names: list[str]) -> list[str]:
    """Sort the numbered layers of an nn.Sequential by number: a file may list them as text, "10" before "2"."""
    ends = [name.rpartition(".")[2] for name in names]
    one_parent = len({name.rpartition(".")[0] for name in names}) == 1
    if one_parent and all(end.isdecimal() for end in ends):
        return sorted(names, key=lambda name: int(name.rpartition(".")[2]))
    return names


def _match(layers: Layers, torch_layers: list[str], names: Mapping[str, str] | None) -> dict[str, str]:
    """Return PyTorch's name for each of our layers, in PyTorch's order."""
    if names is not None or layers.keys() == set(torch_layers):
        chosen = {name: name for name in layers} if names is None else _check_names(layers, names)
        positions = {name: i for i, name in enumerate(torch_layers)}
        return dict(sorted(chosen.items(), key=lambda pair: positions.get(pair[1], len(torch_layers))))
    if len(layers) != len(torch_layers):
        expected = "; ".join(f"{name} with {_shapes(arrays)}" for name, arrays in layers.items())
        raise ValueError(
            f"the state_dict holds {count_of(len(torch_layers), 'layer')} ({', '.join(torch_layers)}); expected "
            f"{len(layers)}, in our layout: {expected}"
        )
    _check_unambiguous(layers)
    return dict(zip(layers, torch_layers, strict=True))


def _check_names(layers: Layers, names: Mapping[str, str]) -> Mapping[str, str]:
    if names.keys() != layers.keys() or len(set(names.values())) < len(names):
        raise ValueError(f"names must map each of the layers {sorted(layers)} to a distinct name, got {dict(names)}")
    return names


def _check_unambiguous(layers: Layers) -> None:
    """Check that layers of equal shape are numbered: alphabetical order need not be the forward order."""
    for (name, arrays), (other_name, other_arrays) in itertools.combinations(layers.items(), 2):
        (path, shape), (other_path, other_shape) = arrays["weight"], other_arrays["weight"]
        differing_keys = next(keys for keys in zip(path, other_path, strict=False) if keys[0] != keys[1])
        if shape == other_shape and not all(map(_is_number, differing_keys)):
            raise ValueError(
                f"the layers {name!r} and {other_name!r} have the same shape, {list(shape)}, and their names do not "
                "tell which comes first in PyTorch: pass names={ours: PyTorch's}"
            )


def _is_number(key: Any) -> bool:
    return isinstance(key, SequenceKey) or (isinstance(key, DictKey) and isinstance(key.key, int))


def _sequential_names(layers: Layers) -> dict[str, str]:
    paths = [arrays["weight"][0] for arrays in layers.values()]
    numbered = all(len(path) > 1 and _is_number(path[-2]) and path[:-2] == paths[0][:-2] for path in paths)
    return {name: str(2 * i) if numbered else name for i, name in enumerate(layers)}


def _entries(layers: Layers, names: Mapping[str, str], feature_map: Sequence[int] | None) -> list[_Entry]:
    entries, previous = [], None
    for our_name, torch_name in names.items():
        for name in sorted(layers[our_name], reverse=True):  # "weight", then "bias", as in PyTorch
            path, shape = layers[our_name][name]
            kernel_shape = _kernel_shape(torch_name, shape, previous, feature_map) if name == "weight" else None
            torch_shape = shape if kernel_shape is None else kernel_shape if len(shape) == 4 else shape[::-1]
            entries.append(_Entry(f"{torch_name}.{name}".lstrip("."), path, torch_shape, shape, kernel_shape))
        previous = layers[our_name]["weight"][1]
    return entries


def _kernel_shape(
    name: str, shape: tuple[int, ...], previous: tuple[int, ...] | None, feature_map: Sequence[int] | None
) -> tuple[int, ...]:
    """Return the shape of a layer's weights as a convolution, [o, i, h, w], given the previous layer's weight shape."""
    *window, inputs, outputs = shape
    if window or previous is None:
        if window and previous is not None and len(previous) == 2:
            raise ValueError(f"layer {name!r} is a convolution after a dense layer; {_EXPECTED_ORDER}")
        return outputs, inputs, *(window or (1, 1))
    channels = previous[-1]
    if len(previous) == 4:
        h, w = feature_map or [math.isqrt(inputs // channels)] * 2
        if h * w * channels != inputs and (feature_map is None or h * w != 1):
            raise ValueError(
                f"layer {name!r} takes {inputs} values from a convolution with {channels} channels; expected "
                f"{channels} * h * w of them, with h and w equal or passed as feature_map=(h, w)"
            )
        return outputs, inputs // (h * w), h, w
    if channels != inputs:
        raise ValueError(f"layer {name!r} takes {inputs} values, the one before returns {channels}; {_EXPECTED_ORDER}")
    return outputs, inputs, 1, 1


def _checked_arrays(state_dict: Mapping[str, Any], entries: list[_Entry]) -> list[np.ndarray]:
    expected = {entry.name: entry.torch_shape for entry in entries}
    if missing := [f"{name} {list(shape)}" for name, shape in expected.items() if name not in state_dict]:
        raise ValueError(f"the state_dict has no {', '.join(missing)}; it holds {', '.join(state_dict)}")
    if extra := [name for name in state_dict if name not in expected]:
        raise ValueError(f"the state_dict holds unexpected {', '.join(extra)}; expected only {', '.join(expected)}")
    arrays = []
    for name, shape in expected.items():
        value = state_dict[name]
        # NumPy has no bfloat16. A double holds every value exactly, so only the cast to `like`'s dtype can round.
        array = np.asarray(value.detach().cpu().double() if hasattr(value, "detach") else value)
        if not np.issubdtype(array.dtype, np.number):
            raise ValueError(f"the state_dict's {name} must be a tensor or numeric array, got {type(value).__name__}")
        if array.shape != shape:
            raise ValueError(f"the state_dict's {name} must be {list(shape)}, got {list(array.shape)}")
        arrays.append(array)
    return arrays
