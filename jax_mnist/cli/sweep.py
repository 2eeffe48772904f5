"""`sweep`: learning rates and hidden sizes, compared on held-out training images."""

import dataclasses
import math
import time
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np
from rich.table import Table

from ..analysis import summarize
from ..files import make_writable
from ..recipes import RECIPES, Recipe, make_learner, read_data
from ..runs import write_json
from ..training.sweeps import fit_many
from ..types import Splits
from ..words import count_of
from .console import (
    EXIT_OK,
    Platform,
    Preset,
    describe,
    make_console,
    optional,
    require_positive,
    script,
    show_reading,
    use_platform,
)
from .pictures import import_plots, picture


@dataclasses.dataclass(frozen=True)
class SweepConfig:
    """Train a preset at several learning rates and hidden sizes, from several seeds each, and find the best.

    They are compared on held-out training images. The validation or test set is not used, so that it still says how
    good the chosen setting is.
    """

    recipe: Preset = RECIPES["chapter"]
    learning_rates: Annotated[
        tuple[float, ...], optional("[FLOAT ...]", "0.1, 0.3, 1 and 3 times --learning-rate")
    ] = ()
    """Learning rates; those of one width and seed are trained at once."""
    widths: Annotated[
        tuple[int, ...], optional("[INT ...]", "half, once and twice --hidden if it is one size, else --hidden itself")
    ] = ()
    """Sizes of the one hidden layer."""
    seed: int = 0
    """First seed; `train --hold-out` gives the same run for the same seed."""
    seeds: int = 3
    """Number of seeds, starting at --seed."""
    hold_out: Annotated[int | None, optional("INT", "a sixth of them")] = None
    """Hold out this many training images for validation."""
    no_prepare: bool = False
    """Read pictures in a folder as they are, and refuse those that are not 28x28."""
    out: Path = Path("runs/sweep")
    """Directory for sweep.json and sweep.png."""
    platform: Platform = None
    """Device platform; an error if unavailable."""


class Setting(NamedTuple):
    """The hidden layers and learning rate of a setting, with the held-out accuracy of each seed."""

    hidden: tuple[int, ...]
    learning_rate: float
    accuracies: list[float]


def run(config: SweepConfig) -> int:
    """Sweep as configured."""
    require_positive(config, "hold_out", "seeds")
    console, device = make_console(), use_platform(config.platform)
    console.print(f"device: {describe(device)}")
    start = time.perf_counter()
    recipe = config.recipe
    reading = {"prepare": not config.no_prepare, **show_reading(console)}
    splits, classes = read_data(recipe.dataset, config.hold_out or 1 / 6, **reading)

    recipes, rates = _grid(config)
    for one in recipes:  # refuse what cannot be trained before anything is trained or written
        jax.eval_shape(make_learner(one, len(splits.train), len(classes)).model.init, jax.random.key(0))
    make_writable(config.out)

    settings: list[Setting] = []
    for one in recipes:
        with console.status(f"training {_name(one.hidden)}"):
            settings += _train(config, one, rates, splits, len(classes))
    best = max(settings, key=lambda setting: np.mean(setting.accuracies))
    seconds = time.perf_counter() - start

    console.print(_table(settings, best))
    values = recipe._asdict() | {
        "seeds": list(range(config.seed, config.seed + config.seeds)),
        "train_count": len(splits.train),
        "hold_out": len(splits.valid),
        "seconds": seconds,
        "device": describe(device),
        "settings": [_as_row(setting) for setting in settings],
        "best": _as_row(best),
    }
    for name in ("hidden", "learning_rate"):  # those of the settings
        del values[name]
    write_json(config.out / "sweep.json", values)
    _draw(config.out / "sweep.png", settings, rates)
    console.print(
        f"best: {_name(best.hidden)}, learning rate {best.learning_rate:g}: {_describe(best.accuracies)} on "
        f"{len(splits.valid):,} held-out training images, {count_of(config.seeds, 'seed')}; {seconds:.1f} s; "
        f"written to {config.out}"
    )
    if len(rates) > 1 and best.learning_rate in (min(rates), max(rates)):
        console.print("this rate is at the edge of those tried: a better one may lie beyond it")
    return EXIT_OK


def _grid(config: SweepConfig) -> tuple[list[Recipe], list[float]]:
    """Return a recipe for each width, and the learning rates."""
    recipe = config.recipe
    rates = config.learning_rates or [round(recipe.learning_rate * factor, 10) for factor in (0.1, 0.3, 1, 3)]
    for rate in rates:
        if not 0 < rate < math.inf:
            raise ValueError(f"--learning-rates must be positive numbers, got {rate}")
    widths = config.widths
    if not widths and len(recipe.hidden) == 1:
        (size,) = recipe.hidden
        widths = (max(size // 2, 1), size, size * 2)
    recipes = [recipe._replace(hidden=(width,)) for width in dict.fromkeys(widths)] or [recipe]
    return recipes, list(dict.fromkeys(rates))


def _train(config: SweepConfig, recipe: Recipe, rates: list[float], splits: Splits, class_count: int) -> list[Setting]:
    learner = make_learner(recipe, len(splits.train), class_count, learning_rate_in_state=True)
    # All rates of a seed share one order of the images, which is fast; each seed has its own order, because data order
    # is also a source of variance.
    columns = [
        fit_many(jax.random.key(seed), learner, splits, epochs=recipe.epochs, learning_rates=rates)[1].accuracy[:, -1]
        for seed in range(config.seed, config.seed + config.seeds)
    ]
    return [
        Setting(recipe.hidden, rate, accuracies.tolist())
        for rate, accuracies in zip(rates, np.stack(columns, axis=1), strict=True)
    ]


def _name(hidden: tuple[int, ...]) -> str:
    return f"{' '.join(map(str, hidden))} hidden" if hidden else "no hidden layer"


def _describe(accuracies: list[float]) -> str:
    if len(accuracies) == 1:
        return f"{accuracies[0]:.4f}"
    mean, std, _ = summarize(accuracies)
    return f"{mean:.4f} ± {std:.4f}"


def _table(settings: list[Setting], best: Setting) -> Table:
    table = Table("setting", "learning rate", "held-out accuracy", "")
    for setting in settings:
        mark = "best" if setting is best else ""
        table.add_row(_name(setting.hidden), f"{setting.learning_rate:g}", _describe(setting.accuracies), mark)
    return table


def _as_row(setting: Setting) -> dict[str, Any]:
    accuracies = setting.accuracies
    mean, std, interval = summarize(accuracies) if len(accuracies) > 1 else (accuracies[0], None, None)
    return setting._asdict() | {"accuracy_mean": mean, "accuracy_std": std, "accuracy_interval": interval}


def _draw(path: Path, settings: list[Setting], rates: list[float]) -> None:
    lines: dict[str, Any] = {}
    for setting in settings:
        lines.setdefault(_name(setting.hidden), []).append(setting.accuracies)
    with picture(path) as ax:
        import_plots().sweep(rates, {name: np.array(values) for name, values in lines.items()}, ax=ax)
        ax.set_ylabel("Held-out accuracy")


main = script(SweepConfig, run)
