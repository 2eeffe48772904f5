"""`evaluate`: a trained model's loss and accuracy on a dataset's validation images, and a page that looks closer."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console
from rich.table import Table
from tyro.conf import Positional, arg

from .. import class_names, evaluate, interpret, load
from ..types import Metrics
from .console import EXIT_OK, Platform, describe, script, use_platform
from .pictures import load_plots
from .recipes import make_loss
from .runs import Run, load_history, load_run


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Evaluate a trained model, every validation image counted once."""

    run: Positional[Path]
    """The directory that `train --out` wrote."""
    dataset: Annotated[str | None, arg(metavar="STR", help_behavior_hint="(default: what it was trained on)")] = None
    """A dataset with the same classes."""
    report: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: none)")] = None
    """Write report.html and report.json there: confusions, top losses, calibration, what training images teach."""
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
    metrics = _evaluate(trained, dataset, config)
    table = Table("dataset", "images", "loss", "accuracy")
    table.add_row(dataset, f"{metrics.count:,}", f"{metrics.loss:.4f}", f"{metrics.accuracy:.4f}")
    console.print(table)
    if config.report:
        console.print(f"report: {config.report / 'report.html'}", highlight=False, soft_wrap=True)
    return EXIT_OK


def _evaluate(trained: Run, dataset: str, config: EvaluateConfig) -> Metrics:
    splits = load(dataset)
    learner = trained.learner._replace(loss_fn=make_loss(len(trained.classes)))  # without label smoothing
    if config.report is None:
        return evaluate(learner, trained.params, splits.valid)
    history = load_history(config.run)
    load_plots()  # without a screen
    from ..analysis.report import write_report

    interpretation = interpret(learner, trained.params, splits)
    title = f"{trained.config['model']} on {dataset}"
    given = {name: value for name, value in trained.config.items() if value not in (None, []) and value is not False}
    about = {name.replace("_", " "): _text(value) for name, value in given.items() if name not in _NOT_SHOWN}
    write_report(config.report, interpretation, splits, trained.classes, title, about, history)
    return interpretation.metrics


_NOT_SHOWN = ("classes", "out", "platform", "resume", "seeds", "target_accuracy")


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


main = script(EvaluateConfig, run)
