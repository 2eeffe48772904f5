"""`prepare_tfds`: a dataset of ours as one that TensorFlow Datasets reads, without TensorFlow."""

import dataclasses
import logging
from pathlib import Path
from typing import Annotated, Literal

from rich.console import Console
from tyro.conf import Positional, arg

from .. import class_names
from ..data.load import load_known
from .console import EXIT_OK, script


@dataclasses.dataclass(frozen=True)
class PrepareTfdsConfig:
    """Write a dataset where TensorFlow Datasets reads it, without TensorFlow: in the order of its IDX files.

    Afterwards load("tfds:NAME") and plain TFDS read it: tfds.data_source(NAME, split="train", download=False).
    """

    name: Positional[Literal["mnist", "mnist_sample", "fashion_mnist", "kmnist"]] = "mnist"
    """mnist and mnist_sample are bundled; the others are looked for on this machine, then downloaded."""
    data_dir: Annotated[
        Path | None, arg(metavar="DIR", help_behavior_hint="(default: TFDS_DATA_DIR or TFDS's own)")
    ] = None
    """TFDS's data directory."""
    idx_directory: Annotated[
        Path | None, arg(name="from", metavar="DIR", help_behavior_hint="(default: the usual places)")
    ] = None
    """A directory with the dataset's four IDX files, plain or .gz; they are checked by sha256."""


def run(config: PrepareTfdsConfig) -> int:
    """Prepare as configured."""
    from ..data.formats.tfds import prepare

    logging.getLogger("absl").setLevel(logging.ERROR)  # TFDS warns of the directory that is about to be written
    splits = load_known(config.name, config.idx_directory)
    path = prepare(config.name, splits, class_names(config.name), config.data_dir)
    Console().print(
        f"{len(splits.train):,} training and {len(splits.valid):,} test images written to {path}",
        highlight=False,
        soft_wrap=True,
    )
    return EXIT_OK


main = script(PrepareTfdsConfig, run)
