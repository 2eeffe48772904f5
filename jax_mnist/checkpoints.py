"""Parameters in a file: safetensors, one named tensor for each array, written whole or not at all."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy

from .files import replacing
from .types import Params


def save_params(path: str | Path, params: Params) -> None:
    """Write parameters to a safetensors file, named by their way through the pytree ("0.weights").

    A file that was there is replaced in one step. Raises OSError where it cannot be written.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "model.safetensors"
    >>> save_params(path, {"bias": np.ones(3, np.float32)})
    >>> load_params(path, {"bias": np.zeros(3, np.float32)})
    {'bias': Array([1., 1., 1.], dtype=float32)}
    """
    # safetensors writes a transposed array's memory as it lies, not as it reads: the copy must be contiguous.
    tensors = {name: np.ascontiguousarray(array) for name, array in _named(jax.device_get(params)).items()}
    with replacing(path) as temporary:
        safetensors.numpy.save_file(tensors, temporary)


def load_params(path: str | Path, like: Params) -> Params:
    """Read the parameters that `save_params` wrote.

    `like` is a pytree of the shapes and dtypes to expect, such as `jax.eval_shape(model.init, key)`. Raises
    FileNotFoundError where there is no file, ValueError, naming the file and the array, for one that is damaged
    or holds other parameters.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: there is no such file; expected a model's parameters (.safetensors)")
    try:
        tensors = safetensors.numpy.load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path}: is no readable safetensors file ({error})") from error
    expected = _named(like)
    if missing := expected.keys() - tensors.keys():
        raise ValueError(f"{path}: has no {sorted(missing)}; it holds {sorted(tensors)}")
    if extra := tensors.keys() - expected.keys():
        raise ValueError(f"{path}: holds {sorted(extra)}, which the model lacks; expected {sorted(expected)}")
    for name, wanted in expected.items():
        found = tensors[name]
        if found.shape != wanted.shape or found.dtype != wanted.dtype:
            raise ValueError(
                f"{path}: {name} is {found.dtype} {list(found.shape)}; expected {wanted.dtype} {list(wanted.shape)}"
            )
    return jax.tree.unflatten(jax.tree.structure(like), [jax.numpy.asarray(tensors[name]) for name in expected])


def _named(tree: Params) -> dict[str, Any]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}
