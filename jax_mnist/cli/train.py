"""`train`: the training script, from a preset to a trained model on disk."""

import dataclasses
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar
from rich.table import Table

from ..analysis import ensemble_labels, summarize
from ..data.load import known_names
from ..files import make_writable
from ..recipes import RECIPES, make_learner, make_schedule, read_data
from ..runs import (
    Progress,
    best_record,
    load_initial_params,
    restore_progress,
    run_settings,
    save_progress,
    write_results,
)
from ..training.ema import evaluation_params
from ..training.evaluation import evaluate_params
from ..training.loop import fit_epochs, init_state
from ..training.mesh import replicate, to_local
from ..training.nan_guard import describe_divergence, is_finite
from ..training.sweeps import fit_many
from ..types import EpochRecord, History, Learner, Params, Splits
from ..words import count_of
from .console import (
    EXIT_OK,
    EXIT_TARGET_MISSED,
    Platform,
    Preset,
    describe,
    make_console,
    optional,
    require_positive,
    script,
    show_reading,
    use_one_thread,
    use_platform,
)
from .devices import choose_mesh, exit_if_processes_are_lost, saving_if_processes_are_lost, set_up_devices
from .logs import tensorboard
from .pictures import draw_run, import_plots
from .signals import saving_on_signals


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Train a preset, by default the chapter's net, and write the run to a directory.

    `train PRESET --help` shows the values of that preset. No option changes the default of another.
    """

    recipe: Preset = RECIPES["chapter"]
    seed: int = 0
    """Seed of the parameters and of the order of the images."""
    seeds: int = 1
    """Number of seeds, starting at --seed. Files are written for the first; result.json summarizes all."""
    hold_out: int = 0
    """Hold out this many training images for validation."""
    no_prepare: bool = False
    """Read pictures in a folder as they are, and refuse those that are not 28x28."""
    patience: Annotated[int | None, optional("INT")] = None
    """Stop after INT epochs without a lower validation loss and keep the best; needs --hold-out."""
    target_accuracy: float = 0.0
    """Exit with code 1 if the accuracy, the mean over the seeds, is lower; in [0, 1]."""
    out: Path = Path("runs/last")
    """Directory for the model, its history, checkpoints and pictures."""
    init: Annotated[Path | None, optional("RUN", "random parameters")] = None
    """Start a new run from the parameters of RUN, a directory or a checkpoint in it."""
    resume: Annotated[Path | None, optional("RUN")] = None
    """Continue RUN from its newest valid checkpoint, or from the beginning; replaces --out."""
    checkpoint_every: Annotated[int | None, optional("INT", "every 5 seconds")] = None
    """Epochs between checkpoints; the last epoch always has one. The newest two are kept."""
    deterministic: bool = False
    """Compute on one thread, for the same bits on any number of cores."""
    tensorboard: bool = False
    """Write TensorBoard event files to OUT/tensorboard; needs jax_mnist[tensorboard]."""
    platform: Platform = None
    """Device platform; an error if unavailable."""
    devices: Annotated[int | None, optional("INT", "1, or all of several processes")] = None
    """Devices per process that share a batch; on a CPU, virtual devices."""
    distributed: bool = False
    """Join a multi-process job of Slurm, Open MPI, Kubernetes or a TPU pod."""
    coordinator: Annotated[str | None, optional("HOST:PORT")] = None
    """Join a job started by hand; the address is that of the first process."""
    process_id: Annotated[int | None, optional("INT")] = None
    """Index of this process, from 0; with --coordinator."""
    num_processes: Annotated[int | None, optional("INT")] = None
    """Number of processes; with --coordinator."""


def run(config: TrainConfig) -> int:
    """Train as configured; the exit code says whether the target accuracy was reached."""
    _check(config)
    if config.deterministic:
        use_one_thread()
    set_up_devices(config)
    with exit_if_processes_are_lost():
        return train(config)


def train(config: TrainConfig) -> int:
    """Load the data, build the learner, run the loop, write the result."""
    recipe = config.recipe
    device = use_platform(config.platform)
    mesh = choose_mesh(config.devices)
    is_first = jax.process_index() == 0  # of several processes, only the first prints and writes
    console = make_console(quiet=not is_first)
    console.print(f"device: {describe(device)}")
    directory = config.resume or config.out
    make_writable(directory)

    # Data.
    start = time.perf_counter()
    splits, classes = read_data(recipe.dataset, config.hold_out, prepare=not config.no_prepare, **show_reading(console))
    seconds = {"data": time.perf_counter() - start}

    # Learner.
    learner = make_learner(recipe, len(splits.train), len(classes))
    initial_params = None
    if config.init:
        like = jax.eval_shape(learner.model.init, jax.random.key(0))
        initial_params, path = load_initial_params(config.init, like)
        learner = learner._replace(model=learner.model._replace(init=lambda key: initial_params))
        console.print(f"starting from {path}")
    state = init_state(jax.random.key(config.seed), learner)
    # The pictures need matplotlib: a thread imports it while XLA compiles the loop.
    if is_first:
        threading.Thread(target=import_plots).start()
    progress = Progress(state, best=None if config.patience is None else state)
    settings = run_settings(
        recipe,
        splits,
        initial_params=initial_params,
        seed=config.seed,
        hold_out=config.hold_out,
        deterministic=config.deterministic,
        early_stopping=config.patience is not None,
    )
    if config.resume:
        progress, notes = restore_progress(directory, progress, settings)
        console.print("\n".join(notes))
        if len(progress.records) > recipe.epochs:
            raise ValueError(
                f"--resume: {directory} has already trained {count_of(len(progress.records), 'epoch')}; "
                f"--epochs is {recipe.epochs}"
            )

    # Loop. One compiled epoch at a time; everything that callbacks do elsewhere is a line here.
    display = ProgressBar(
        TextColumn("epoch"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn(),
        console=console, transient=True,
    )  # fmt: skip
    events = directory / "tensorboard" if config.tensorboard and is_first else None
    start = saved_at = time.perf_counter()
    first_epoch = len(progress.records) + 1
    stopped = _early_stop(progress, config.patience)
    is_finished = bool(stopped) or len(progress.records) == recipe.epochs  # a resumed run may be
    are_results_written = False
    options = {name: value for name, value in dataclasses.asdict(config).items() if name != "recipe"}
    facts = {"classes": classes, "train_count": len(splits.train)}
    run_config = recipe._asdict() | options | facts
    hardware = {
        "device": describe(device),
        "devices": 1 if mesh is None else mesh.size,
        "processes": jax.process_count(),
    }

    def save_checkpoint() -> None:
        if is_first and progress.records:
            save_progress(directory, progress, settings)

    def save(signal_name: str) -> None:
        finished = f"stopped by {signal_name}: {len(progress.records)} of {recipe.epochs} epochs are finished"
        try:
            if is_first and progress.records and not are_results_written:
                save_progress(directory, progress, settings)
                params, result = _result(progress, splits, seconds, hardware, signal_name)
                write_results(directory, params, progress.records, run_config, result)
        finally:
            display.stop()
        if progress.records:
            console.print(f"{finished} and saved; the same options with --resume {directory} continue")
        else:
            console.print(f"{finished}; nothing is saved")

    with saving_on_signals(save) as lock, tensorboard(events, progress.records) as log:
        with display, saving_if_processes_are_lost(save_checkpoint, lock):
            task = display.add_task("compiling", total=recipe.epochs, completed=len(progress.records))
            epochs = fit_epochs(None, learner, splits, epochs=recipe.epochs, state=progress.state, mesh=mesh)
            for state, record in () if is_finished else epochs:
                if record.epoch == first_epoch:
                    elapsed = time.perf_counter() - start
                    seconds["compilation"] = elapsed - record.seconds - record.evaluation_seconds
                if not is_finite(record):
                    schedule = make_schedule(recipe, len(splits.train), recipe.learning_rate)
                    reason = describe_divergence(record, learner, progress.state, splits.train, schedule)
                    if is_first:  # save the state before this epoch, not the one that diverged
                        with lock:
                            path = save_progress(directory, progress, settings)
                        reason += (
                            f"; the last good state, of epoch {record.epoch - 1}, is in {path}: --init {path} with "
                            "another --out starts a new run from it"
                        )
                    raise ValueError(reason)
                with lock:
                    progress = progress.add(to_local(state), record)
                    log(record)
                    display.update(task, advance=1, description=f"accuracy {record.accuracy:.4f}")
                    stopped = _early_stop(progress, config.patience)
                    # Writing waits for the disk, about 10 ms: by default so rarely that short runs do not notice.
                    if config.checkpoint_every is None:
                        is_due = time.perf_counter() - saved_at >= 5
                    else:
                        is_due = record.epoch % config.checkpoint_every == 0
                    is_last = bool(stopped) or record.epoch == recipe.epochs
                    if is_first and (is_due or is_last):
                        save_progress(directory, progress, settings)
                        saved_at = time.perf_counter()
                if stopped:
                    break

        # Result.
        records = progress.records
        params, result = _result(progress, splits, seconds, hardware, stopped)
        console.print(_table(records, _evaluated_part(recipe.dataset, config.hold_out)))
        if config.seeds > 1:
            seeds = range(config.seed, config.seed + config.seeds)
            display = console.status(f"training {count_of(config.seeds - 1, 'further seed')}")
            with display:
                accuracy = result["accuracy"]
                result |= _train_further_seeds(params, accuracy, seeds[1:], learner, splits, recipe.epochs, mesh)
        if is_first:
            with lock:
                write_results(directory, params, records, run_config, result)
                are_results_written = True
            # Without a mesh, this program has already been compiled to evaluate the epochs.
            _, predicted = evaluate_params(learner.model, learner.loss_fn, params, splits.valid, mesh=None)
            draw_run(directory, History.from_records(records), predicted, splits.valid, classes)
        console.print(_describe_result(result, directory))
    if result.get("accuracy_mean", result["accuracy"]) < config.target_accuracy:
        console.print(f"target accuracy {config.target_accuracy} missed", style="red")
        return EXIT_TARGET_MISSED
    return EXIT_OK


def _check(config: TrainConfig) -> None:
    require_positive(config, "seeds", "patience", "checkpoint_every")
    if not 0 <= config.seed <= 2**31 - config.seeds:
        raise ValueError(f"--seed must be in 0..{2**31 - config.seeds}, got {config.seed}")
    if not 0 <= config.target_accuracy <= 1:
        raise ValueError(f"--target-accuracy must be in [0, 1], such as 0.98, got {config.target_accuracy}")
    if config.patience is not None and not config.hold_out:
        raise ValueError("--patience needs --hold-out (model selection must not use the test set), such as 2000")
    if config.patience is not None and config.seeds > 1:
        raise ValueError("--patience and --seeds are mutually exclusive: all seeds train for the same epochs")
    if config.resume is not None and config.out not in (TrainConfig.out, config.resume):
        raise ValueError(f"--resume {config.resume} writes to that directory: leave out --out {config.out}")
    if config.init is not None:
        source, written = config.init.parent if config.init.is_file() else config.init, config.resume or config.out
        if source.resolve() == written.resolve():
            raise ValueError(f"--init {config.init} must not be in {written}, which is written: give another --out")


def _early_stop(progress: Progress, patience: int | None) -> str | None:
    """Return why the run must stop, a function of its records only, so that a resumed run stops at the same epoch."""
    if patience is None or not progress.records:
        return None
    epochs = progress.records[-1].epoch - best_record(progress.records).epoch
    return f"no lower validation loss for {count_of(patience, 'epoch')}" if epochs >= patience else None


def _result(
    progress: Progress, splits: Splits, seconds: dict[str, float], hardware: dict[str, Any], stopped: str | None
) -> tuple[Params, dict[str, Any]]:
    """Return the parameters to keep and their result, of the best epoch if the run may stop early, or of the last.

    A signal asks for them while the device computes the next epoch, so nothing here may wait for the device.
    """
    records = progress.records
    kept = records[-1] if progress.best is None else best_record(records)
    result: dict[str, Any] = {
        "accuracy": kept.accuracy,
        "loss": kept.valid_loss,
        "epoch": kept.epoch,
        "correct": round(kept.accuracy * len(splits.valid)),
        "count": len(splits.valid),
        "train_count": len(splits.train),
        "seconds": {
            "compilation": 0.0,
            **seconds,
            "training": sum(record.seconds for record in records),
            "evaluation": sum(record.evaluation_seconds for record in records),
        },
        **hardware,
    }
    if stopped:
        result["stopped"] = stopped
    if progress.resumed_from:
        result["resumed_from"] = progress.resumed_from
    return evaluation_params(progress.state if progress.best is None else progress.best), result


def _train_further_seeds(
    first: Params, accuracy: float, seeds: range, learner: Learner, splits: Splits, epochs: int, mesh: Mesh | None
) -> dict[str, Any]:
    """Train more seeds at once, each as `train --seed` would, and summarize them with the first."""
    start = time.perf_counter()
    keys = jax.vmap(jax.random.key)(jnp.array(seeds))
    states, history = fit_many(keys, learner, splits, epochs=epochs, mesh=mesh)
    seconds = time.perf_counter() - start
    for seed, losses in zip(seeds, history.train_loss, strict=True):
        if not np.isfinite(losses).all():
            raise ValueError(
                f"the loss of seed {seed} became NaN or infinite; --seed {seed} without --seeds finds the step"
            )
    further = to_local(replicate(jax.vmap(evaluation_params)(states), mesh))
    params = jax.tree.map(lambda one, more: jnp.concatenate([one[None], more]), first, further)
    accuracies = [accuracy, *history.accuracy[:, -1].tolist()]
    mean, std, interval = summarize(accuracies)
    correct = ensemble_labels(learner.model, params, splits.valid) == splits.valid.labels
    return {
        "seeds": [seeds[0] - 1, *seeds],
        "accuracies": accuracies,
        "accuracy_mean": mean,
        "accuracy_std": std,
        "accuracy_interval": interval,
        "ensemble_accuracy": float(correct.mean()),
        "further_seconds": seconds,
    }


def _evaluated_part(dataset: str, held_out: int) -> str:
    """Return what `Splits.valid` is: held-out training images, the chapter's valid folder, or a test set."""
    if held_out:
        return "held-out"
    is_directory = dataset not in known_names() and Path(dataset).is_dir()
    return "valid" if dataset == "mnist_sample" or is_directory else "test"


