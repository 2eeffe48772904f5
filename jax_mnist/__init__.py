"""Chapter 4 of the fast.ai book in JAX: pure functions from pixels to a trained classifier.

>>> import jax
>>> params = init_params(jax.random.key(0), (784, 30, 1))
>>> for batch in batches(load("mnist_sample").train, batch_size=256):
...     params = update(params, batch, 0.1)
"""

import importlib
from typing import TYPE_CHECKING, Any

from . import losses, metrics
from .analysis.ensembles import ensemble_labels, spread
from .analysis.interpret import examine, gradient_norms, most_confused, predict_logits, top_losses
from .chapter.baseline import class_means, l1_distance, l2_distance, nearest_mean
from .chapter.from_scratch import gradient, init_params, linear_layer, loss, predict, step, update
from .data.augment import random_rotation, random_shift
from .data.batches import batches, epoch_indices, make_batch, take_batch
from .data.load import class_names, hold_out, load
from .export.program import ExportedModel, export_model, load_exported
from .export.pytorch import from_state_dict, to_state_dict
from .export.web_page import export_page
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
from .pixels import to_float
from .training.checkpoints import Checkpoint, load_checkpoint, load_params, save_checkpoint, save_params
from .training.ema import evaluation_params, with_ema
from .training.evaluation import evaluate, evaluate_epoch
from .training.loop import epochs, fit, init_state, train_epoch, train_step
from .training.lr_find import lr_find
from .training.mesh import ShardedDataset, data_mesh, replicate, shard_dataset
from .training.sweeps import fit_many
from .types import Batch, Dataset, EpochRecord, History, Layer, Metrics, Model, Splits, TrainState

if TYPE_CHECKING:
    from . import plots
    from .analysis.report import write_report
    from .data.photos import read_photo
    from .models.conv import Conv, conv2d, max_pool
    from .models.flax import cnn, flax_mlp, from_flax

__version__ = "0.1.0"

_ON_FIRST_USE = {
    "Conv": ".models.conv",
    "conv2d": ".models.conv",
    "max_pool": ".models.conv",
    "cnn": ".models.flax",
    "flax_mlp": ".models.flax",
    "from_flax": ".models.flax",
    "read_photo": ".data.photos",
    "plots": ".plots",
    "write_report": ".analysis.report",
}
"""Names whose modules import flax, Pillow or matplotlib: `import jax_mnist` alone loads none of them."""

__all__ = [
    "Batch",
    "Checkpoint",
    "Conv",
    "Dataset",
    "EpochRecord",
    "ExportedModel",
    "History",
    "Layer",
    "Metrics",
    "Model",
    "ShardedDataset",
    "Splits",
    "TrainState",
    "accuracy",
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
    "ensemble_labels",
    "epoch_indices",
    "epochs",
    "evaluate",
    "evaluate_epoch",
    "evaluation_params",
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
    "predict_logits",
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
    "train_step",
    "update",
    "with_ema",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _ON_FIRST_USE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(_ON_FIRST_USE[name], __name__)
    return module if name == "plots" else getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)
