"""Checkpoints: a model's parameters, or a whole training state, in an atomically written safetensors file."""

import hashlib
import importlib.metadata
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import safetensors
import safetensors.numpy

from ..files import atomic_write, name_parse_errors, name_write_errors
from ..types import EpochRecord, Params
from .evaluation import check_params

FORMAT = "jax_mnist checkpoint 2"
_CHECKSUM = re.compile(rb'"sha256":"([0-9a-f]{64})"')
_NO_CHECKSUM = "0" * 64


class Checkpoint(NamedTuple):
    """A training state saved at the end of an epoch, the records of the finished epochs, settings and versions."""

    state: Any
    records: tuple[EpochRecord, ...]
    settings: dict[str, Any]
    versions: dict[str, str]


class DifferentRunError(ValueError):
    """A checkpoint that is valid, but belongs to a different run."""


def save_params(path: str | Path, params: Params) -> None:
    """Write parameters to a safetensors file, keyed by pytree path ("0.weights").

    Replaces an existing file atomically. Raises OSError if the file cannot be written, and ValueError if the parameters
    are not arrays.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "model.safetensors"
    >>> save_params(path, {"bias": np.ones(3, np.float32)})
    >>> load_params(path, {"bias": np.zeros(3, np.float32)})
    {'bias': Array([1., 1., 1.], dtype=float32)}
    """
    check_params(params)
    _write(path, safetensors.numpy.save(_tensors(params)))


def load_params(path: str | Path, like: Params, *, within: str = "") -> Params:
    """Read the parameters that `save_params` wrote, or those `within` a larger pytree that `save_checkpoint` wrote.

    `like` is a pytree with the expected shapes and dtypes, such as `jax.eval_shape(model.init, key)`. `within` is a
    pytree path, such as "params" for a TrainState. Raises FileNotFoundError if the file does not exist, and ValueError,
    naming the file and the array, if the file is damaged or holds other parameters.
    """
    tensors, _ = _read(path, "a model's parameters", verify=bool(within))
    prefix = f"{within}." if within else ""
    return _restore(
        path, {n.removeprefix(prefix): tensor for n, tensor in tensors.items() if n.startswith(prefix)}, like
    )


def save_checkpoint(
    path: str | Path, state: Any, records: Iterable[EpochRecord] = (), settings: dict[str, Any] | None = None
) -> None:
    """Write everything that a run needs to resume bit-identically into one safetensors file.

    `state` is a TrainState or any other pytree of arrays and PRNG keys, `records` are those of the finished epochs, and
    `settings` is any JSON-serializable dict that distinguishes this run from others. The file also stores the library
    versions and its own SHA-256. Replaces an existing file atomically. Raises OSError, naming the file, if it cannot be
    written; an existing file is then unchanged.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "checkpoint-1.safetensors"
    >>> save_checkpoint(path, {"key": jax.random.key(3)}, [EpochRecord(1, 0.5, 0.4, 0.9, 0.1, 0.1)], {"seed": 3})
    >>> checkpoint = load_checkpoint(path, {"key": jax.random.key(0)})
    >>> jax.random.key_data(checkpoint.state["key"]), checkpoint.records[0].accuracy, checkpoint.settings
    (Array([0, 3], dtype=uint32), 0.9, {'seed': 3})
    """
    keys = {name: str(jax.random.key_impl(leaf)) for name, leaf in _by_path(state).items() if _is_key(leaf)}
    notes = {"records": list(records), "settings": settings or {}, "versions": library_versions(), "keys": keys}
    metadata = {name: json.dumps(value) for name, value in notes.items()}
    # The checksum is part of the file that it covers: hash the file with zeros in its place, then insert it.
    data = safetensors.numpy.save(_tensors(state), metadata | {"format": FORMAT, "sha256": _NO_CHECKSUM})
    span = _checksum_span(data)
    assert span is not None
    _write(path, data[: span[0]] + _checksum(data, span).encode() + data[span[1] :])


