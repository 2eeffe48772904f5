"""`export_folder`: the bundled 3s and 7s as fastai's MNIST_SAMPLE folder."""

import dataclasses
from pathlib import Path

from tyro.conf import Positional

from ..data.formats.image_folder import write_folder
from ..data.load import class_names, load, sample_indices
from .console import EXIT_OK, make_console, script


@dataclasses.dataclass(frozen=True)
class ExportFolderConfig:
    """Write the bundled 3s and 7s as fastai's MNIST_SAMPLE, so that the chapter's PyTorch notebook runs offline.

    In the notebook, replace `path = untar_data(URLs.MNIST_SAMPLE)` by `path = Path("DIR")`.
    """

    directory: Positional[Path]
    """New or empty directory for train/3/10.png, ..., valid/7/..., labels.csv."""


def run(config: ExportFolderConfig) -> int:
    """Export as configured."""
    splits = load("mnist_sample")
    write_folder(config.directory, splits, class_names("mnist_sample"), sample_indices())
    make_console().print(
        f"{len(splits.train):,} training and {len(splits.valid):,} validation images written to {config.directory}",
    )
    return EXIT_OK


main = script(ExportFolderConfig, run)
