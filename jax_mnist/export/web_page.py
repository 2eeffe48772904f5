"""Export of a trained model as one HTML page to draw on: `page.html` with the parameters embedded."""

import base64
import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float

from ..data.formats.image_folder import SIDE
from ..files import atomic_write
from ..models.batch_last import Window
from ..types import Model, Params
from .pytorch import to_state_dict

_SUPPORTED = (
    "the page supports linear layers after any number of convolutions, each with 2x2 max pooling, with stride 2 or "
    "with neither, and a ReLU or a hard swish after every layer but the last, "
    f"for {SIDE}x{SIDE} gray pixels: linear, mlp, flax_mlp and cnn"
)

_ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "relu": lambda x: np.maximum(x, 0),
    "hardSwish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
}

Layers = list[tuple[np.ndarray, np.ndarray]]
"""Weights [o, i] or [o, i, k, k], and bias [o]: PyTorch's layout, which the page's JavaScript reads in order."""


def export_page(path: str | Path, model: Model, params: Params, classes: Sequence[str]) -> None:
    """Write a trained model as one HTML page that classifies a digit while it is drawn.

    The page shows the drawing, the 28x28 pixels that the model gets, and the probability of each class.
    `params` are those of `linear`, `mlp`, `flax_mlp` or `cnn`, or of any model that computes the same function;
    `classes` are the names of the labels 0, 1, and so on. The page needs no other file and no network. Its logits equal
    the model's up to rounding: parameters are stored as float32. Replaces an existing file atomically. Raises
    ValueError if the page cannot compute the model or the number of classes is wrong, and OSError if it cannot be
    written.

    >>> import tempfile
    >>> from jax_mnist import linear
    >>> page = Path(tempfile.mkdtemp()) / "page.html"
    >>> export_page(page, linear(), linear().init(jax.random.key(0)), ("7", "3"))
    >>> page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    True
    """
    layers = _read_layers(params)
    activation, windows = _find_structure(layers, model, params)
    expected = max(len(layers[-1][1]), 2)
    if len(classes) != expected:
        raise ValueError(f"classes must have {expected} names for this model, got {len(classes)}: {', '.join(classes)}")
    contents = {
        "classes": list(classes),
        "activation": activation,
        "windows": [window._asdict() for window in windows],
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


def _find_structure(layers: Layers, model: Model, params: Params) -> tuple[str, tuple[Window, ...]]:
    """Return the activation, and the convolutions' windows, that reproduce the model's logits on random images.

    The comparison also checks that the model is a supported chain of layers, which its parameters do not show.
    """
    x = np.random.default_rng(0).random((16, SIDE * SIDE), np.float32) ** 2
    try:
        with jax.default_matmul_precision("highest"):
            wanted = np.asarray(model.apply(params, jnp.asarray(x)))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{_SUPPORTED}; the model does not take {SIDE * SIDE} pixels ({error})") from error
    for activation, windows in itertools.product(_ACTIVATIONS, _fitting_windows(layers)):
        logits, tolerance = _logits(layers, activation, windows, x), 1e-4 * max(1, abs(wanted).max())
        if logits.shape == wanted.shape and np.allclose(logits, wanted, rtol=0, atol=tolerance):
            return activation, windows
    raise ValueError(
        f"{_SUPPORTED}; a chain of the layers in the parameters gives different logits. Instead of a mixed_precision "
        "model, give the one that it was made from"
    )


def _fitting_windows(layers: Layers) -> list[tuple[Window, ...]]:
    """Return all windows of the convolutions whose last feature map has the size that the first linear layer takes."""
    shapes = [weights.shape for weights, _ in layers if weights.ndim == 4]
    if any(height != width for *_, height, width in shapes):
        return []
    linear = next((weights for weights, _ in layers if weights.ndim == 2), None)
    fitting = []
    for padding in ("SAME", "VALID"):
        kinds = [Window(stride, pool, padding) for stride, pool in ((1, 2), (2, 1), (1, 1))]
        for windows in itertools.product(kinds, repeat=len(shapes)):
            side, channels = SIDE, 1
            for shape, window in zip(shapes, windows, strict=True):
                side, channels = window.outputs(side, shape[2]), shape[0]
            if side >= 1 and linear is not None and linear.shape[1] == side**2 * channels:
                fitting.append(windows)
    return list(dict.fromkeys(fitting))  # without convolutions both paddings are the same


def _logits(
    layers: Layers, activation: str, windows: Sequence[Window], x: Float[np.ndarray, "b i"]
) -> Float[np.ndarray, "b c"]:
    """Compute the page's logits with NumPy, in float64 as JavaScript does."""
    values = x.astype(np.float64).reshape(-1, 1, SIDE, SIDE)
    for n, (weights, bias) in enumerate(layers):
        if weights.ndim == 4:
            values = _pool(_convolve(values, weights, windows[n]) + bias[:, None, None], windows[n].pool)
        else:
            values = values.reshape(len(values), -1) @ weights.T + bias
        if n < len(layers) - 1:
            values = _ACTIVATIONS[activation](values)
    return values


def _convolve(
    x: Float[np.ndarray, "b i h w"], weights: Float[np.ndarray, "o i k l"], window: Window
) -> Float[np.ndarray, "b o oh ow"]:
    stride, kernel = window.stride, weights.shape[2:]
    pads = lax.padtype_to_pads(x.shape[2:], kernel, (stride, stride), window.padding)
    padded = np.pad(x, ((0, 0), (0, 0), *pads))
    patches = np.lib.stride_tricks.sliding_window_view(padded, kernel, axis=(2, 3))[:, :, ::stride, ::stride]
    return np.einsum("bihwkl,oikl->bohw", patches, weights, optimize=True)


def _pool(x: Float[np.ndarray, "b c h w"], pool: int) -> Float[np.ndarray, "b c oh ow"]:
    b, c, side, _ = x.shape
    tiles = side // pool
    return x[:, :, : tiles * pool, : tiles * pool].reshape(b, c, tiles, pool, tiles, pool).max(axis=(3, 5))


def _base64(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode()
