"""`python -m jax_mnist COMMAND`; without a command, the versions and devices."""

import sys
from collections.abc import Sequence
from typing import Annotated

from tyro.conf import subcommand

from .cli import (
    compare_torch,
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

Command = (
    Annotated[train.TrainConfig, subcommand("train")]
    | Annotated[sweep.SweepConfig, subcommand("sweep")]
    | Annotated[lr_find.LrFindConfig, subcommand("lr_find")]
    | Annotated[evaluate.EvaluateConfig, subcommand("evaluate")]
    | Annotated[export.ExportConfig, subcommand("export")]
    | Annotated[predict.PredictConfig, subcommand("predict")]
    | Annotated[compare_torch.CompareTorchConfig, subcommand("compare_torch")]
    | Annotated[speedrun.SpeedrunConfig, subcommand("speedrun")]
    | Annotated[export_folder.ExportFolderConfig, subcommand("export_folder")]
    | Annotated[export_page.ExportPageConfig, subcommand("export_page")]
    | Annotated[prepare_tfds.PrepareTfdsConfig, subcommand("prepare_tfds")]
    | Annotated[datasets.DatasetsConfig, subcommand("datasets")]
)
_RUN = {
    train.TrainConfig: train.run,
    sweep.SweepConfig: sweep.run,
    lr_find.LrFindConfig: lr_find.run,
    evaluate.EvaluateConfig: evaluate.run,
    export.ExportConfig: export.run,
    predict.PredictConfig: predict.run,
    compare_torch.CompareTorchConfig: compare_torch.run,
    speedrun.SpeedrunConfig: speedrun.run,
    export_folder.ExportFolderConfig: export_folder.run,
    export_page.ExportPageConfig: export_page.run,
    prepare_tfds.PrepareTfdsConfig: prepare_tfds.run,
    datasets.DatasetsConfig: datasets.run,
}


def main(args: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    args = sys.argv[1:] if args is None else args
    if not args:
        return report.run()
    return command(Command, lambda config: _RUN[type(config)](config), args, prog="jax_mnist")


if __name__ == "__main__":
    sys.exit(main())
