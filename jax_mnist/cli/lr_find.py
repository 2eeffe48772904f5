"""`lr_find`: a hundred learning rates, compared on held-out training images, and one suggested."""

import dataclasses
import time
from pathlib import Path
from typing import Annotated, Any

import jax
from tyro.conf import arg

from ..files import make_writable
from ..recipes import RECIPES, make_learner, read_data
from ..runs import write_json
from ..training.lr_find import lr_find
from .console import (
    EXIT_OK,
    Platform,
    Preset,
    describe,
    make_console,
    require_positive,
    script,
    show_reading,
    use_platform,
)
from .pictures import import_plots, picture


@dataclasses.dataclass(frozen=True)
class LrFindConfig:
    """Train a preset briefly at each of a hundred learning rates at once, draw the losses, and suggest a rate.

    The rates are compared on held-out training images. The validation or test set is not used, so that it still says
    how good the chosen rate is. --epochs and --learning-rate have no effect: --trial-epochs is the length of a trial.
    """

    recipe: Preset = RECIPES["chapter"]
    hold_out: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(required)")] = None
    """Hold out this many training images for validation, such as 2000 for mnist_sample or 10000 for mnist."""
    no_prepare: bool = False
    """Read pictures in a folder as they are, and refuse those that are not 28x28."""
    trial_epochs: int = 2
    """Epochs of training at each rate, 1 to 4."""
    seed: int = 0
    """Seed of the parameters and of the order of the images."""
    out: Path = Path("runs/lr_find")
    """Directory for lr_find.json and lr_find.png."""
    platform: Platform = None
    """Device platform; an error if unavailable."""


def run(config: LrFindConfig) -> int:
    """Find a learning rate as configured."""
    require_positive(config, "trial_epochs")
    if config.hold_out is None or config.hold_out < 1:
        raise ValueError("lr_find needs --hold-out (model selection must not use the test set), such as 2000")
    console, device = make_console(), use_platform(config.platform)
    console.print(f"device: {describe(device)}")
    options: dict[str, Any] = {"prepare": not config.no_prepare, **show_reading(console)}
    splits, classes = read_data(config.recipe.dataset, config.hold_out, **options)
    recipe = config.recipe._replace(epochs=config.trial_epochs)  # a schedule ends with the trial
    learner = make_learner(recipe, len(splits.train), len(classes), learning_rate_in_state=True)
    make_writable(config.out)
    start = time.perf_counter()
    with console.status("training at a hundred rates"):
        found = lr_find(jax.random.key(config.seed), learner, splits, epochs=config.trial_epochs)
    seconds = time.perf_counter() - start
    with picture(config.out / "lr_find.png") as ax:
        import_plots().sweep(found.rates, {"Held-out loss": found.losses[:, None]}, ax=ax)
        ax.axvline(found.suggestion, color="black", linestyle=":", label=f"Suggestion {found.suggestion:.2g}")
        ax.set_ylabel("Loss")
        ax.legend()
    values = found._asdict() | {"rates": found.rates.tolist(), "losses": found.losses.tolist(), "seconds": seconds}
    options = {name: value for name, value in dataclasses.asdict(config).items() if name != "recipe"}
    write_json(config.out / "lr_find.json", config.recipe._asdict() | options | values)
    console.print(
        f"suggestion: --learning-rate {found.suggestion:.2g}: {found.reason}, on {config.hold_out:,} held-out training "
        f"images; {seconds:.1f} s; written to {config.out}"
    )
    return EXIT_OK


main = script(LrFindConfig, run)
