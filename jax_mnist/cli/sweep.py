"""`sweep`: learning rates and hidden widths, judged on training images set apart."""

import dataclasses
import functools
import time
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np
from rich.console import Console
from rich.table import Table
from tyro.conf import arg

from .. import fit_many
from ..analysis import summarize
from ..types import Splits
from .console import EXIT_OK, Platform, describe, script, use_platform
from .pictures import load_plots, save_picture
from .recipes import DenseName, OptimizerName, Recipe, choose_recipe, make_learner, make_model, read_data
from .runs import write_json

_AROUND = "(default: around that of train)"
_AS_TRAIN = "(default: that of train)"
_HELD_OUT = {"mnist_sample": 2_000, "mnist": 10_000}


@dataclasses.dataclass(frozen=True)
class SweepConfig:
    """Train at several learning rates and hidden widths, from several seeds each, and say which is best.

    It judges on training images set apart, never on the validation set, which so can still say how good the
    chosen one is: `train` with what was best.
    """

    dataset: str = "mnist_sample"
    """As for train: mnist_sample, mnist, fashion_mnist, kmnist, tfds:NAME, or a directory of IDX files or images."""
    model: Annotated[DenseName | None, arg(metavar="{linear,mlp,flax_mlp}", help_behavior_hint=_AS_TRAIN)] = None
    """linear and mlp are the chapter's own functions, flax_mlp is a Flax NNX module."""
    learning_rates: Annotated[tuple[float, ...] | None, arg(metavar="[FLOAT ...]", help_behavior_hint=_AROUND)] = None
    """The optimizer's step sizes; those of one width and seed are trained at once."""
    hidden: Annotated[tuple[int, ...] | None, arg(metavar="[INT ...]", help_behavior_hint=_AROUND)] = None
    """Widths of the one hidden layer."""
    epochs: Annotated[int | None, arg(metavar="INT", help_behavior_hint=_AS_TRAIN)] = None
    """How often every training image is seen."""
    batch_size: Annotated[int | None, arg(metavar="INT", help_behavior_hint=_AS_TRAIN)] = None
    """Images a step."""
    optimizer: OptimizerName = "sgd"
    """Optax's; momentum is SGD with momentum 0.9."""
    seed: int = 0
    """The first seed; each makes of a setting the run that `train --hold-out` makes of it."""
    seeds: int = 3
    """How many seeds, from that one on."""
    hold_out: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: a sixth)")] = None
    """Training images set apart to judge on: 2000 of mnist_sample, 10000 of mnist."""
    out: Path = Path("runs/sweep")
    """Where sweep.json and sweep.png go."""
    platform: Platform = None
    """Run there or fail: never a silent fall back to another."""


class Setting(NamedTuple):
    """One width and rate with the held-out accuracy of each seed."""

    hidden: tuple[int, ...]
    learning_rate: float
    accuracies: list[float]


def run(config: SweepConfig) -> int:
    """Sweep as configured."""
    if config.hold_out is not None and config.hold_out < 1:
        raise ValueError(f"--hold-out must be 1 or more, since a sweep chooses, not {config.hold_out}")
    if config.seeds < 1:
        raise ValueError(f"--seeds must be 1 or more, not {config.seeds}")
    console, device = Console(), use_platform(config.platform)
    console.print(f"device: {describe(device)}", highlight=False)
    start = time.perf_counter()
    splits, classes = _read(config)
    recipes, rates = _grid(config, len(classes))
    config.out.mkdir(parents=True, exist_ok=True)
    settings = []
    for recipe in recipes:
        with console.status(f"training {_name(recipe.hidden)}"):
            settings += _train(config, recipe, rates, splits, len(classes))
    best = max(settings, key=lambda setting: np.mean(setting.accuracies))
    console.print(_table(settings, best))
    seconds = time.perf_counter() - start
    counts = {"train_count": len(splits.train), "hold_out": len(splits.valid)}
    _write(config, recipes[0], settings, best, counts | {"seconds": seconds, "device": describe(device)})
    _draw(config.out / "sweep.png", settings, rates)
    console.print(_verdict(config, best, rates, counts["hold_out"], seconds), highlight=False, soft_wrap=True)
    return EXIT_OK


def _read(config: SweepConfig) -> tuple[Splits, tuple[str, ...]]:
    count = config.hold_out or _HELD_OUT.get(config.dataset) or len(read_data(config.dataset)[0].train) // 6
    return read_data(config.dataset, count)


