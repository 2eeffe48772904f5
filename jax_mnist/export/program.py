"""A trained model as one portable file: the compiled program with the weights inside, run without the model's code.

The file is a plain zip archive with two entries, `program` and `about.json`. A process that has jax and flatbuffers
alone runs it in these lines:

    import json, zipfile
    import jax.export

    with zipfile.ZipFile("digits.jaxexport") as file:
        exported = jax.export.deserialize(file.read("program"))
        classes = json.loads(file.read("about.json"))["classes"]
    logits = exported.call(images)  # images uint8 [b, 28, 28], light on dark -> logits [b, c]
"""

import json
import math
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from ..files import atomic_write, name_parse_errors
from ..pixels import to_float
from ..types import Model, Params

PLATFORMS = "cpu", "cuda", "tpu"
_PROGRAM, _ABOUT, _FORMAT = "program", "about.json", "jax_mnist model, version 1"


class ExportedModel(NamedTuple):
    """A model read from a file: `logits(images uint8 [b, *image_shape]) -> [b, c]`, and the name of each class."""

    logits: Callable[[Any], Any]
    classes: tuple[str, ...]
    image_shape: tuple[int, ...]


def export_model(
    path: str | Path, model: Model, params: Params, classes: Sequence[str], image_shape: Sequence[int] = (28, 28)
) -> None:
    """Write a trained model as one file that runs on a CPU, a CUDA GPU or a TPU without its code.

    The file holds the program as StableHLO with the parameters as constants, from images uint8 `[b, *image_shape]` in
    0..255 to the logits float [b, c] of `model.apply(params, x)`, for any batch size b of 1 or more, and the
    `classes`, the name of each label. A file that was there is replaced in one step. JAX promises that releases of
    the next six months read it. Raises ValueError where the classes do not fit the logits, OSError where it cannot
    be written.

    >>> import tempfile
    >>> from jax_mnist import linear
    >>> path = Path(tempfile.mkdtemp()) / "digits.jaxexport"
    >>> export_model(path, linear(), linear().init(jax.random.key(0)), ("7", "3"))
    >>> exported = load_exported(path)
    >>> exported.classes, exported.logits(jnp.zeros((5, 28, 28), jnp.uint8)).shape
    (('7', '3'), (5, 1))
    """

    def logits(images: UInt8[Array, "..."]) -> Float[Array, "b c"]:
        return model.apply(params, to_float(images).reshape(images.shape[0], math.prod(image_shape)))

    (batch,) = jax.export.symbolic_shape("b")
    images = jax.ShapeDtypeStruct((batch, *image_shape), jnp.uint8)
    exported = jax.export.export(jax.jit(logits), platforms=PLATFORMS)(images)
    _image_shape(exported, tuple(classes))
    about = {"format": _FORMAT, "classes": list(classes), "jax": jax.__version__}
    with atomic_write(path) as temporary, zipfile.ZipFile(temporary, "w") as file:
        for name, contents in ((_PROGRAM, bytes(exported.serialize())), (_ABOUT, json.dumps(about, indent=2))):
            file.writestr(zipfile.ZipInfo(name), contents)  # a ZipInfo has no time: the same model, the same bytes


def load_exported(path: str | Path) -> ExportedModel:
    """Read a file that `export_model` wrote.

    A file is a program: load those alone that come from people you trust. Raises FileNotFoundError where there is
    no file, ValueError, naming it, where it is damaged, cut short or something else.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: there is no such file; expected an exported model (.jaxexport)")
    with name_parse_errors(path, "exported model"):
        program, about = _read(Path(path))
        if about["format"] != _FORMAT:
            raise ValueError(f"its format is {about['format']!r}; expected {_FORMAT!r}")
        classes = tuple(map(str, about["classes"]))
        exported = jax.export.deserialize(program)
        return ExportedModel(exported.call, classes, _image_shape(exported, classes))


def _read(path: Path) -> tuple[bytearray, dict[str, Any]]:
    with zipfile.ZipFile(path) as file:
        for entry in file.infolist():
            # Then a few bytes cannot announce, or unpack to, more than there is memory for.
            if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size > path.stat().st_size:
                raise ValueError(f"{entry.filename} announces {entry.file_size:,} bytes that are not there")
        return bytearray(file.read(_PROGRAM)), json.loads(file.read(_ABOUT))


def _image_shape(exported: jax.export.Exported, classes: tuple[str, ...]) -> tuple[int, ...]:
    """The images' shape, once it is clear that the program takes images and gives a logit for each class."""
    inputs, outputs = exported.in_avals, exported.out_avals
    if len(inputs) != 1 or inputs[0].dtype != jnp.uint8 or len(outputs) != 1 or len(outputs[0].shape) != 2:
        raise ValueError(f"the program maps {inputs} to {outputs}; expected images uint8 [b, ...] to logits [b, c]")
    if len(classes) != max(outputs[0].shape[1], 2):
        raise ValueError(f"{outputs[0].shape[1]} column(s) of logits do not fit the classes {classes}")
    shape = tuple(inputs[0].shape[1:])
    if not all(isinstance(side, int) for side in shape):
        raise ValueError(f"the program's images have no fixed shape but {shape}")
    return shape
