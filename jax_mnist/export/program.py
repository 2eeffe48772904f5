"""Export of a trained model as one portable file: a serialized StableHLO program that contains the weights.

The file is a plain zip archive with two entries, `program` and `about.json`. Running it needs only jax and flatbuffers,
not the model's code:

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
    """A loaded model: `logits(images uint8 [b, *image_shape]) -> [b, c]`, the class names, and the image shape."""

    logits: Callable[[Any], Any]
    classes: tuple[str, ...]
    image_shape: tuple[int, ...]


def export_model(
    path: str | Path, model: Model, params: Params, classes: Sequence[str], image_shape: Sequence[int] = (28, 28)
) -> None:
    """Write a trained model as one file that runs on a CPU, a CUDA GPU or a TPU without the model's code.

    The file holds a StableHLO program with the parameters as constants, and `classes`, the name of each label. The
    program maps images uint8 `[b, *image_shape]` in 0..255 to the logits float [b, c] of `model.apply(params, x)`, for
    any batch size b of at least 1. Replaces an existing file atomically. JAX guarantees that its releases of the next
    six months can read the file. Raises ValueError if the number of classes does not match the logits, and OSError if
    the file cannot be written.

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
    _image_shape(exported, tuple(classes))  # raises if the number of classes is wrong
    about = {"format": _FORMAT, "classes": list(classes), "jax": jax.__version__}
    with atomic_write(path) as temporary, zipfile.ZipFile(temporary, "w") as file:
        for name, contents in ((_PROGRAM, bytes(exported.serialize())), (_ABOUT, json.dumps(about, indent=2))):
            file.writestr(zipfile.ZipInfo(name), contents)  # without a timestamp, so that equal models give equal bytes


def load_exported(path: str | Path) -> ExportedModel:
    """Read a file that `export_model` wrote.

    The file contains a program: only load files you trust. Raises FileNotFoundError if the file does not exist, and
    ValueError, naming the file, if it is damaged, truncated or not an exported model.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: there is no such file; expected an exported model (.jaxexport)")
    with name_parse_errors(path, "exported model"), zipfile.ZipFile(path) as file:
        for entry in file.infolist():
            # A few bytes can declare, or unpack to, more than fits in memory: check before reading.
            if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size > Path(path).stat().st_size:
                raise ValueError(
                    f"{entry.filename} declares {entry.file_size:,} bytes but is compressed, or the archive is shorter"
                )
        about = json.loads(file.read(_ABOUT))
        if about["format"] != _FORMAT:
            raise ValueError(f"the format must be {_FORMAT!r}, got {about['format']!r}")
        classes = tuple(map(str, about["classes"]))
        exported = jax.export.deserialize(bytearray(file.read(_PROGRAM)))
        return ExportedModel(exported.call, classes, _image_shape(exported, classes))


def _image_shape(exported: jax.export.Exported, classes: tuple[str, ...]) -> tuple[int, ...]:
    """Return the shape of one image, after checking that the program maps images to one logit per class."""
    inputs, outputs = exported.in_avals, exported.out_avals
    if len(inputs) != 1 or inputs[0].dtype != jnp.uint8 or len(outputs) != 1 or len(outputs[0].shape) != 2:
        raise ValueError(f"the program must map images uint8 [b, ...] to logits [b, c], got {inputs} to {outputs}")
    if len(classes) != max(outputs[0].shape[1], 2):
        raise ValueError(f"classes must match the {outputs[0].shape[1]} column(s) of logits, got {classes}")
    shape = tuple(inputs[0].shape[1:])
    if not all(isinstance(side, int) for side in shape):
        raise ValueError(f"the program's images must have a fixed shape, got {shape}")
    return shape
