"""`train`: a dataset and a model to a run on disk."""

import csv
import dataclasses
import io
import time
from pathlib import Path
from typing import Annotated, Any

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from tyro.conf import arg

from .. import save_params
from ..training import as_history, epochs
from ..types import Model, Row, Splits, TrainState
from .console import EXIT_OK, EXIT_TARGET_MISSED, Platform, describe, script, use_platform
from .pictures import draw_run
from .recipes import ModelName, OptimizerName, Recipe, choose_recipe, fit_options, make_model, read_data
from .runs import CONFIG, HISTORY, PARAMS, RESULT, write_json, write_text
from .seeds import describe_seeds, train_further

_BY_CLASSES = "(default: see above)"


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Train a digit classifier, show how it goes, and write the run into a directory.

    Defaults for two classes are the chapter's: its two-layer net, mlp with 30 hidden units, 40 epochs of SGD in
    batches of 256 at rate 0.1. For more they are flax_mlp, 512 hidden units, 20 epochs, batches of 64, rate 0.3.
    """

    dataset: str = "mnist_sample"
    """mnist_sample (3 or 7), mnist (ten digits), fashion_mnist, kmnist, tfds:NAME, or a directory of IDX files or
    images; `python -m jax_mnist datasets` lists what is here."""
    model: Annotated[ModelName | None, arg(metavar="{linear,mlp,flax_mlp}", help_behavior_hint=_BY_CLASSES)] = None
    """linear and mlp are the chapter's own functions, flax_mlp is a Flax NNX module."""
    hidden: Annotated[tuple[int, ...] | None, arg(metavar="[INT ...]", help_behavior_hint=_BY_CLASSES)] = None
    """Sizes of the hidden layers."""
    epochs: Annotated[int | None, arg(metavar="INT", help_behavior_hint=_BY_CLASSES)] = None
    """How often every training image is seen."""
    batch_size: Annotated[int | None, arg(metavar="INT", help_behavior_hint=_BY_CLASSES)] = None
    """Images a step."""
    learning_rate: Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint=_BY_CLASSES)] = None
    """The optimizer's step size; where left out, a tenth of SGD's with momentum, and 0.001 with adam."""
    optimizer: OptimizerName = "sgd"
    """Optax's; momentum is SGD with momentum 0.9."""
    seed: int = 0
    """Draws the parameters and the order of the images: the same seed gives the same run."""
    seeds: int = 1
    """Train so many seeds from this one on; the files are the first one's, result.json tells of all."""
    hold_out: int = 0
    """Validate on so many training images, set apart, instead of on the validation set."""
    target_accuracy: Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint="(default: none)")] = None
    """End with exit code 1 when the last accuracy, the mean over the seeds, is below this, in [0, 1]."""
    out: Path = Path("runs/last")
    """Where config.json, history.csv, result.json, model.safetensors and the pictures go."""
    platform: Platform = None
    """Run there or fail: never a silent fall back to another."""


def run(config: TrainConfig) -> int:
    """Train as configured; the exit code says whether the target was reached."""
    _check(config)
    console = Console()
    device = use_platform(config.platform)
    console.print(f"device: {describe(device)}", highlight=False)
    config.out.mkdir(parents=True, exist_ok=True)

    start = time.perf_counter()
    splits, classes = read_data(config.dataset, config.hold_out)
    data_seconds = time.perf_counter() - start
    recipe = choose_recipe(
        len(classes),
        config.model,
        config.optimizer,
        hidden=config.hidden,
        epochs=config.epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
    )
    model, options = make_model(recipe.model, recipe.hidden, len(classes)), fit_options(recipe, len(classes))

    state, rows, seconds = _train(config.seed, model, splits, options, console)
    console.print(_table(rows))
    result = _result(rows, splits, {"data": data_seconds, **seconds}, device)
    seeds = range(config.seed, config.seed + config.seeds)
    if config.seeds > 1:
        with console.status(f"training seeds {seeds[1]} to {seeds[-1]}"):
            result |= train_further(state, result["accuracy"], seeds, model, splits, options)
    _write(config, recipe, classes, rows, result, state)
    draw_run(config.out, as_history(rows), model, state.params, splits.valid, classes)
    return _conclude(config, result, seeds, console)


