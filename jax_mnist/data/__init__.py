"""Data: from a name or a path to the batches of an epoch."""

from typing import TYPE_CHECKING

import lazy_loader

from ..pixels import to_float
from .augment import random_affine, random_shift
from .batches import batches, epoch_indices, make_batch, map_batches, random_order, take_batch
from .load import class_names, hold_out, known_names, load, load_train, sample_indices

if TYPE_CHECKING:
    from .photos import read_photo

__getattr__, _, _ = lazy_loader.attach(__name__, submod_attrs={"photos": ["read_photo"]})  # it imports Pillow and SciPy

__all__ = [  # noqa: RUF022, from the file to the batch
    "load",
    "load_train",
    "known_names",
    "class_names",
    "sample_indices",
    "hold_out",
    "read_photo",
    "to_float",
    "make_batch",
    "random_order",
    "epoch_indices",
    "take_batch",
    "map_batches",
    "batches",
    "random_shift",
    "random_affine",
]
