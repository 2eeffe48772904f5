"""`export`: a trained model as one portable file that runs without its code."""

import dataclasses
from pathlib import Path

from tyro.conf import Positional

from ..export.program import PLATFORMS, export_model
from ..runs import load_run
from .console import EXIT_OK, Platform, make_console, script, use_platform


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """Write a trained model as one file that needs only jax and flatbuffers to run, on CPU, CUDA and TPU.

    `predict FILE PICTURE...` reads it; the documentation of `export_model` shows how to run it elsewhere.
    """

    run: Positional[Path]
    """Directory that `train --out` wrote."""
    file: Positional[Path]
    """File to write, such as digits.jaxexport."""
    platform: Platform = None
    """Platform that exports; the file runs on all of them."""


def run(config: ExportConfig) -> int:
    """Export as configured."""
    use_platform(config.platform)
    trained = load_run(config.run)
    export_model(config.file, trained.learner.model, trained.params, trained.classes)
    make_console().print(
        f"{len(trained.classes)} classes, {config.file.stat().st_size:,} bytes for {', '.join(PLATFORMS)}; "
        f"written to {config.file}",
    )
    return EXIT_OK


main = script(ExportConfig, run)
