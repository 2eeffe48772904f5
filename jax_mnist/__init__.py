"""Chapter 4 of the fast.ai book in JAX: pure functions from pixels to a trained classifier.

>>> import jax
>>> params = init_params(jax.random.key(0), (784, 30, 1))
>>> for batch in batches(load("mnist_sample").train, batch_size=256):
...     params = update(params, batch, 0.1)
"""

import importlib
from typing import TYPE_CHECKING, Any

from . import losses, metrics
from .baseline import class_means, l1_distance, l2_distance, nearest_mean
from .checkpoints import load_params, save_params
from .data.batches import batches, epoch_indices, make_batch, take_batch, to_float
from .data.sources import class_names, hold_out, load
from .from_scratch import gradient, init_params, linear_layer, loss, predict, step, update
from .losses import binary_cross_entropy, l1, mnist_loss, mse, softmax_cross_entropy
from .metrics import accuracy, class_probabilities, correct, predicted_labels
from .models.dense import linear, mlp
from .page import export_page
from .pytorch import from_state_dict, to_state_dict
from .sweeps import fit_many, spread, vote
from .training import epochs, evaluate, fit, init_state, make_step, train_epoch
from .types import Batch, Dataset, History, Layer, Metrics, Model, Row, Splits, TrainState

if TYPE_CHECKING:
    from . import plots
    from .data.photos import read_photo
    from .models.conv import Conv, conv2d, max_pool
    from .models.nnx import cnn, flax_mlp, from_flax

__version__ = "0.1.0"

_ON_FIRST_USE = {
    "Conv": ".models.conv",
    "conv2d": ".models.conv",
    "max_pool": ".models.conv",
    "cnn": ".models.nnx",
    "flax_mlp": ".models.nnx",
    "from_flax": ".models.nnx",
    "read_photo": ".data.photos",
    "plots": ".plots",
}
"""Names whose modules import flax, Pillow or matplotlib: `import jax_mnist` alone loads none of them."""

__all__ = [
    "Batch",
    "Conv",
    "Dataset",
    "History",
    "Layer",
    "Metrics",
    "Model",
    "Row",
    "Splits",
    "TrainState",
    "accuracy",
    "batches",
    "binary_cross_entropy",
    "class_means",
    "class_names",
    "class_probabilities",
    "cnn",
    "conv2d",
    "correct",
    "epoch_indices",
    "epochs",
    "evaluate",
    "export_page",
    "fit",
    "fit_many",
    "flax_mlp",
    "from_flax",
    "from_state_dict",
    "gradient",
    "hold_out",
    "init_params",
    "init_state",
    "l1",
    "l1_distance",
    "l2_distance",
    "linear",
    "linear_layer",
    "load",
    "load_params",
    "loss",
    "losses",
    "make_batch",
    "make_step",
    "max_pool",
    "metrics",
    "mlp",
    "mnist_loss",
    "mse",
    "nearest_mean",
    "plots",
    "predict",
    "predicted_labels",
    "read_photo",
    "save_params",
    "softmax_cross_entropy",
    "spread",
    "step",
    "take_batch",
    "to_float",
    "to_state_dict",
    "train_epoch",
    "update",
    "vote",
]


def __getattr__(name: str) -> Any:
    if name not in _ON_FIRST_USE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(_ON_FIRST_USE[name], __name__)
    return module if name == "plots" else getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)
