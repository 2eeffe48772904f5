"""`train`: a dataset and a model to a run on disk."""

import csv
import dataclasses
import io
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from rich.console import Console
from rich.table import Table

from .. import evaluation_params, init_state, save_params
from ..types import EpochRecord, History, Params, Splits
from .console import EXIT_OK, EXIT_TARGET_MISSED, describe, script, use_one_thread, use_platform
from .devices import check_devices, choose_mesh, join, other_processes, run_processes
from .logs import tensorboard
from .loop import Diverged, Limits, Trained, describe_divergence, train_on
from .pictures import draw_run
from .recipes import Recipe, choose_recipe, make_learner, make_schedule, read_data
from .resume import Saved, Start, describe_start, find_start, run_settings
from .runs import CONFIG, HISTORY, PARAMS, RESULT, make_writable, write_json, write_text
from .seeds import describe_seeds, train_further
from .train_config import TrainConfig, check_config


def run(config: TrainConfig) -> int:
    """Train as configured; the exit code says whether the target was reached."""
    check_config(config)
    check_devices(config)
    if config.processes > 1:
        return run_processes(config, run)
    if config.deterministic:
        use_one_thread()
    join(config)
    with other_processes():
        return _run(config)


def _run(config: TrainConfig) -> int:
    device = use_platform(config.platform)
    mesh, first = choose_mesh(config.devices), jax.process_index() == 0
    console = Console(quiet=not first)
    console.print(f"device: {describe(device)}", highlight=False)
    out = config.resume or config.out
    make_writable(out)

    began = time.perf_counter()
    splits, classes = read_data(config.dataset, config.hold_out)
    data_seconds = time.perf_counter() - began
    recipe = choose_recipe(len(classes), **{name: getattr(config, name) for name in Recipe._fields})
    learner = make_learner(recipe, len(splits.train), len(classes))
    settings = run_settings(config, recipe, splits)
    state = init_state(jax.random.key(config.seed), learner)
    start = Start(Saved(state, None if config.patience is None else state))
    if config.resume:
        start = find_start(out, start.saved, settings)
        console.print(describe_start(start, recipe.epochs), highlight=False, soft_wrap=True)

    limits = Limits(recipe.epochs, config.checkpoint_every, config.patience, config.max_seconds)
    with tensorboard(out / "tensorboard" if config.tensorboard and first else None, start.rows) as log:
        trained = train_on(start, learner, splits, mesh, limits, out if first else None, settings, console, log)
    if isinstance(trained, Diverged):
        rate = make_schedule(recipe, len(splits.train))
        raise ValueError(describe_divergence(trained, learner, splits, rate, config.debug_nans))
    console.print(_table(trained.rows, _evaluated_part(config)))
    params = evaluation_params(trained.state)
    result = _result(trained, splits, {"data": data_seconds, **trained.seconds}, device, mesh)
    if start.path:
        result["resumed_from"] = {"checkpoint": start.path.name, "epoch": len(start.rows), "versions": start.versions}
    seeds = range(config.seed, config.seed + config.seeds)
    if config.seeds > 1:
        with console.status(f"training seeds {seeds[1]} to {seeds[-1]}"):
            result |= train_further(params, result["accuracy"], seeds, learner, splits, recipe.epochs, mesh)
    if first:
        _write(out, config, recipe, classes, trained.rows, result, params)
        draw_run(out, History.from_records(trained.rows), learner.model, params, splits.valid, classes)
    return _conclude(config, out, result, seeds, console)


def _evaluated_part(config: TrainConfig) -> str:
    """Return what `Splits.valid` is here: held-out training images, the chapter's valid folder, or a test set."""
    if config.hold_out:
        return "held-out"
    return "valid" if config.dataset == "mnist_sample" or Path(config.dataset).is_dir() else "test"


def _table(rows: Sequence[EpochRecord], evaluated_part: str) -> Table:
    table = Table("epoch", "train loss", f"{evaluated_part} loss", "accuracy", "seconds")
    for column in table.columns:
        column.justify = "right"
    for row in rows:
        losses = (f"{value:.4f}" for value in (row.train_loss, row.valid_loss, row.accuracy))
        table.add_row(str(row.epoch), *losses, f"{row.seconds + row.evaluation_seconds:.3f}")
    return table


def _result(
    trained: Trained, splits: Splits, seconds: dict[str, float], device: Any, mesh: Mesh | None
) -> dict[str, Any]:
    count = len(splits.valid)
    result = {
        "accuracy": trained.row.accuracy,
        "loss": trained.row.valid_loss,
        "epoch": trained.row.epoch,
        "correct": round(trained.row.accuracy * count),
        "count": count,
        "train_count": len(splits.train),
        "seconds": seconds,
        "device": describe(device),
        "devices": 1 if mesh is None else mesh.size,
        "processes": jax.process_count(),
    }
    return result | ({"stopped": trained.stopped} if trained.stopped else {})


def _write(
    out: Path,
    config: TrainConfig,
    recipe: Recipe,
    classes: tuple[str, ...],
    rows: Sequence[EpochRecord],
    result: dict[str, Any],
    params: Params,
) -> None:
    extra = {"classes": classes, "train_count": result["train_count"]}
    write_json(out / CONFIG, dataclasses.asdict(config) | recipe._asdict() | extra)
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows([EpochRecord._fields, *rows])
    write_text(out / HISTORY, table.getvalue())
    save_params(out / PARAMS, params)
    write_json(out / RESULT, result)


def _conclude(config: TrainConfig, out: Path, result: dict[str, Any], seeds: range, console: Console) -> int:
    lines = [
        f"accuracy {result['accuracy']:.4f} on {result['count']:,} images "
        f"({result['correct']:,} right), loss {result['loss']:.4f}; "
        f"{result['seconds']['training']:.2f} s of training; written to {out}"
    ]
    if "stopped" in result:
        lines.append(f"stopped: {result['stopped']}; kept: epoch {result['epoch']}")
    if len(seeds) > 1:
        lines.append(describe_seeds(result, seeds))
    console.print("\n".join(lines), highlight=False, soft_wrap=True)
    reached = result.get("accuracy_mean", result["accuracy"])
    if config.target_accuracy is not None and reached < config.target_accuracy:
        console.print(f"target accuracy {config.target_accuracy} missed", style="red", highlight=False)
        return EXIT_TARGET_MISSED
    return EXIT_OK


main = script(TrainConfig, run)
