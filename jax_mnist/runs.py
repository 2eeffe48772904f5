"""A run on disk: checkpoints while it trains, its results, and how to load the trained model."""

import contextlib
import csv
import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from .files import atomic_write
from .recipes import Recipe, make_learner
from .training.checkpoints import (
    DifferentRunError,
    library_versions,
    load_checkpoint,
    load_params,
    save_checkpoint,
    save_params,
)
from .types import EpochRecord, History, Learner, Params, Splits, TrainState
from .words import count_of

CONFIG, RESULT, HISTORY, PARAMS = "config.json", "result.json", "history.csv", "model.safetensors"
PICTURES = "curves.png", "predictions.png"
_CHECKPOINT = "checkpoint-{}.safetensors"


class Progress(NamedTuple):
    """The progress of a run: its last state, the best one, and the records of the finished epochs.

    `best` is the state with the lowest validation loss, or None if the run does not stop early. `resumed_from` names
    the checkpoint that the run was resumed from, its epoch and the library versions that wrote it.
    """

    state: TrainState
    best: TrainState | None = None
    records: tuple[EpochRecord, ...] = ()
    resumed_from: dict[str, Any] | None = None

    def add(self, state: TrainState, record: EpochRecord) -> "Progress":
        """Return the progress after one more epoch."""
        records = (*self.records, record)
        is_best = self.best is not None and best_record(records) is record
        return self._replace(state=state, best=state if is_best else self.best, records=records)


def best_record(records: Iterable[EpochRecord]) -> EpochRecord:
    """Return the record with the lowest validation loss, the first of several."""
    return min(records, key=lambda record: record.valid_loss)


def run_settings(
    recipe: Recipe,
    splits: Splits,
    *,
    initial_params: Params | None,
    seed: int,
    hold_out: int,
    deterministic: bool,
    early_stopping: bool,
) -> dict[str, Any]:
    """Return the settings that determine a run bit for bit; a checkpoint stores them to identify its run.

    `initial_params` are those that the run starts from instead of random ones. The number of epochs is included only if
    the learning-rate schedule depends on it.
    """
    settings = recipe._asdict()
    if recipe.schedule == "constant":
        del settings["epochs"]
    return settings | {
        "seed": seed,
        "hold_out": hold_out,
        "deterministic": deterministic,
        "early_stopping": early_stopping,
        "images_sha256": _sha256(splits),
        "init_sha256": None if initial_params is None else _sha256(initial_params),
    }


def _sha256(arrays: Any) -> str:
    digest = hashlib.sha256()
    for array in jax.tree.leaves(arrays):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:16]


def save_progress(directory: Path, progress: Progress, settings: dict[str, Any]) -> Path:
    """Write the checkpoint of the last finished epoch, and keep only it and the one before; return its path.

    Checkpoints of later epochs belong to an earlier run, which this one replaces, and are deleted too. Raises OSError,
    naming the file, if it cannot be written; no checkpoint is then deleted.
    """
    epoch = len(progress.records)
    path = directory / _CHECKPOINT.format(epoch)
    state = {"last": progress.state, "best": progress.best}
    save_checkpoint(path, state, progress.records, settings)
    checkpoints = _checkpoints(directory)
    previous = max((number for number in checkpoints if number < epoch), default=None)
    old = [file for number, file in checkpoints.items() if number not in (epoch, previous)]
    _delete([*old, *_left_by_killed_process(directory)])
    return path


def restore_progress(directory: Path, start: Progress, settings: dict[str, Any]) -> tuple[Progress, list[str]]:
    """Return the progress in the newest valid checkpoint, or `start` if there is none, and what to tell the user.

    Raises ValueError if no checkpoint is valid and one of them belongs to a different run, naming the difference.
    """
    notes: list[str] = []
    different: list[DifferentRunError] = []
    checkpoints = _checkpoints(directory)
    for number in sorted(checkpoints, reverse=True):
        path = checkpoints[number]
        try:
            checkpoint = load_checkpoint(path, {"last": start.state, "best": start.best}, settings)
        except (ValueError, OSError) as error:
            notes.append(f"refused: {error}")
            different += [error] if isinstance(error, DifferentRunError) else []
            continue
        notes.append(f"resuming from {path}: {count_of(len(checkpoint.records), 'epoch')} finished")
        if changed := dict(checkpoint.versions.items() - library_versions().items()):
            notes.append(f"it was written with other versions, {changed}: the results may differ in their last bits")
        source = {"checkpoint": path.name, "epoch": len(checkpoint.records), "versions": checkpoint.versions}
        return Progress(checkpoint.state["last"], checkpoint.state["best"], checkpoint.records, source), notes
    if different:
        raise ValueError(
            f"--resume: {different[0]}; a resumed run keeps its settings, including --init, and the epochs if the "
            f"learning rate depends on them; --init {directory} with another --out starts a new run from its parameters"
        )
    return start, [*notes, "no valid checkpoint: starting from the beginning"]


