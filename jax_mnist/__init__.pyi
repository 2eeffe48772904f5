# In the order of the story that the chapter tells.
# ruff: noqa: I001

__version__: str

# The data
from .data.load import load as load, class_names as class_names, hold_out as hold_out
from .types import Dataset as Dataset, Splits as Splits, Batch as Batch
from .data.batches import make_batch as make_batch, batches as batches
from .data.augment import random_shift as random_shift, random_affine as random_affine
from .data.photos import read_photo as read_photo

# The chapter by hand
from .chapter.baseline import class_means as class_means, l1_distance as l1_distance
from .chapter.baseline import l2_distance as l2_distance, nearest_mean as nearest_mean
from .types import Layer as Layer
from .chapter.from_scratch import init_params as init_params, predict as predict, loss as loss
from .chapter.from_scratch import gradient as gradient, step as step, update as update

# Losses and metrics
from .losses import mnist_loss as mnist_loss, binary_cross_entropy as binary_cross_entropy
from .losses import softmax_cross_entropy as softmax_cross_entropy
from .metrics import accuracy as accuracy
from . import losses as losses, metrics as metrics

# Models
from .types import Model as Model
from .models.dense import linear as linear, mlp as mlp
from .models.flax import flax_mlp as flax_mlp, cnn as cnn, from_flax as from_flax

# Training
from .types import Learner as Learner, TrainState as TrainState
from .training.loop import init_state as init_state, train_step as train_step, train_epoch as train_epoch
from .training.loop import fit_epochs as fit_epochs
from .types import EpochRecord as EpochRecord
from .training.loop import fit as fit
from .types import History as History
from .training.evaluation import evaluate as evaluate
from .types import Metrics as Metrics
from .training.ema import with_ema as with_ema, evaluation_params as evaluation_params
from .training.sweeps import fit_many as fit_many
from .training.lr_find import lr_find as lr_find
from .training.mesh import data_mesh as data_mesh

# Looking at the result
from .analysis.interpret import interpret as interpret
from . import plots as plots

# Saving and exporting
from .training.checkpoints import save_params as save_params, load_params as load_params
from .runs import load_run as load_run
from .export.pytorch import from_state_dict as from_state_dict, to_state_dict as to_state_dict
from .export.program import export_model as export_model, load_exported as load_exported
from .export.web_page import export_page as export_page

# Packages with more names
from . import analysis as analysis, chapter as chapter, data as data, export as export, models as models
from . import speedrun as speedrun, training as training
