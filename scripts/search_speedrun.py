"""Try recipes for `speedrun` on held-out training images: every combination of the values given, a row each.

    python scripts/search_speedrun.py --steps 288 352 --conv1-learns 0.25 0.5

The test set is not read. The 10,000 images to judge by are the same for all rows, the 50,000 to learn from too.
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
    """The values to combine; what is left out is as in the library."""

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
    """Runs a row."""
    first_seed: int = 1000
    """Theirs are this and the next ones, not those that `speedrun` reports on."""


def combinations(config: SearchConfig) -> list[dict[str, Any]]:
    """Every combination of what is given."""
    given = {
        name: values for name, values in dataclasses.asdict(config).items() if isinstance(values, tuple) and values
    }
    return [dict(zip(given, values, strict=True)) for values in itertools.product(*given.values())]


def row(options: dict[str, Any], splits: Splits, seeds: range) -> str:
    """One combination's mean accuracy, its standard error, the least, and the median seconds of training."""
    recipe = RECIPE._replace(**{name: value for name, value in options.items() if name in Recipe._fields})
    sizes: dict[str, Any] = {name: value for name, value in options.items() if name in ("steps", "batch_size")}
    sizes["filters"] = options["filters1"], options["filters2"]
    accuracies, seconds = [], []
    for seed in seeds:
        start = time.perf_counter()
        params = train(jax.random.key(seed), splits.train.images, splits.train.labels, recipe, **sizes)
        jax.block_until_ready(params)
        seconds.append(time.perf_counter() - start)
        accuracies.append(float((predict(params, splits.valid.images).argmax(axis=1) == splits.valid.labels).mean()))
    error = statistics.stdev(accuracies) / len(accuracies) ** 0.5
    return (
        f"{statistics.mean(accuracies):.5f} +- {error:.5f}  min {min(accuracies):.4f}  "
        f"{statistics.median(seconds):.3f} s  {' '.join(f'{name}={value}' for name, value in options.items())}"
    )


def main() -> None:
    """Print a row for every combination."""
    config = tyro.cli(SearchConfig)
    splits = jax.device_put(hold_out(jax.random.key(0), load("mnist").train, 10_000))
    for options in combinations(config):
        print(row(options, splits, range(config.first_seed, config.first_seed + config.seeds)), flush=True)


if __name__ == "__main__":
    main()
