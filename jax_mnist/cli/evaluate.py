"""`evaluate`: the loss and accuracy of a trained model, and a report on its errors."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

from rich.table import Table
from tyro.conf import Positional

from ..analysis import interpret
from ..data.load import class_names, load
from ..data.registry import NoValidationError
from ..recipes import Recipe, make_loss, read_data
from ..runs import load_history, load_run
from ..training.evaluation import evaluate
from .console import EXIT_OK, Platform, describe, make_console, optional, script, show_reading, use_platform


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Evaluate a trained model on a dataset's validation or test images, each counted once.

    If the run's dataset has neither, the images that the run held out are evaluated.
    """

    run: Positional[Path]
    """Directory that `train --out` wrote."""
    dataset: Annotated[str | None, optional("STR", "that of the training")] = None
    """A dataset with the same classes."""
    report: Annotated[Path | None, optional("DIR")] = None
    """Write report.html and report.json to DIR: confusion matrix, top losses, calibration, gradient norms."""
    platform: Platform = None
    """Device platform; an error if unavailable."""


def run(config: EvaluateConfig) -> int:
    """Evaluate as configured."""
    console = make_console()
    console.print(f"device: {describe(use_platform(config.platform))}")
    trained = load_run(config.run)
    dataset = config.dataset or trained.config["dataset"]
    if (classes := class_names(dataset)) != trained.classes:
        raise ValueError(f"{dataset} must have the classes of {config.run}, {trained.classes}, got {classes}")
    options = {"prepare": not trained.config.get("no_prepare"), **show_reading(console)}
    held_out = trained.config.get("hold_out", 0)
    try:
        splits = load(dataset, **options)
    except NoValidationError as error:
        if not held_out or dataset != trained.config["dataset"]:
            raise FileNotFoundError(f"{error.reason}; evaluate needs validation or test images") from error
        console.print(f"note: {error.reason}; evaluating the images that the run held out")
        splits, _ = read_data(dataset, held_out, **options)
        if len(splits.train) != trained.config["train_count"]:  # then others would be held out
            raise ValueError(
                f"{dataset}: must have the images that {config.run} was trained on, {trained.config['train_count']:,} "
                f"and {held_out:,} held out, got {len(splits.train) + held_out:,}"
            ) from error
    learner = trained.learner._replace(loss_fn=make_loss(len(classes)))  # without label smoothing
    if config.report is None:
        metrics = evaluate(learner, trained.params, splits.valid)
    else:
        history = load_history(config.run)
        from ..analysis.report import write_report  # importing matplotlib takes 0.3 s

        interpretation = interpret(learner, trained.params, splits)
        metrics = interpretation.metrics
        title = f"{trained.config['model']} on {dataset}"
        settings = {name: trained.config.get(name) for name in (*Recipe._fields, "seed", "hold_out", "patience")}
        given = {name: value for name, value in settings.items() if value or name == "seed"}
        about = {name.replace("_", " ").capitalize(): _text(value) for name, value in given.items()}
        write_report(config.report, interpretation, splits, classes, title, about, history)
    table = Table("dataset", "images", "loss", "accuracy")
    table.add_row(dataset, f"{metrics.count:,}", f"{metrics.loss:.4f}", f"{metrics.accuracy:.4f}")
    console.print(table)
    if config.report:
        console.print(f"report: {config.report / 'report.html'}")
    return EXIT_OK


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


main = script(EvaluateConfig, run)