def _grid(config: SweepConfig, class_count: int) -> tuple[list[Recipe], list[float]]:
    """A recipe for each width, and the rates; what cannot be trained is refused before anything is."""
    choose = functools.partial(
        choose_recipe, class_count, config.model, config.optimizer, epochs=config.epochs, batch_size=config.batch_size
    )
    usual = choose()
    rates = config.learning_rates or [round(usual.learning_rate * factor, 10) for factor in (0.1, 0.3, 1, 3)]
    widths = config.hidden or [width for size in usual.hidden for width in (size // 2, size, size * 2)]
    recipes = [choose(hidden=(width,)) for width in dict.fromkeys(widths)] or [usual]
    for rate in rates:
        choose(learning_rate=rate)
    for recipe in recipes:
        jax.eval_shape(make_model(recipe, class_count).init, jax.random.key(0))
    return recipes, list(dict.fromkeys(rates))


def _train(config: SweepConfig, recipe: Recipe, rates: list[float], splits: Splits, class_count: int) -> list[Setting]:
    learner = make_learner(recipe, len(splits.train), class_count, sweep_learning_rate=True)
    # Rate by rate in the order of one seed, which is fast; seed by seed in another, since the order is chance as well.
    columns = [
        fit_many(jax.random.key(seed), learner, splits, epochs=recipe.epochs, learning_rates=rates)[1].accuracy[:, -1]
        for seed in range(config.seed, config.seed + config.seeds)
    ]
    return [
        Setting(recipe.hidden, rate, accuracies.tolist())
        for rate, accuracies in zip(rates, np.stack(columns, axis=1), strict=True)
    ]


def _name(hidden: tuple[int, ...]) -> str:
    return f"{hidden[0]} hidden" if hidden else "no hidden"


def _describe(accuracies: list[float]) -> str:
    if len(accuracies) == 1:
        return f"{accuracies[0]:.4f}"
    mean, std, _ = summarize(accuracies)
    return f"{mean:.4f} ± {std:.4f}"


def _table(settings: list[Setting], best: Setting) -> Table:
    table = Table("hidden", "learning rate", "held-out accuracy", "")
    for setting in settings:
        hidden = str(setting.hidden[0]) if setting.hidden else "none"
        mark = "best" if setting is best else ""
        table.add_row(hidden, f"{setting.learning_rate:g}", _describe(setting.accuracies), mark)
    return table


def _as_row(setting: Setting) -> dict[str, Any]:
    accuracies = setting.accuracies
    mean, std, interval = summarize(accuracies) if len(accuracies) > 1 else (accuracies[0], None, None)
    return setting._asdict() | {"accuracy_mean": mean, "accuracy_std": std, "accuracy_interval": interval}


def _write(config: SweepConfig, recipe: Recipe, settings: list[Setting], best: Setting, facts: dict[str, Any]) -> None:
    asked = {name: getattr(recipe, name) for name in ("model", "optimizer", "epochs", "batch_size")}
    seeds = list(range(config.seed, config.seed + config.seeds))
    rows = [_as_row(setting) for setting in settings]
    values = {"dataset": config.dataset, **asked, "seeds": seeds, **facts, "settings": rows, "best": _as_row(best)}
    write_json(config.out / "sweep.json", values)


def _draw(path: Path, settings: list[Setting], rates: list[float]) -> None:
    lines: dict[str, Any] = {}
    for setting in settings:
        lines.setdefault(_name(setting.hidden), []).append(setting.accuracies)
    ax = load_plots().sweep(rates, {name: np.array(values) for name, values in lines.items()})
    ax.set_ylabel("held-out accuracy")
    save_picture(path, ax)


def _verdict(config: SweepConfig, best: Setting, rates: list[float], count: int, seconds: float) -> str:
    text = (
        f"best: {_name(best.hidden)}, learning rate {best.learning_rate:g}: {_describe(best.accuracies)} on {count:,} "
        f"held-out training images, {config.seeds} seed(s); {seconds:.1f} s; written to {config.out}"
    )
    if len(rates) > 1 and best.learning_rate in (min(rates), max(rates)):
        text += "\nthat rate is at the edge of those tried: a better one may lie beyond"
    return text


main = script(SweepConfig, run)
