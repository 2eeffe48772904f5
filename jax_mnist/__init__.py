"""Chapter 4 of the fast.ai book in JAX: pure functions from pixels to a trained classifier.

>>> import jax
>>> params = init_params(jax.random.key(0), (784, 30, 1))
>>> for batch in batches(load("mnist_sample").train, batch_size=256):
...     params = update(params, batch, 0.1)
"""

import importlib
from typing import TYPE_CHECKING, Any

from . import losses, metrics
from .averaging import averaged_params, with_average
from .baseline import class_means, l1_distance, l2_distance, nearest_mean
from .checkpoints import Checkpoint, load_checkpoint, load_params, save_checkpoint, save_params
from .data.augment import random_rotation, random_shift
from .data.batches import batches, epoch_indices, make_batch, take_batch, to_float
from .data.sources import class_names, hold_out, load
from .ensembles import spread, vote
from .evaluation import evaluate, evaluate_epoch
from .export import ExportedModel, export_model, load_exported
from .from_scratch import gradient, init_params, linear_layer, loss, predict, step, update
from .interpret import examine, gradient_norms, most_confused, predict_scores, top_losses
from .learning_rates import lr_find
from .losses import binary_cross_entropy, l1, mnist_loss, mse, softmax_cross_entropy
from .metrics import (
    accuracy,
    calibration,
    class_probabilities,
    confusion_matrix,
    correct,
    per_class,
    predicted_labels,
)
from .models.dense import linear, mlp
from .models.precision import mixed_precision
from .page import export_page
from .pytorch import from_state_dict, to_state_dict
from .sharding import ShardedDataset, data_mesh, replicate, shard_dataset
from .sweeps import fit_many
from .training import epochs, fit, init_state, make_step, train_epoch
from .types import Batch, Dataset, History, Layer, Metrics, Model, Row, Splits, TrainState

if TYPE_CHECKING:
    from . import plots
    from .data.photos import read_photo
    from .models.conv import Conv, conv2d, max_pool
    from .models.modules import from_flax
    from .models.nnx import cnn, flax_mlp
    from .report import write_report

__version__ = "0.1.0"

_ON_FIRST_USE = {
    "Conv": ".models.conv",
    "conv2d": ".models.conv",
    "max_pool": ".models.conv",
    "cnn": ".models.nnx",
    "flax_mlp": ".models.nnx",
    "from_flax": ".models.modules",
    "read_photo": ".data.photos",
    "plots": ".plots",
    "write_report": ".report",
}
"""Names whose modules import flax, Pillow or matplotlib: `import jax_mnist` alone loads none of them."""

__all__ = [
    "Batch",
    "Checkpoint",
    "Conv",
    "Dataset",
    "ExportedModel",
    "History",
    "Layer",
    "Metrics",
    "Model",
    "Row",
    "ShardedDataset",
    "Splits",
    "TrainState",
    "accuracy",
    "averaged_params",
    "batches",
    "binary_cross_entropy",
    "calibration",
    "class_means",
    "class_names",
    "class_probabilities",
    "cnn",
    "confusion_matrix",
    "conv2d",
    "correct",
    "data_mesh",
    "epoch_indices",
    "epochs",
    "evaluate",
    "evaluate_epoch",
    "examine",
    "export_model",
    "export_page",
    "fit",
    "fit_many",
    "flax_mlp",
    "from_flax",
    "from_state_dict",
    "gradient",
    "gradient_norms",
    "hold_out",
    "init_params",
    "init_state",
    "l1",
    "l1_distance",
    "l2_distance",
    "linear",
    "linear_layer",
    "load",
    "load_checkpoint",
    "load_exported",
    "load_params",
    "loss",
    "losses",
    "lr_find",
    "make_batch",
    "make_step",
    "max_pool",
    "metrics",
    "mixed_precision",
    "mlp",
    "mnist_loss",
    "most_confused",
    "mse",
    "nearest_mean",
    "per_class",
    "plots",
    "predict",
    "predict_scores",
    "predicted_labels",
    "random_rotation",
    "random_shift",
    "read_photo",
    "replicate",
    "save_checkpoint",
    "save_params",
    "shard_dataset",
    "softmax_cross_entropy",
    "spread",
    "step",
    "take_batch",
    "to_float",
    "to_state_dict",
    "top_losses",
    "train_epoch",
    "update",
    "vote",
    "with_average",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _ON_FIRST_USE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(_ON_FIRST_USE[name], __name__)
    return module if name == "plots" else getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)
