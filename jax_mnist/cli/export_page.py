"""`export_page`: a trained model as one HTML page to draw digits on."""

import dataclasses
from pathlib import Path

from rich.console import Console
from tyro.conf import Positional

from ..export.web_page import export_page
from ..runs import load_run
from .console import EXIT_OK, script


@dataclasses.dataclass(frozen=True)
class ExportPageConfig:
    """Write a trained model as one HTML page that reads a digit while you draw it with mouse, finger or keys.

    The page is one file and needs neither a server nor a network.
    """

    run: Positional[Path]
    """Directory that `train --out` wrote."""
    page: Positional[Path]
    """File to write, such as page.html."""


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
