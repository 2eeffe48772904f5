"""Chapter 4 of the fast.ai book in JAX: pure functions from pixels to a trained classifier.

Start with `jax_mnist.chapter`, the chapter by hand. Then follow the data: `data` reads it, `models` map it to logits,
`training` has one loop for every Learner, `analysis` looks at the errors, `plots` draws, and `export` writes models for
use elsewhere. `speedrun` stands alone. These are the names to start with; each package has more.

>>> import jax
>>> params = init_params(jax.random.key(0), (784, 30, 1))
>>> for batch in batches(load("mnist_sample").train, batch_size=256):
...     params = update(params, batch, 0.1)
"""

from typing import TYPE_CHECKING

import lazy_loader

from . import losses, metrics
from .analysis.interpret import interpret
from .chapter.baseline import class_means, l1_distance, l2_distance, nearest_mean
from .chapter.from_scratch import gradient, init_params, loss, predict, step, update
from .data.augment import random_rotation, random_shift
from .data.batches import batches, make_batch
from .data.load import class_names, hold_out, load
from .export.program import export_model, load_exported
from .export.pytorch import from_state_dict, to_state_dict
from .export.web_page import export_page
from .losses import binary_cross_entropy, mnist_loss, softmax_cross_entropy
from .metrics import accuracy
from .models.dense import linear, mlp
from .runs import load_run
from .training.checkpoints import load_params, save_params
from .training.ema import evaluation_params, with_ema
from .training.evaluation import evaluate
from .training.loop import fit, fit_epochs, init_state, train_epoch, train_step
from .training.lr_find import lr_find
from .training.mesh import data_mesh
from .training.sweeps import fit_many
from .types import Batch, Dataset, EpochRecord, History, Layer, Learner, Metrics, Model, Splits, TrainState

if TYPE_CHECKING:
    from . import plots
    from .data.photos import read_photo
    from .models.flax import cnn, flax_mlp, from_flax

__version__ = "0.1.0"

# These import flax, Pillow or matplotlib, so they are loaded on first use.
__getattr__, _, _ = lazy_loader.attach(
    __name__, ["plots", "speedrun"], {"data.photos": ["read_photo"], "models.flax": ["cnn", "flax_mlp", "from_flax"]}
)

# In the order of the story that the chapter tells.
__all__ = [  # noqa: RUF022
    # The data
    "load",
    "class_names",
    "hold_out",
    "Dataset",
    "Splits",
    "Batch",
    "make_batch",
    "batches",
    "random_shift",
    "random_rotation",
    "read_photo",
    # The chapter by hand
    "class_means",
    "l1_distance",
    "l2_distance",
    "nearest_mean",
    "Layer",
    "init_params",
    "predict",
    "loss",
    "gradient",
    "step",
    "update",
    # Losses and metrics
    "mnist_loss",
    "binary_cross_entropy",
    "softmax_cross_entropy",
    "accuracy",
    "losses",
    "metrics",
    # Models
    "Model",
    "linear",
    "mlp",
    "flax_mlp",
    "cnn",
    "from_flax",
    # Training
    "Learner",
    "TrainState",
    "init_state",
    "train_step",
    "train_epoch",
    "fit_epochs",
    "EpochRecord",
    "fit",
    "History",
    "evaluate",
    "Metrics",
    "with_ema",
    "evaluation_params",
    "fit_many",
    "lr_find",
    "data_mesh",
    # Looking at the result
    "interpret",
    "plots",
    # Saving and exporting
    "save_params",
    "load_params",
    "load_run",
    "from_state_dict",
    "to_state_dict",
    "export_model",
    "load_exported",
    "export_page",
]


def __dir__() -> list[str]:
    return [*__all__, "analysis", "chapter", "data", "export", "models", "speedrun", "training"]