def load_initial_params(run: Path, like: Params) -> tuple[Params, Path]:
    """Return the parameters from which `train --init RUN` starts a new run, and the file that they are in.

    They are in the run's model, or in its newest checkpoint if that is newer: then a later run has not ended, because
    its process was killed or its loss became NaN. `run` may also be one of these files. Raises FileNotFoundError if
    there is none, and ValueError if it is damaged or its parameters do not match `like`.
    """
    path = run / PARAMS
    checkpoints = _checkpoints(run.parent if run.is_file() else run)
    if run.is_file():
        path = run
    elif checkpoints:
        newest = checkpoints[max(checkpoints)]
        path = newest if not path.is_file() or newest.stat().st_mtime > path.stat().st_mtime else path
    return load_params(path, like, within="last.params" if path in checkpoints.values() else ""), path


def _left_by_killed_process(directory: Path) -> Iterator[Path]:
    """Yield the temporary files of `atomic_write`: a dot, the name's stem, a dash, anything, the suffix."""
    for name in (_CHECKPOINT.format("*"), PARAMS, HISTORY, CONFIG, RESULT, *PICTURES):
        yield from directory.glob(f".{Path(name).stem}-*{Path(name).suffix}")


def _delete(files: Iterable[Path]) -> None:
    for file in files:
        with contextlib.suppress(OSError):  # it only takes up space
            file.unlink()


def _checkpoints(directory: Path) -> dict[int, Path]:
    """Return the checkpoint files of a directory by epoch."""
    pattern = re.compile(re.escape(_CHECKPOINT).replace(r"\{\}", r"(\d+)"))
    found = ((pattern.fullmatch(path.name), path) for path in directory.glob(_CHECKPOINT.format("*")))
    return {int(match[1]): path for match, path in found if match}


def write_results(
    directory: Path, params: Params, records: Iterable[EpochRecord], config: dict[str, Any], result: dict[str, Any]
) -> None:
    """Write what a finished run leaves: the model, its history, its configuration and its result.

    Each file is written atomically, result.json last. The configuration of an earlier run is removed first, so that a
    process that is killed in between leaves no model with the configuration of another. Raises OSError, naming the
    file, if one cannot be written.
    """
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows([EpochRecord._fields, *records])
    (directory / CONFIG).unlink(missing_ok=True)
    save_params(directory / PARAMS, params)
    with atomic_write(directory / HISTORY) as temporary:
        temporary.write_text(table.getvalue(), encoding="utf-8")
    write_json(directory / CONFIG, config)
    write_json(directory / RESULT, result)
    _delete(_left_by_killed_process(directory))


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON file atomically: NaN and infinite numbers as null, values that JSON does not know as strings."""
    # Python's json reads NaN and writes it, but JSON has no such number, and other readers fail.
    finite = json.loads(json.dumps(values, default=str), parse_constant=lambda _: None)
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(finite, indent=2) + "\n", encoding="utf-8")


class Run(NamedTuple):
    """A trained model with everything that is needed to use it.

    `learner.model.apply(params, x)` gives logits; `classes` are the names of the labels 0, 1, and so on; `recipe` is
    what the learner was made from, and `config` what config.json holds: the recipe and the options of `train`.
    """

    learner: Learner
    params: Params
    classes: tuple[str, ...]
    recipe: Recipe
    config: dict[str, Any]


def load_run(path: str | Path) -> Run:
    """Load the model that `train --out PATH` wrote.

    Raises FileNotFoundError if the run or its model is missing, and ValueError, naming the file, if the run is damaged
    or was written by a version with other options.

    >>> import tempfile
    >>> from jax_mnist.recipes import RECIPES
    >>> directory, recipe = Path(tempfile.mkdtemp()), RECIPES["chapter-linear"]
    >>> params = make_learner(recipe, 12_396, 2).model.init(jax.random.key(0))
    >>> write_results(directory, params, [], recipe._asdict() | {"classes": ["7", "3"], "train_count": 12_396}, {})
    >>> run = load_run(directory)
    >>> run.classes, run.learner.model.apply(run.params, np.zeros((5, 784))).shape
    (('7', '3'), (5, 1))
    """
    path = Path(path)
    file = path / CONFIG
    if not file.is_file():
        raise FileNotFoundError(f"{path}: not a run directory: no {CONFIG}; expected what `train --out {path}` writes")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        classes = tuple(config["classes"])
        values = (config[name] for name in Recipe._fields)
        recipe = Recipe._make(tuple(value) if isinstance(value, list) else value for value in values)
        learner = make_learner(recipe, config["train_count"], len(classes))
        like = jax.eval_shape(learner.model.init, jax.random.key(0))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file}: not the configuration of a run ({type(error).__name__}: {error})") from error
    return Run(learner, load_params(path / PARAMS, like), classes, recipe, config)


def load_history(path: str | Path) -> History:
    """Load the history of the run that `train --out PATH` wrote.

    Raises FileNotFoundError if the file is missing, and ValueError, naming it, if it is damaged.
    """
    file = Path(path) / HISTORY
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; expected what `train --out {path}` writes")
    try:
        rows = csv.DictReader(file.read_text(encoding="utf-8").splitlines())
        return History.from_records(
            EpochRecord(int(row["epoch"]), *(float(row[name]) for name in EpochRecord._fields[1:])) for row in rows
        )
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise ValueError(f"{file}: not the history of a run ({type(error).__name__}: {error})") from error
