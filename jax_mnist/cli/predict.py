"""`predict`: a person's own pictures to the digits that a trained model sees in them."""

import dataclasses
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Column, Table
from tyro.conf import Positional

from .. import class_probabilities, make_batch, predicted_labels, read_photo
from .console import EXIT_OK, Platform, script, use_platform
from .runs import load_run


@dataclasses.dataclass(frozen=True)
class PredictConfig:
    """Say which digit is in a picture: a PNG or JPEG of any size, dark on light or light on dark."""

    run: Positional[Path]
    """The directory that `train --out` wrote."""
    images: Positional[tuple[Path, ...]]
    """One digit a picture."""
    platform: Platform = None
    """Run there or fail: never a silent fall back to another."""


def run(config: PredictConfig) -> int:
    """Predict as configured."""
    use_platform(config.platform)
    trained = load_run(config.run)
    if not config.images:
        raise ValueError("no picture was named; expected one or more PNG or JPEG files")
    images = np.stack([read_photo(path) for path in config.images])
    batch = make_batch(images, np.zeros(len(images), np.int32))
    scores = trained.model.apply(trained.params, batch.x)
    table = Table(Column("picture", overflow="fold"), "digit", "probability")
    shares = class_probabilities(scores)
    for path, label, share in zip(config.images, predicted_labels(scores), shares, strict=True):
        table.add_row(str(path), trained.classes[int(label)], f"{share[label]:.4f}")
    Console().print(table)
    return EXIT_OK


main = script(PredictConfig, run)