def _table(records: Sequence[EpochRecord], evaluated_part: str) -> Table:
    table = Table("epoch", "train loss", f"{evaluated_part} loss", "accuracy", "seconds")
    for column in table.columns:
        column.justify = "right"
    for record in records:
        numbers = (f"{value:.4f}" for value in (record.train_loss, record.valid_loss, record.accuracy))
        table.add_row(str(record.epoch), *numbers, f"{record.seconds + record.evaluation_seconds:.3f}")
    return table


def _describe_result(result: dict[str, Any], directory: Path) -> str:
    lines = [
        f"accuracy {result['accuracy']:.4f} on {result['count']:,} images ({result['correct']:,} correct), "
        f"loss {result['loss']:.4f}; {result['seconds']['training']:.2f} s of training; written to {directory}"
    ]
    if "stopped" in result:
        lines.append(f"stopped: {result['stopped']}; kept epoch {result['epoch']}")
    if "seeds" in result:
        low, high = result["accuracy_interval"]
        lines.append(
            f"{len(result['seeds'])} seeds, {result['seeds'][0]} to {result['seeds'][-1]}: mean accuracy "
            f"{result['accuracy_mean']:.4f}, standard deviation {result['accuracy_std']:.4f}, 95% confidence interval "
            f"{low:.4f} to {high:.4f}; ensemble accuracy {result['ensemble_accuracy']:.4f}; "
            f"{result['further_seconds']:.2f} s for the further seeds"
        )
    return "\n".join(lines)


main = script(TrainConfig, run)
