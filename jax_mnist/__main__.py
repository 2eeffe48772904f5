"""`python -m jax_mnist COMMAND`; without a command, the versions and devices."""

import functools
import operator
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from tyro.conf import subcommand

from .cli import (
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
from .cli.console import command

_RUNS: dict[Any, Callable[[Any], int]] = {
    train.TrainConfig: train.run,
    sweep.SweepConfig: sweep.run,
    lr_find.LrFindConfig: lr_find.run,
    evaluate.EvaluateConfig: evaluate.run,
    export.ExportConfig: export.run,
    predict.PredictConfig: predict.run,
    speedrun.SpeedrunConfig: speedrun.run,
    export_folder.ExportFolderConfig: export_folder.run,
    export_page.ExportPageConfig: export_page.run,
    prepare_tfds.PrepareTfdsConfig: prepare_tfds.run,
    datasets.DatasetsConfig: datasets.run,
}


def _commands() -> Any:
    """The configurations as one type for tyro, each a command with the name of its file."""
    names = {config: run.__module__.rpartition(".")[2] for config, run in _RUNS.items()}
    return functools.reduce(operator.or_, (Annotated[config, subcommand(name)] for config, name in names.items()))


def main(args: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    args = sys.argv[1:] if args is None else args
    if not args:
        return report.run()
    return command(_commands(), lambda config: _RUNS[type(config)](config), args, prog="jax_mnist")


if __name__ == "__main__":
    sys.exit(main())
