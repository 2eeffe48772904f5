"""`export_page`: a trained model as one HTML page to draw digits on."""

import dataclasses
from pathlib import Path

from tyro.conf import Positional

from ..export.web_page import export_page
from ..recipes import make_learner
from ..runs import load_run
from .console import EXIT_OK, make_console, script


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
    # The page computes in float64, whatever precision the training used: compare it with the float32 model.
    recipe = trained.recipe._replace(bfloat16=False)
    model = make_learner(recipe, trained.config["train_count"], len(trained.classes)).model
    export_page(config.page, model, trained.params, trained.classes)
    make_console().print(
        f"{len(trained.classes)} classes, {config.page.stat().st_size:,} bytes; written to {config.page}",
    )
    return EXIT_OK


main = script(ExportPageConfig, run)
