"""Search hyperparameters of `speedrun` on held-out training images: one row for each combination of the given values.

    python scripts/search_speedrun.py --steps 288 352 --conv1-learns 0.25 0.5

The test set is not read. All rows use the same 50,000 training and 10,000 held-out images.
"""

import dataclasses
import itertools
import statistics
import time
from typing import Any

import jax
import tyro

from jax_mnist import Splits, hold_out, load
from jax_mnist.speedrun.recipe import RECIPE, Recipe, predict, train


@dataclasses.dataclass(frozen=True)
class SearchConfig:
    """Values to combine; an option that is left out keeps its value in the library."""

    steps: tuple[int, ...] = ()
    batch_size: tuple[int, ...] = ()
    filters1: tuple[int, ...] = (24,)
    filters2: tuple[int, ...] = (64,)
    muon_rate: tuple[float, ...] = ()
    muon_momentum: tuple[float, ...] = ()
    adam_rate: tuple[float, ...] = ()
    smoothing: tuple[float, ...] = ()
    warm_up: tuple[float, ...] = ()
    conv1_learns: tuple[float, ...] = ()
    seeds: int = 16
    """Number of runs for each row, 2 or more."""
    first_seed: int = 1000
    """The first seed; `speedrun` reports on other ones."""


def row(options: dict[str, Any], splits: Splits, seeds: range) -> str:
    """Train from every seed; return the mean accuracy, its standard error, the minimum, and the median seconds."""
    recipe = RECIPE._replace(**{name: value for name, value in options.items() if name in Recipe._fields})
    sizes: dict[str, Any] = {name: value for name, value in options.items() if name in ("steps", "batch_size")}
    sizes["filters"] = options["filters1"], options["filters2"]
    accuracies, seconds = [], []
    for seed in seeds:
        key, start = jax.random.key(seed), time.perf_counter()
        params = jax.block_until_ready(train(key, splits.train.images, splits.train.labels, recipe, **sizes))
        seconds.append(time.perf_counter() - start)
        accuracies.append(float((predict(params, splits.valid.images).argmax(axis=1) == splits.valid.labels).mean()))
    error = statistics.stdev(accuracies) / len(accuracies) ** 0.5
    return (
        f"{statistics.mean(accuracies):.5f} +- {error:.5f}  min {min(accuracies):.4f}  "
        f"{statistics.median(seconds):.3f} s  {' '.join(f'{name}={value}' for name, value in options.items())}"
    )


def main() -> None:
    """Print a row for every combination."""
    config = dataclasses.asdict(tyro.cli(SearchConfig))
    if config["seeds"] < 2:  # one run has no standard error
        raise SystemExit(f"--seeds must be 2 or more, got {config['seeds']}")
    seeds = range(config["first_seed"], config["first_seed"] + config["seeds"])
    given = {name: values for name, values in config.items() if isinstance(values, tuple) and values}
    splits = jax.device_put(hold_out(jax.random.key(0), load("mnist").train, 10_000))
    for values in itertools.product(*given.values()):
        print(row(dict(zip(given, values, strict=True)), splits, seeds), flush=True)


if __name__ == "__main__":
    main()
