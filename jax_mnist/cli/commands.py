"""The commands of `python -m jax_mnist`."""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from tyro.conf import subcommand

from . import (
    datasets,
    evaluate,
    export,
    export_folder,
    export_page,
    lr_find,
    predict,
    prepare_tfds,
    report,
    speedrun,
    sweep,
    train,
)
from .console import command

_COMMANDS: dict[str, tuple[Any, Callable[[Any], int]]] = {
    "train": (train.TrainConfig, train.run),
    "sweep": (sweep.SweepConfig, sweep.run),
    "lr_find": (lr_find.LrFindConfig, lr_find.run),
    "evaluate": (evaluate.EvaluateConfig, evaluate.run),
    "predict": (predict.PredictConfig, predict.run),
    "export": (export.ExportConfig, export.run),
    "export_page": (export_page.ExportPageConfig, export_page.run),
    "export_folder": (export_folder.ExportFolderConfig, export_folder.run),
    "prepare_tfds": (prepare_tfds.PrepareTfdsConfig, prepare_tfds.run),
    "datasets": (datasets.DatasetsConfig, datasets.run),
    "speedrun": (speedrun.SpeedrunConfig, speedrun.run),
}


def run(args: Sequence[str]) -> int:
    """Run a command and return its exit code; without a command, print the versions and devices."""
    if not args:
        return report.run(_COMMANDS)
    configs = (Annotated[config, subcommand(name)] for name, (config, _) in _COMMANDS.items())
    any_config, runs = functools.reduce(operator.or_, configs), dict(_COMMANDS.values())
    return command(any_config, lambda config: runs[type(config)](config), args, prog="jax_mnist")
