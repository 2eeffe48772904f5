"""A model's parameters, or all of a training run's state, in a safetensors file, written whole or not at all."""

import hashlib
import importlib.metadata
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import safetensors
import safetensors.numpy

from ..files import atomic_write, name_parse_errors, name_write_errors
from ..types import EpochRecord, Params

FORMAT = "jax_mnist checkpoint 1"
_CHECKSUM = re.compile(rb'"sha256":"([0-9a-f]{64})"')
_NO_CHECKSUM = "0" * 64


class Checkpoint(NamedTuple):
    """A run between two epochs: its state, the rows of the epochs done, its settings, and the versions it ran on."""

    state: Any
    rows: tuple[EpochRecord, ...]
    settings: dict[str, Any]
    versions: dict[str, str]


class DifferentRunError(ValueError):
    """A checkpoint that is whole, but of another run than the one that wants to go on from it."""


def save_params(path: str | Path, params: Params) -> None:
    """Write parameters to a safetensors file, named by their way through the pytree ("0.weights").

    A file that was there is replaced in one step. Raises OSError where it cannot be written.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "model.safetensors"
    >>> save_params(path, {"bias": np.ones(3, np.float32)})
    >>> load_params(path, {"bias": np.zeros(3, np.float32)})
    {'bias': Array([1., 1., 1.], dtype=float32)}
    """
    _write(path, safetensors.numpy.save(_tensors(params)))


def load_params(path: str | Path, like: Params) -> Params:
    """Read the parameters that `save_params` wrote.

    `like` is a pytree of the shapes and dtypes to expect, such as `jax.eval_shape(model.init, key)`. Raises
    FileNotFoundError where there is no file, ValueError, naming the file and the array, for one that is damaged
    or holds other parameters.
    """
    return _restore(path, _read(path, "a model's parameters")[0], like)


def save_checkpoint(
    path: str | Path, state: Any, rows: Iterable[EpochRecord] = (), settings: dict[str, Any] | None = None
) -> None:
    """Write all that a run needs to go on, and end with the same bits, into one safetensors file.

    `state` is a TrainState or any other pytree of arrays and keys, `rows` are the epochs done and `settings` whatever
    JSON holds that tells this run from others. The versions of the libraries and a sha256 of the whole file are added.
    A file that was there is replaced in one step. Raises OSError, naming the file, where it cannot be written; what was
    there then stays.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "checkpoint-1.safetensors"
    >>> save_checkpoint(path, {"key": jax.random.key(3)}, [EpochRecord(1, 0.5, 0.4, 0.9, 0.1, 0.1)], {"seed": 3})
    >>> checkpoint = load_checkpoint(path, {"key": jax.random.key(0)})
    >>> jax.random.key_data(checkpoint.state["key"]), checkpoint.rows[0].accuracy, checkpoint.settings
    (Array([0, 3], dtype=uint32), 0.9, {'seed': 3})
    """
    notes = {"rows": list(rows), "settings": settings or {}, "versions": library_versions(), "keys": _key_kinds(state)}
    metadata = {name: json.dumps(value) for name, value in notes.items()}
    data = safetensors.numpy.save(_tensors(state), metadata | {"format": FORMAT, "sha256": _NO_CHECKSUM})
    place = _checksum_place(data)
    assert place is not None
    _write(path, data[: place[0]] + _checksum(data, place).encode() + data[place[1] :])


def load_checkpoint(path: str | Path, like: Any, settings: dict[str, Any] | None = None) -> Checkpoint:
    """Read the checkpoint that `save_checkpoint` wrote.

    `like` is a pytree of the shapes and dtypes to expect, such as `jax.eval_shape(...)` of the state. Raises
    FileNotFoundError where there is no file, ValueError, naming the file and the reason, for one that is damaged, of
    another format or no checkpoint, and its kind DifferentRunError where the settings are not the given ones or the
    state is not like `like`.
    """
    tensors, metadata = _read(path, "a checkpoint", _verify)
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path}: has the format {metadata.get('format')!r}; expected {FORMAT!r}")
    with name_parse_errors(path, "checkpoint"):
        notes = {name: json.loads(metadata[name]) for name in ("rows", "settings", "versions", "keys")}
        found, versions = dict(notes["settings"]), dict(notes["versions"])
        rows = tuple(EpochRecord(*row) for row in notes["rows"])
        for name, kind in notes["keys"].items():
            tensors[name] = jax.random.wrap_key_data(tensors[name], impl=kind)
    if settings is not None and (others := _differences(found, settings)):
        raise DifferentRunError(f"{path}: is of another run, with {'; '.join(others)}")
    try:
        state = _restore(path, tensors, like)
    except ValueError as error:
        raise DifferentRunError(str(error)) from error
    return Checkpoint(state, rows, found, versions)


def _verify(path: str | Path) -> None:
    data = Path(path).read_bytes()
    place = _checksum_place(data)
    if place is None:
        raise ValueError(f"{path}: is no checkpoint, or a damaged one: it has no checksum")
    if data[place[0] : place[1]] != _checksum(data, place).encode():
        raise ValueError(f"{path}: is damaged: its contents are not those that its checksum was made of")


def _differences(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    wanted = json.loads(json.dumps(wanted))  # a tuple comes back as a list
    names = [name for name in {**found, **wanted} if found.get(name) != wanted.get(name)]
    return [f"{name} {found.get(name)}, not {wanted.get(name)}" for name in names]


def library_versions() -> dict[str, str]:
    """The versions of the libraries that a run's bits depend on."""
    return {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax", "numpy")}


def _checksum_place(data: bytes) -> tuple[int, int] | None:
    found = _CHECKSUM.search(data, 0, min(8 + int.from_bytes(data[:8], "little"), len(data)))
    return found and found.span(1)


def _checksum(data: bytes, place: tuple[int, int]) -> str:
    """The sha256 of a file whose checksum, which is part of it, is taken to be zeros."""
    parts = memoryview(data)
    digest = hashlib.sha256(parts[: place[0]])
    digest.update(_NO_CHECKSUM.encode())
    digest.update(parts[place[1] :])
    return digest.hexdigest()


def _write(path: str | Path, data: bytes) -> None:
    with atomic_write(path) as temporary, name_write_errors(path):
        temporary.write_bytes(data)


def _read(
    path: str | Path, what: str, verify: Callable[[str | Path], None] = lambda path: None
) -> tuple[dict[str, Any], dict[str, str]]:
    """The tensors and the metadata of a safetensors file."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: there is no such file; expected {what} (.safetensors)")
    verify(path)
    try:
        with safetensors.safe_open(path, "np") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path}: is no readable safetensors file ({error})") from error


def _restore(path: str | Path, tensors: dict[str, Any], like: Any) -> Any:
    """The tensors as a pytree like `like`."""
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


def _tensors(tree: Any) -> dict[str, np.ndarray]:
    # safetensors writes a transposed array's memory as it lies, not as it reads: the copy must be in C order.
    plain = jax.tree.map(lambda leaf: jax.random.key_data(leaf) if _is_key(leaf) else leaf, tree)
    return {name: np.asarray(array, order="C") for name, array in _named(jax.device_get(plain)).items()}


def _key_kinds(tree: Any) -> dict[str, str]:
    return {name: str(jax.random.key_impl(leaf)) for name, leaf in _named(tree).items() if _is_key(leaf)}


def _is_key(leaf: Any) -> bool:
    return jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _named(tree: Any) -> dict[str, Any]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}
