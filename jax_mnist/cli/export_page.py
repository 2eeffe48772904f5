"""`export_page`: a trained model as one HTML page to draw digits on."""

import dataclasses
from pathlib import Path

from rich.console import Console
from tyro.conf import Positional

from .. import export_page
from .console import EXIT_OK, script
from .runs import load_run


@dataclasses.dataclass(frozen=True)
class ExportPageConfig:
    """Write a trained model as one HTML page: draw with mouse, finger or keys, and it reads as you draw.

    The page needs no server and no network: open it, send it, put it anywhere.
    """

    run: Positional[Path]
    """The directory that `train --out` wrote."""
    page: Positional[Path]
    """The file to write, such as page.html."""


def run(config: ExportPageConfig) -> int:
    """Export as configured."""
    trained = load_run(config.run)
    export_page(config.page, trained.learner.model, trained.params, trained.classes)
    Console().print(
        f"{len(trained.classes)} classes, {config.page.stat().st_size:,} bytes; written to {config.page}",
        highlight=False,
        soft_wrap=True,
    )
    return EXIT_OK


main = script(ExportPageConfig, run)
