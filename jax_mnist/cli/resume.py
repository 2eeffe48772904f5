"""A run's checkpoints: what tells the run from others, which are kept, and from which one it goes on."""

import contextlib
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..training.checkpoints import DifferentRunError, library_versions, load_checkpoint, save_checkpoint
from ..types import EpochRecord, Splits, TrainState
from .recipes import Recipe

_NAME = "checkpoint-{}.safetensors"
_KEPT = 2


class Saved(NamedTuple):
    """What a checkpoint holds: the last state, and the best one where early stopping keeps it."""

    last: TrainState
    best: TrainState | None


class Start(NamedTuple):
    """Where a run begins or goes on: state, rows of the epochs done, its checkpoint, and why others were refused."""

    saved: Saved
    rows: tuple[EpochRecord, ...] = ()
    path: Path | None = None
    versions: dict[str, str] | None = None
    refused: tuple[str, ...] = ()


def run_settings(config: Any, recipe: Recipe, splits: Splits) -> dict[str, Any]:
    """What a run's bits depend on, and must be the same where it goes on.

    The number of epochs is among them only where the learning rate's schedule depends on it.
    """
    chosen = recipe._asdict()
    if recipe.schedule == "constant":
        del chosen["epochs"]
    asked = {name: getattr(config, name) for name in ("dataset", "hold_out", "seed", "deterministic")}
    return asked | chosen | {"early_stopping": config.patience is not None, "images_sha256": _sha256(splits)}


def _sha256(splits: Splits) -> str:
    digest = hashlib.sha256()
    for part in splits:
        for array in (part.images, part.labels):
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:16]


def find_start(directory: Path, fresh: Saved, settings: dict[str, Any]) -> Start:
    """The newest good checkpoint of the directory; `fresh`, the run's beginning, where there is none.

    Raises ValueError where no checkpoint is good and one of them is of another run, naming the difference.
    """
    refused: list[str] = []
    of_another_run: list[DifferentRunError] = []
    for path in sorted(directory.glob(_NAME.format("*")), key=_epoch, reverse=True):
        try:
            checkpoint = load_checkpoint(path, fresh, settings)
        except (ValueError, OSError) as error:
            refused.append(str(error))
            of_another_run += [error] if isinstance(error, DifferentRunError) else []
        else:
            return Start(checkpoint.state, checkpoint.records, path, checkpoint.versions, tuple(refused))
    if of_another_run:
        raise ValueError(f"--resume: {of_another_run[0]}")
    return Start(fresh, refused=tuple(refused))


def describe_start(start: Start, epochs: int) -> str:
    """Where a resumed run goes on, in words. Raises ValueError where it has more epochs behind it than asked for."""
    done = len(start.rows)
    if done > epochs:
        raise ValueError(f"--resume: {start.path} has {done} epochs behind it, more than --epochs {epochs}")
    lines = [f"refused: {reason}" for reason in start.refused]
    if start.path is None:
        lines.append("no good checkpoint: starting at the beginning")
    else:
        lines.append(f"going on from {start.path}: {done} of {epochs} epochs are done")
        others = (start.versions or {}).items() - library_versions().items()
        if others:
            lines.append(f"it was written with {dict(others)}, other versions than those here: bits may differ")
    return "\n".join(lines)


def _epoch(path: Path) -> int:
    number = path.stem.rpartition("-")[2]
    return int(number) if number.isdecimal() else -1


def save(
    directory: Path | None, saved: Saved, rows: Sequence[EpochRecord], settings: dict[str, Any], earlier: Sequence[Path]
) -> tuple[Path, ...]:
    """Write the checkpoint of the epochs done, then delete all but it and the newest of the run's `earlier` ones.

    Returns the checkpoints that are left, the newest last. Whatever else is there is of an earlier run, which this one
    takes the place of, or was never finished. Without a directory, in a process that writes nothing, it does nothing.
    """
    if directory is None:
        return ()
    path = directory / _NAME.format(len(rows))
    save_checkpoint(path, saved, rows, settings)
    kept = (*(other for other in earlier if other != path), path)[-_KEPT:]
    for pattern in (_NAME, f".{_NAME}"):
        for other in set(directory.glob(pattern.format("*"))).difference(kept):
            with contextlib.suppress(OSError):  # it is only in the way
                other.unlink()
    return kept
