"""Training: one loop for every Learner, one run or many at once, on one device or many."""

from .checkpoints import (
    Checkpoint,
    DifferentRunError,
    load_checkpoint,
    load_params,
    save_checkpoint,
    save_params,
)
from .ema import EmaState, evaluation_params, with_ema
from .evaluation import evaluate
from .loop import fit, fit_epochs, init_state, train_epoch, train_step
from .lr_find import LrFindResult, lr_find
from .mesh import data_mesh, replicate, to_local
from .nan_guard import BadStep, describe_divergence, find_bad_step, find_operations, is_finite
from .optimizers import set_learning_rate
from .sweeps import fit_many

__all__ = [  # noqa: RUF022, from one step to many runs
    "init_state",
    "train_step",
    "train_epoch",
    "fit_epochs",
    "fit",
    "evaluate",
    "with_ema",
    "EmaState",
    "evaluation_params",
    "set_learning_rate",
    "fit_many",
    "lr_find",
    "LrFindResult",
    "data_mesh",
    "replicate",
    "to_local",
    "is_finite",
    "find_bad_step",
    "BadStep",
    "find_operations",
    "describe_divergence",
    "save_params",
    "load_params",
    "save_checkpoint",
    "load_checkpoint",
    "Checkpoint",
    "DifferentRunError",
]
