"""`predict`: a person's own pictures to the digits that a trained model sees in them."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Column, Table
from tyro.conf import Positional

from .. import load_exported, make_batch, read_photo
from ..metrics import class_probabilities, predicted_labels
from .console import EXIT_OK, Platform, script, use_platform
from .runs import load_run


@dataclasses.dataclass(frozen=True)
class PredictConfig:
    """Say which digit is in a picture: a PNG or JPEG of any size, dark on light or light on dark."""

    run: Positional[Path]
    """The directory that `train --out` wrote, or the file that `export` wrote."""
    images: Positional[tuple[Path, ...]]
    """One digit a picture."""
    platform: Platform = None
    """Run there or fail: never a silent fall back to another."""


def run(config: PredictConfig) -> int:
    """Predict as configured."""
    use_platform(config.platform)
    if not config.images:
        raise ValueError("no picture was named; expected one or more PNG or JPEG files")
    images = np.stack([read_photo(path) for path in config.images])
    logits, classes = _logits(config.run, images)
    table = Table(Column("picture", overflow="fold"), "digit", "probability")
    shares = class_probabilities(logits)
    for path, label, share in zip(config.images, predicted_labels(logits), shares, strict=True):
        table.add_row(str(path), classes[int(label)], f"{share[label]:.4f}")
    Console().print(table)
    return EXIT_OK


def _logits(run: Path, images: np.ndarray) -> tuple[Any, tuple[str, ...]]:
    """The images' logits by a run's model or an exported one, and the names of the classes."""
    if run.is_file():
        exported = load_exported(run)
        if exported.image_shape != images.shape[1:]:
            raise ValueError(f"{run}: takes images of {exported.image_shape}; a picture becomes {images.shape[1:]}")
        return exported.logits(images), exported.classes
    trained = load_run(run)
    x = make_batch(images, np.zeros(len(images), np.int32)).x
    return trained.learner.model.apply(trained.params, x), trained.classes


main = script(PredictConfig, run)
