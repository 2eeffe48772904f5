"""`evaluate`: a trained model's loss and accuracy on a dataset's validation images."""

import dataclasses
from pathlib import Path
from typing import Annotated

from rich.console import Console
from rich.table import Table
from tyro.conf import Positional, arg

from .. import class_names, evaluate, load
from .console import EXIT_OK, Platform, describe, script, use_platform
from .recipes import make_loss
from .runs import load_run


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Evaluate a trained model, every validation image counted once."""

    run: Positional[Path]
    """The directory that `train --out` wrote."""
    dataset: Annotated[str | None, arg(metavar="STR", help_behavior_hint="(default: what it was trained on)")] = None
    """A dataset with the same classes."""
    platform: Platform = None
    """Run there or fail: never a silent fall back to another."""


def run(config: EvaluateConfig) -> int:
    """Evaluate as configured."""
    console = Console()
    console.print(f"device: {describe(use_platform(config.platform))}", highlight=False)
    trained = load_run(config.run)
    dataset = config.dataset or trained.config["dataset"]
    classes = class_names(dataset)
    if classes != trained.classes:
        raise ValueError(f"{dataset} has the classes {classes}; {config.run} was trained to tell {trained.classes}")
    metrics = evaluate(trained.model, trained.params, load(dataset).valid, make_loss(len(classes)))
    table = Table("dataset", "images", "loss", "accuracy")
    table.add_row(dataset, f"{metrics.count:,}", f"{metrics.loss:.4f}", f"{metrics.accuracy:.4f}")
    console.print(table)
    return EXIT_OK


main = script(EvaluateConfig, run)
