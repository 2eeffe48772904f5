"""Export of a trained model as one HTML page to draw on: `page.html` with the parameters embedded."""

import base64
import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ..files import atomic_write
from ..types import Model, Params
from .pytorch import to_state_dict

SIDE = 28
_SUPPORTED = (
    "the page supports linear layers with ReLUs between them, after any number of convolutions, each followed by a 2x2 "
    f"max pooling and a ReLU, for {SIDE}x{SIDE} gray pixels: linear, mlp, flax_mlp and cnn"
)

Layers = list[tuple[np.ndarray, np.ndarray]]
"""Weights [o, i] or [o, i, k, k], and bias [o]: PyTorch's layout, which the page's JavaScript reads in order."""


def export_page(path: str | Path, model: Model, params: Params, classes: Sequence[str]) -> None:
    """Write a trained model as one HTML page that classifies a digit while it is drawn.

    The page shows the drawing, the 28x28 pixels that the model gets, and the probability of each class.
    `params` are those of `linear`, `mlp`, `flax_mlp` or `cnn`, or of any model that computes the same function;
    `classes` are the names of the labels 0, 1, .... The page needs no other file and no network. Its logits equal the
    model's up to rounding: parameters are stored as float32. Replaces an existing file atomically. Raises ValueError
    if the page cannot compute the model or the number of classes is wrong, and OSError if it cannot be written.

    >>> import tempfile
    >>> from jax_mnist import linear
    >>> page = Path(tempfile.mkdtemp()) / "page.html"
    >>> export_page(page, linear(), linear().init(jax.random.key(0)), ("7", "3"))
    >>> page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    True
    """
    layers = _read_layers(params)
    padding = _find_padding(layers, model, params)
    expected = max(len(layers[-1][1]), 2)
    if len(classes) != expected:
        raise ValueError(f"classes must have {expected} names for this model, got {len(classes)}: {', '.join(classes)}")
    contents = {
        "classes": list(classes),
        "padding": padding,
        "layers": [{"shape": w.shape, "weights": _base64(w), "bias": _base64(b)} for w, b in layers],
    }
    template = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    embedded = json.dumps(contents).replace("<", r"\u003c")  # a class named </script> must not end the script
    with atomic_write(path) as temporary:
        temporary.write_text(template.replace(">MODEL<", f">{embedded}<"), encoding="utf-8")


def _read_layers(params: Params) -> Layers:
    try:
        arrays = to_state_dict(params)
    except ValueError as error:
        raise ValueError(f"{_SUPPORTED}; {error}") from error
    return [
        (weights.astype("<f4"), arrays.get(f"{name[:-6]}bias", np.zeros(len(weights))).astype("<f4"))
        for name, weights in arrays.items()
        if name.endswith("weight")
    ]


def _find_padding(layers: Layers, model: Model, params: Params) -> str:
    """Return the padding that reproduces the model's logits on random images.

    The comparison also checks that the model is a supported chain of layers, which its parameters do not show.
    """
    x = np.random.default_rng(0).random((16, SIDE * SIDE), np.float32) ** 2
    logits_by_padding = {}
    for padding in ("SAME", "VALID"):
        with contextlib.suppress(ValueError):  # with this padding the shapes do not match
            logits_by_padding[padding] = _logits(layers, padding, x)
    with jax.default_matmul_precision("highest"):
        wanted: Any = np.asarray(model.apply(params, jnp.asarray(x))) if logits_by_padding else None
    for padding, logits in logits_by_padding.items():
        if logits.shape == wanted.shape and np.allclose(logits, wanted, rtol=0, atol=1e-4 * max(1, abs(wanted).max())):
            return padding
    raise ValueError(f"{_SUPPORTED}; a chain of this model's {len(layers)} layers gives different logits")


def _logits(layers: Layers, padding: str, x: Float[np.ndarray, "b i"]) -> Float[np.ndarray, "b c"]:
    """Compute the page's logits with NumPy, in float64 as JavaScript does."""
    values = x.astype(np.float64).reshape(-1, 1, SIDE, SIDE)
    for n, (weights, bias) in enumerate(layers):
        if weights.ndim == 4:
            values = _pool(_convolve(values, weights, padding) + bias[:, None, None])
        else:
            values = values.reshape(len(values), -1) @ weights.T + bias
        if n < len(layers) - 1:
            values = np.maximum(values, 0)
    return values


def _convolve(
    x: Float[np.ndarray, "b i h w"], weights: Float[np.ndarray, "o i k l"], padding: str
) -> Float[np.ndarray, "b o oh ow"]:
    kernel = weights.shape[2]
    total = kernel - 1 if padding == "SAME" else 0
    sides = (total // 2, total - total // 2)
    padded = np.pad(x, ((0, 0), (0, 0), sides, sides))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), axis=(2, 3))
    return np.einsum("bihwkl,oikl->bohw", windows, weights, optimize=True)


def _pool(x: Float[np.ndarray, "b c h w"]) -> Float[np.ndarray, "b c oh ow"]:
    height, width = (side // 2 * 2 for side in x.shape[2:])
    rows = np.maximum(x[:, :, 0:height:2, :width], x[:, :, 1:height:2, :width])
    return np.maximum(rows[..., 0::2], rows[..., 1::2])


def _base64(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode()
