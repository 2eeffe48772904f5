"""A run on disk: what was asked for, what came out, and the trained model."""

import csv
import json
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ..files import atomic_write
from ..training.checkpoints import load_params
from ..types import History, Learner, Params
from .recipes import Recipe, make_learner

CONFIG, RESULT, HISTORY, PARAMS = "config.json", "result.json", "history.csv", "model.safetensors"


class Run(NamedTuple):
    """A trained model with what is needed to use it."""

    learner: Learner
    params: Params
    classes: tuple[str, ...]
    config: dict[str, Any]


def make_writable(path: Path) -> None:
    """Make the directory where it lacks, and raise OSError now, not after training, where nothing can be written."""
    path.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path):
        pass


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON file, whole or not at all."""
    write_text(path, json.dumps(values, indent=2, default=str) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def load_run(path: Path) -> Run:
    """The model that `train --out PATH` wrote.

    Raises FileNotFoundError where there is no run, ValueError, naming the file, where it is damaged.
    """
    file = path / CONFIG
    if not file.is_file():
        raise FileNotFoundError(f"{path}: is no run, it has no {CONFIG}; expected what `train --out {path}` writes")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        classes = tuple(config["classes"])
        learner = make_learner(_recipe(config), config["train_count"], len(classes))
        like = jax.eval_shape(learner.model.init, jax.random.key(0))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file}: is no configuration of a run ({type(error).__name__}: {error})") from error
    return Run(learner, load_params(path / PARAMS, like), classes, config)


def _recipe(config: dict[str, Any]) -> Recipe:
    """What was asked for, as `choose_recipe` gave it."""
    found = {name: config[name] for name in Recipe._fields if name in config}
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in found.items()}
    return Recipe(**values)


def load_history(path: Path) -> History:
    """The epochs of the run that `train --out PATH` wrote.

    Raises FileNotFoundError where there is no such file, ValueError, naming it, where it is damaged.
    """
    file = path / HISTORY
    if not file.is_file():
        raise FileNotFoundError(f"{file}: there is no such file; expected what `train --out {path}` writes")
    try:
        rows = list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))
        return History(*(np.array([float(row[name]) for row in rows]) for name in History._fields))
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise ValueError(f"{file}: is no history of a run ({type(error).__name__}: {error})") from error
