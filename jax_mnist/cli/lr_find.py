"""`lr_find`: a hundred learning rates, judged on training images set apart, and one of them suggested."""

import dataclasses
import time
from pathlib import Path
from typing import Annotated

import jax
from rich.console import Console
from tyro.conf import arg

from .. import lr_find
from ..training.lr_find import LrFindResult
from .console import EXIT_OK, Platform, describe, script, use_platform
from .pictures import load_plots, save_picture
from .recipes import DenseName, OptimizerName, choose_recipe, make_learner, read_data
from .runs import make_writable, write_json

_AS_TRAIN = "(default: that of train)"


@dataclasses.dataclass(frozen=True)
class LrFindConfig:
    """Train briefly at each of a hundred learning rates at once, draw the losses, and suggest a rate.

    It needs --hold-out: what chooses must not see the validation set, which so can still say how good the choice is.
    """

    dataset: str = "mnist_sample"
    """mnist_sample (3 or 7), mnist (ten digits), or a directory of IDX files or images."""
    hold_out: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(required)")] = None
    """Training images set apart to judge on, such as 2000 of mnist_sample, 10000 of mnist."""
    model: Annotated[DenseName | None, arg(metavar="{linear,mlp,flax_mlp}", help_behavior_hint=_AS_TRAIN)] = None
    """linear and mlp are the chapter's own functions, flax_mlp is a Flax NNX module."""
    hidden: Annotated[tuple[int, ...] | None, arg(metavar="[INT ...]", help_behavior_hint=_AS_TRAIN)] = None
    """Sizes of the hidden layers."""
    batch_size: Annotated[int | None, arg(metavar="INT", help_behavior_hint=_AS_TRAIN)] = None
    """Images a step."""
    optimizer: OptimizerName = "sgd"
    """Optax's; momentum is SGD with momentum 0.9."""
    epochs: int = 2
    """How often every training image is seen at each rate, 1 to 4."""
    seed: int = 0
    """Draws the parameters and the order of the images."""
    out: Path = Path("runs/lr_find")
    """Where lr_find.json and lr_find.png go."""
    platform: Platform = None
    """Run there or fail: never a silent fall back to another."""


def run(config: LrFindConfig) -> int:
    """Find a rate as configured."""
    if config.hold_out is None or config.hold_out < 1:
        raise ValueError("lr_find chooses, so it judges on training images set apart: give --hold-out, such as 2000")
    console, device = Console(), use_platform(config.platform)
    console.print(f"device: {describe(device)}", highlight=False)
    make_writable(config.out)
    splits, classes = read_data(config.dataset, config.hold_out)
    recipe = choose_recipe(
        len(classes), config.model, config.optimizer, hidden=config.hidden, batch_size=config.batch_size
    )
    learner = make_learner(recipe, len(splits.train), len(classes), sweep_learning_rate=True)
    start = time.perf_counter()
    with console.status("training at a hundred rates"):
        found = lr_find(jax.random.key(config.seed), learner, splits, epochs=config.epochs)
    seconds = time.perf_counter() - start
    values = found._asdict() | {"rates": found.rates.tolist(), "losses": found.losses.tolist(), "seconds": seconds}
    write_json(config.out / "lr_find.json", dataclasses.asdict(config) | values)
    _draw(config.out / "lr_find.png", found)
    console.print(
        f"suggestion: --learning-rate {found.suggestion:.2g}: {found.reason}, on {config.hold_out:,} held-out training "
        f"images; {seconds:.1f} s; written to {config.out}",
        highlight=False,
        soft_wrap=True,
    )
    return EXIT_OK


def _draw(path: Path, found: LrFindResult) -> None:
    ax = load_plots().sweep(found.rates, {"held-out loss": found.losses[:, None]})
    ax.axvline(found.suggestion, color="black", linestyle=":", label=f"suggestion {found.suggestion:.2g}")
    ax.set_ylabel("loss")
    ax.legend()
    save_picture(path, ax)


main = script(LrFindConfig, run)
