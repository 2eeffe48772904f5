"""`export`: a trained model as one portable file, which runs without its code."""

import dataclasses
from pathlib import Path

from rich.console import Console
from tyro.conf import Positional

from .. import export_model
from ..export.program import PLATFORMS
from .console import EXIT_OK, Platform, script, use_platform
from .runs import load_run


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """Write a trained model as one file that jax and flatbuffers alone can run, on CPU, CUDA and TPU.

    `predict FILE PICTURE...` reads it; `jax_mnist/export.py` shows the lines that run it elsewhere.
    """

    run: Positional[Path]
    """The directory that `train --out` wrote."""
    file: Positional[Path]
    """The file to write, such as digits.jaxexport."""
    platform: Platform = None
    """Export there or fail; the file is for all platforms all the same."""


def run(config: ExportConfig) -> int:
    """Export as configured."""
    use_platform(config.platform)
    trained = load_run(config.run)
    export_model(config.file, trained.learner.model, trained.params, trained.classes)
    Console().print(
        f"{len(trained.classes)} classes, {config.file.stat().st_size:,} bytes for {', '.join(PLATFORMS)}; "
        f"written to {config.file}",
        highlight=False,
        soft_wrap=True,
    )
    return EXIT_OK


main = script(ExportConfig, run)
