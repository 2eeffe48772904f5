"""The loop of `train`: a plain `for` over `epochs` that shows, guards, saves and stops."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..training.loop import fit_epochs
from ..training.mesh import to_local
from ..training.nan_guard import find_bad_step, find_operations, is_finite
from ..types import EpochRecord, Learner, Splits, TrainState
from .resume import Saved, Start, save

SECONDS_BETWEEN_CHECKPOINTS = 5.0


class Limits(NamedTuple):
    """When to save and when to stop; None is never."""

    epochs: int
    checkpoint_every: int | None
    patience: int | None
    max_seconds: float | None


class Trained(NamedTuple):
    """The state to keep and its epoch's row, the rows of all epochs, why it ended early, and the seconds it took."""

    state: TrainState
    row: EpochRecord
    rows: tuple[EpochRecord, ...]
    stopped: str | None
    seconds: dict[str, float]


class Diverged(NamedTuple):
    """The epoch in which the loss was no number any more, the state before it, and the checkpoints, its own last."""

    row: EpochRecord
    before: TrainState
    saved_in: tuple[Path, ...]


def train_on(
    start: Start,
    learner: Learner,
    splits: Splits,
    mesh: Mesh | None,
    limits: Limits,
    out: Path | None,
    settings: dict[str, Any],
    console: Console,
    log: Callable[[EpochRecord], None],
) -> Trained | Diverged:
    """Train from `start` on, logging epochs and writing checkpoints into `out`, if any."""
    columns = TextColumn("epoch"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}")
    rows, saved = list(start.rows), start.saved
    kept = () if start.path is None else (start.path,)
    began = saved_at = time.perf_counter()
    stopped = _why_stop(rows, limits)
    compilation = 0.0
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task("compiling", total=limits.epochs, completed=len(rows))
        run = fit_epochs(None, learner, splits, epochs=limits.epochs, state=saved.last, mesh=mesh)
        for state, row in run if stopped is None else ():
            state = to_local(state)
            if len(rows) == len(start.rows):
                compilation = time.perf_counter() - began - row.seconds - row.evaluation_seconds
            if not is_finite(row):
                return Diverged(row, saved.last, save(out, saved, rows, settings, kept))
            rows.append(row)
            log(row)
            best = state if limits.patience is not None and best_epoch(rows) == row.epoch else saved.best
            saved = Saved(state, best)
            bar.update(task, advance=1, description=f"accuracy {row.accuracy:.4f}")
            stopped = _why_stop(rows, limits)
            ends = stopped is not None or len(rows) == limits.epochs
            if ends or _is_due(row.epoch, time.perf_counter() - saved_at, limits.checkpoint_every):
                kept = save(out, saved, rows, settings, kept)
                saved_at = time.perf_counter()
            if ends:
                break
    seconds = {
        "compilation": compilation,
        "training": sum(row.seconds for row in rows),
        "evaluation": sum(row.evaluation_seconds for row in rows),
    }
    kept_row = rows[best_epoch(rows) - 1] if limits.patience is not None else rows[-1]
    state = saved.last if saved.best is None else saved.best
    return Trained(state, kept_row, tuple(rows), stopped, seconds)


def _is_due(epoch: int, seconds_since: float, every: int | None) -> bool:
    # Writing safely waits for the disk, some 10 ms: by default seldom enough not to be noticed in a run of seconds.
    return seconds_since >= SECONDS_BETWEEN_CHECKPOINTS if every is None else epoch % every == 0


def best_epoch(rows: list[EpochRecord] | tuple[EpochRecord, ...]) -> int:
    """The epoch with the lowest validation loss, the first of several."""
    return rows[int(np.argmin([row.valid_loss for row in rows]))].epoch


def _why_stop(rows: list[EpochRecord], limits: Limits) -> str | None:
    """A function of the rows alone, so that a resumed run stops where an unbroken one does."""
    if limits.patience is not None and rows and rows[-1].epoch - best_epoch(rows) >= limits.patience:
        return f"no lower validation loss for {limits.patience} epochs"
    seconds = sum(row.seconds + row.evaluation_seconds for row in rows)
    if limits.max_seconds is not None and seconds >= limits.max_seconds:
        return f"{limits.max_seconds:g} seconds of training are over"
    return None


def describe_divergence(diverged: Diverged, learner: Learner, splits: Splits, rate: Any, debug: bool) -> str:
    """Epoch, step and learning rate of the loss that is no number, and with `debug` the operation."""
    row = diverged.row
    bad = find_bad_step(learner, diverged.before, splits.train)
    steps = -(-len(splits.train) // learner.batch_size)
    number = steps if bad is None else bad.number
    done = (row.epoch - 1) * steps + number
    loss = row.train_loss if not np.isfinite(row.train_loss) else row.valid_loss
    rate_there: Any = rate(done - 1) if callable(rate) else rate
    text = (
        f"the loss turned {loss} in epoch {row.epoch} at step {number} of {steps} ({done} of the run), "
        f"at learning rate {float(rate_there):g}"
    )
    for path in diverged.saved_in[-1:]:
        text += f"; the last good state, of epoch {row.epoch - 1}, is in {path}"
    if debug:
        found = [] if bad is None else find_operations(learner, bad)
        text += "".join(f"; {operation}" for operation in found) or "; no single operation gives NaN or infinity"
    return text