def load_checkpoint(path: str | Path, like: Any, settings: dict[str, Any] | None = None) -> Checkpoint:
    """Read the checkpoint that `save_checkpoint` wrote.

    `like` is a pytree with the expected shapes and dtypes, such as `jax.eval_shape(...)` of the state. Raises
    FileNotFoundError if the file does not exist, ValueError, naming the file and the reason, if it is damaged, has
    another format or is not a checkpoint, and DifferentRunError, a ValueError, if its settings differ from the given
    ones or its state does not match `like`.
    """
    tensors, metadata = _read(path, "a checkpoint", verify=True)
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path}: the format must be {FORMAT!r}, got {metadata.get('format')!r}")
    with name_parse_errors(path, "checkpoint"):
        notes = {name: json.loads(metadata[name]) for name in ("records", "settings", "versions", "keys")}
        saved_settings, versions = dict(notes["settings"]), dict(notes["versions"])
        records = tuple(EpochRecord(*record) for record in notes["records"])
        for name, impl in notes["keys"].items():
            tensors[name] = jax.random.wrap_key_data(tensors[name], impl=impl)
    if settings is not None:
        expected = json.loads(json.dumps(settings))  # JSON turns a tuple into a list
        names = [n for n in {**saved_settings, **expected} if saved_settings.get(n) != expected.get(n)]
        if differences := [f"{name} {saved_settings.get(name)}, not {expected.get(name)}" for name in names]:
            raise DifferentRunError(f"{path}: belongs to a different run, with {'; '.join(differences)}")
    try:
        state = _restore(path, tensors, like)
    except ValueError as error:
        raise DifferentRunError(str(error)) from error
    return Checkpoint(state, records, saved_settings, versions)


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that determine a run's exact bits."""
    return {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax", "numpy")}


def _checksum_span(data: bytes) -> tuple[int, int] | None:
    """Return the start and end offset of the checksum, which is in the header, or None if there is none."""
    header_end = 8 + int.from_bytes(data[:8], "little")  # a safetensors file begins with the size of its header
    found = _CHECKSUM.search(data, 0, min(header_end, len(data)))
    return found and found.span(1)


def _checksum(data: bytes, span: tuple[int, int]) -> str:
    """Return the SHA-256 of a file, with zeros in place of the checksum that it contains."""
    parts = memoryview(data)
    digest = hashlib.sha256(parts[: span[0]])
    digest.update(_NO_CHECKSUM.encode())
    digest.update(parts[span[1] :])
    return digest.hexdigest()


def _write(path: str | Path, data: bytes) -> None:
    with atomic_write(path) as temporary, name_write_errors(path):
        temporary.write_bytes(data)


def _read(path: str | Path, kind: str, verify: bool = False) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the tensors and the metadata of a safetensors file; with `verify`, check its checksum first."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: there is no such file; expected {kind} (.safetensors)")
    if verify:
        data = Path(path).read_bytes()
        span = _checksum_span(data)
        if span is None:
            raise ValueError(f"{path}: is not a checkpoint, or is damaged (no checksum)")
        if data[span[0] : span[1]] != _checksum(data, span).encode():
            raise ValueError(f"{path}: is damaged (checksum mismatch)")
    try:
        with safetensors.safe_open(path, "np") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path}: is not a readable safetensors file ({error})") from error


def _restore(path: str | Path, tensors: dict[str, Any], like: Any) -> Any:
    """Return the tensors as a pytree with the structure of `like`."""
    expected = _by_path(like)
    if missing := expected.keys() - tensors.keys():
        raise ValueError(f"{path}: has no {sorted(missing)}; it holds {sorted(tensors)}")
    if extra := tensors.keys() - expected.keys():
        raise ValueError(f"{path}: holds {sorted(extra)}, which the model does not have; expected {sorted(expected)}")
    for name, wanted in expected.items():
        found = tensors[name]
        if found.shape != wanted.shape or found.dtype != wanted.dtype:
            is_other_mode = {str(found.dtype), str(wanted.dtype)} == {"float32", "float64"}
            hint = "; set JAX_ENABLE_X64 as it was when the file was written" if is_other_mode else ""
            raise ValueError(
                f"{path}: {name} must be {wanted.dtype} {list(wanted.shape)}, got {found.dtype} {list(found.shape)}"
                + hint
            )
    return jax.tree.unflatten(jax.tree.structure(like), [jax.numpy.asarray(tensors[name]) for name in expected])


def _tensors(tree: Any) -> dict[str, np.ndarray]:
    plain = jax.tree.map(lambda leaf: jax.random.key_data(leaf) if _is_key(leaf) else leaf, tree)
    # safetensors writes an array's memory as it is, ignoring strides: a transposed array must be copied to C order.
    return {name: np.asarray(array, order="C") for name, array in _by_path(jax.device_get(plain)).items()}


def _is_key(leaf: Any) -> bool:
    return jax.numpy.issubdtype(jax.numpy.result_type(leaf), jax.dtypes.prng_key)


def _by_path(tree: Any) -> dict[str, Any]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}