def _check(config: TrainConfig) -> None:
    if config.target_accuracy is not None and not 0 <= config.target_accuracy <= 1:
        raise ValueError(f"--target-accuracy must be in [0, 1], such as 0.98, not {config.target_accuracy}")
    if config.seeds < 1:
        raise ValueError(f"--seeds must be 1 or more, not {config.seeds}")


def _train(
    seed: int, model: Model, splits: Splits, options: dict[str, Any], console: Console
) -> tuple[TrainState, list[Row], dict[str, float]]:
    columns = TextColumn("epoch"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}")
    rows: list[Row] = []
    clock = [time.perf_counter()]
    count = options["epochs"]
    others = {name: value for name, value in options.items() if name != "epochs"}
    state = None
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        task = progress.add_task("compiling", total=count)
        for state, row in epochs(jax.random.key(seed), model, splits, count=count, **others):  # noqa: B007, the last one
            clock.append(time.perf_counter())
            rows.append(row)
            progress.update(task, advance=1, description=f"accuracy {row.accuracy:.4f}")
    assert state is not None  # a recipe has an epoch or more
    return (
        state,
        rows,
        {
            "compilation": clock[1] - clock[0] - rows[0].seconds - rows[0].evaluation_seconds,
            "training": sum(row.seconds for row in rows),
            "evaluation": sum(row.evaluation_seconds for row in rows),
        },
    )


def _table(rows: list[Row]) -> Table:
    table = Table("epoch", "train loss", "valid loss", "accuracy", "seconds")
    for column in table.columns:
        column.justify = "right"
    for row in rows:
        losses = (f"{value:.4f}" for value in (row.train_loss, row.valid_loss, row.accuracy))
        table.add_row(str(row.epoch), *losses, f"{row.seconds + row.evaluation_seconds:.3f}")
    return table


def _result(rows: list[Row], splits: Splits, seconds: dict[str, float], device: Any) -> dict[str, Any]:
    count = len(splits.valid)
    return {
        "accuracy": rows[-1].accuracy,
        "loss": rows[-1].valid_loss,
        "correct": round(rows[-1].accuracy * count),
        "count": count,
        "train_count": len(splits.train),
        "seconds": seconds,
        "device": describe(device),
    }


def _write(
    config: TrainConfig,
    recipe: Recipe,
    classes: tuple[str, ...],
    rows: list[Row],
    result: dict[str, Any],
    state: TrainState,
) -> None:
    write_json(config.out / CONFIG, dataclasses.asdict(config) | recipe._asdict() | {"classes": classes})
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows([Row._fields, *rows])
    write_text(config.out / HISTORY, table.getvalue())
    save_params(config.out / PARAMS, state.params)
    write_json(config.out / RESULT, result)


def _conclude(config: TrainConfig, result: dict[str, Any], seeds: range, console: Console) -> int:
    lines = [
        f"accuracy {result['accuracy']:.4f} on {result['count']:,} images "
        f"({result['correct']:,} right), loss {result['loss']:.4f}; "
        f"{result['seconds']['training']:.2f} s of training; written to {config.out}"
    ]
    if len(seeds) > 1:
        lines.append(describe_seeds(result, seeds))
    console.print("\n".join(lines), highlight=False, soft_wrap=True)
    reached = result.get("accuracy_mean", result["accuracy"])
    if config.target_accuracy is not None and reached < config.target_accuracy:
        console.print(f"target accuracy {config.target_accuracy} missed", style="red", highlight=False)
        return EXIT_TARGET_MISSED
    return EXIT_OK


main = script(TrainConfig, run)
