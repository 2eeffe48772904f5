"""`prepare_tfds`: a dataset in the form that TensorFlow Datasets (TFDS) reads, without TensorFlow."""

import dataclasses
import logging
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from ..data.load import class_names, load_known
from .console import EXIT_OK, make_console, optional, script


@dataclasses.dataclass(frozen=True)
class PrepareTfdsConfig:
    """Write a dataset to the directory where TFDS reads it, without TensorFlow, in the order of its IDX files.

    Then load("tfds:NAME") reads it, and so does TFDS: tfds.data_source(NAME, split="train", download=False).
    """

    name: Positional[Literal["mnist", "mnist_sample", "fashion_mnist", "kmnist"]] = "mnist"
    """mnist and mnist_sample are bundled; the others are downloaded unless they are on this machine."""
    data_dir: Annotated[Path | None, optional("DIR", "TFDS_DATA_DIR, or TFDS's own")] = None
    """TFDS's data directory."""
    idx_directory: Annotated[
        Path | None, arg(name="from", metavar="DIR", help_behavior_hint="(default: the known directories)")
    ] = None
    """Directory with the dataset's four IDX files, plain or .gz; they are verified by SHA-256."""


def run(config: PrepareTfdsConfig) -> int:
    """Prepare as configured."""
    from ..data.formats.tfds import prepare

    logging.getLogger("absl").setLevel(logging.ERROR)  # TFDS warns about the directory, which is still to be written
    splits = load_known(config.name, config.idx_directory)
    path = prepare(config.name, splits, class_names(config.name), config.data_dir)
    make_console().print(
        f"{len(splits.train):,} training and {len(splits.valid):,} test images written to {path}",
    )
    return EXIT_OK


main = script(PrepareTfdsConfig, run)
