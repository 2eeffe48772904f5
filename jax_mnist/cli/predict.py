"""`predict`: the digits that a trained model sees in the user's own pictures."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Column, Table
from tyro.conf import Positional

from ..data.batches import make_batch
from ..data.photos import read_photo
from ..export.program import load_exported
from ..metrics import class_probabilities, predicted_labels
from ..runs import load_run
from .console import EXIT_BAD_INPUT, EXIT_OK, Platform, script, use_platform

SURE = 0.5
"""Probability below which an answer is marked as not sure."""


@dataclasses.dataclass(frozen=True)
class PredictConfig:
    """Name the digit in each picture, of any format and size, dark on light or light on dark."""

    run: Positional[Path]
    """Directory that `train --out` wrote, or file that `export` wrote."""
    images: Positional[tuple[Path, ...]]
    """Pictures of one digit each."""
    platform: Platform = None
    """Device platform; an error if unavailable."""


def run(config: PredictConfig) -> int:
    """Predict as configured; a picture that cannot be read is named on stderr, and the others are predicted."""
    use_platform(config.platform)
    if not config.images:
        raise ValueError("predict needs one or more pictures, got none")
    paths, photos = [], []
    for path in config.images:
        try:
            photos.append(read_photo(path))
        except (ValueError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
        else:
            paths.append(path)
    if not photos:
        return EXIT_BAD_INPUT
    images = np.stack(photos)
    if config.run.is_file():
        exported = load_exported(config.run)
        if exported.image_shape != images.shape[1:]:
            raise ValueError(f"{config.run}: must take images of {images.shape[1:]}, got {exported.image_shape}")
        logits, classes = exported.logits(images), exported.classes
    else:
        trained = load_run(config.run)
        x = make_batch(images, np.zeros(len(images), np.int32)).x
        logits, classes = trained.learner.model.apply(trained.params, x), trained.classes
    table = Table(Column("picture", overflow="fold"), "digit", "probability")
    probabilities = class_probabilities(logits)
    for path, label, row in zip(paths, predicted_labels(logits), probabilities, strict=True):
        answer = classes[int(label)] if row[label] >= SURE else f"{classes[int(label)]} (not sure)"
        table.add_row(str(path), answer, f"{row[label]:.4f}")
    Console(markup=False).print(table)
    return EXIT_OK if len(paths) == len(config.images) else EXIT_BAD_INPUT


main = script(PredictConfig, run)
