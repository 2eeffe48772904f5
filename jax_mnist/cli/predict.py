"""`predict`: the digits that a trained model sees in the user's own pictures."""

import csv
import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Column, Table
from tyro.conf import Positional

from ..analysis.interpret import predict_logits
from ..data.formats.image_folder import SIDE, read_pictures
from ..data.formats.tables import is_csv, read_csv_images
from ..data.load import known_names
from ..data.photos import read_photo
from ..export.program import load_exported
from ..files import atomic_write
from ..metrics import class_probabilities, predicted_labels
from ..runs import load_run
from ..types import Dataset
from ..words import count_of
from .console import EXIT_BAD_INPUT, EXIT_OK, Platform, make_console, optional, script, use_platform

SURE = 0.5
"""Probability below which an answer is marked as not sure."""

_BATCH_SIZE = 1024


@dataclasses.dataclass(frozen=True)
class PredictConfig:
    """Name the digit in each picture, of any format and size, dark on light or light on dark.

    A run of `train --no-prepare` reads pictures of 28x28 pixels as they are.
    """

    run: Positional[Path]
    """Directory that `train --out` wrote, or file that `export` wrote."""
    images: Positional[tuple[Path, ...]]
    """Pictures of one digit each, or a CSV of images as Kaggle's test.csv, with --submission."""
    submission: Annotated[Path | None, optional("FILE")] = None
    """Write the answers for a CSV to FILE as Kaggle takes them: ImageId,Label."""
    platform: Platform = None
    """Device platform; an error if unavailable."""


def run(config: PredictConfig) -> int:
    """Predict as configured; a picture that cannot be read is named on stderr, and the others are predicted."""
    use_platform(config.platform)
    if not config.images:
        raise ValueError("predict needs one or more pictures, got none")
    if any(map(is_csv, config.images)) or config.submission is not None:
        return _write_submission(config)
    model = _load(config.run)
    paths, photos = [], []
    for path in config.images:
        try:
            photos.append(read_photo(path) if model.prepare else read_pictures([path], None)[0][0])
        except (ValueError, OSError) as error:
            reason = "" if model.prepare else "; the run was trained with --no-prepare"
            print(f"error: {error}{reason}", file=sys.stderr)
        else:
            paths.append(path)
    if not photos:
        return EXIT_BAD_INPUT
    logits = model.logits(np.stack(photos))
    console = Console(markup=False, emoji=False)
    table = Table(Column("picture", overflow="fold"), "digit", "probability")
    probabilities = class_probabilities(logits)
    for path, label, row in zip(paths, predicted_labels(logits), probabilities, strict=True):
        answer = model.classes[int(label)] + ("" if row[label] >= SURE else " (not sure)")
        # A name that the terminal cannot show must not lose the answers.
        name = str(path).encode(console.encoding, "replace").decode(console.encoding)
        table.add_row(name, answer, f"{row[label]:.4f}")
    console.print(table)
    return EXIT_OK if len(paths) == len(config.images) else EXIT_BAD_INPUT


class _Classifier(NamedTuple):
    logits: Callable[[np.ndarray], Any]
    """Images uint8 [n, 28, 28] -> logits [n, c]."""
    classes: tuple[str, ...]
    prepare: bool
    """False if the model was trained on images as they are."""


def _load(path: Path) -> _Classifier:
    """Load a run or an exported file."""
    if not path.is_file():
        trained = load_run(path)
        prepare = trained.config["dataset"] in known_names() or not trained.config.get("no_prepare")

        def logits_of_run(images: np.ndarray) -> Any:
            size = min(len(images), _BATCH_SIZE)
            return predict_logits(trained.learner.model, trained.params, Dataset(images), batch_size=size)

        return _Classifier(logits_of_run, trained.classes, prepare)
    exported = load_exported(path)
    if exported.image_shape != (SIDE, SIDE):
        raise ValueError(f"{path}: must take images of {(SIDE, SIDE)}, got {exported.image_shape}")

    def logits_of_file(images: np.ndarray) -> Any:
        batches = (images[start : start + _BATCH_SIZE] for start in range(0, len(images), _BATCH_SIZE))
        return jnp.concatenate([exported.logits(batch) for batch in batches])

    return _Classifier(logits_of_file, exported.classes, True)


def _write_submission(config: PredictConfig) -> int:
    if len(config.images) != 1 or not is_csv(config.images[0]) or config.submission is None:
        raise ValueError("--submission FILE and one CSV of images go together, such as test.csv")
    if config.submission.resolve() == config.images[0].resolve():
        raise ValueError(f"--submission must not be the CSV of images, got {config.submission}")
    model = _load(config.run)
    logits = model.logits(read_csv_images(config.images[0], model.prepare))
    rows = [(i, model.classes[label]) for i, label in enumerate(predicted_labels(logits).tolist(), 1)]
    with atomic_write(config.submission) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([("ImageId", "Label"), *rows])
    make_console().print(f"labels of {count_of(len(rows), 'image')} written to {config.submission}")
    return EXIT_OK


main = script(PredictConfig, run)
