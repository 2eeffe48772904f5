"""`speedrun`: from random weights to 99% on MNIST's test set, against the clock."""

import concurrent.futures
import dataclasses
import math
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp

from ..recipes import read_data
from ..runs import write_json
from ..speedrun.recipe import predict, train
from ..types import Splits
from .console import EXIT_OK, Platform, describe, optional, require_positive, script, use_platform

TRAIN_COUNT, TEST_COUNT = 60_000, 10_000
TRAIN_OPTIONS: dict[str, Any] = {"xla_backend_optimization_level": 1}
ACCURACY_OPTIONS: dict[str, Any] = TRAIN_OPTIONS | {"xla_cpu_use_fusion_emitters": False}
"""Options with which XLA:CPU compiles faster. The second makes a long-running program lose more than it saves."""


@dataclasses.dataclass(frozen=True)
class SpeedrunConfig:
    """Train on the ten digits from random weights as fast as this machine can, and report the test accuracy.

    A run's time starts with the images in memory. Compilation happens once and is reported separately.
    """

    seeds: int = 20
    """Number of runs, from the seeds 0, 1, ..."""
    hold_out: int = 0
    """Hold out this many training images and report the accuracy on them instead of on the test set."""
    json: Annotated[Path | None, optional("FILE")] = None
    """File for the results."""
    platform: Platform = None
    """Device platform; an error if unavailable."""


class Programs(NamedTuple):
    """The compiled programs."""

    train: Callable[..., Any]
    """key, images, labels -> params"""
    accuracy: Callable[..., Any]
    """params, images, labels -> accuracy in [0, 1]"""


def run(config: SpeedrunConfig) -> int:
    """Train as configured, print the results, and return 0."""
    require_positive(config, "seeds")
    if not 0 <= config.hold_out < TRAIN_COUNT:
        raise ValueError(f"--hold-out must be 0 to {TRAIN_COUNT - 1}, got {config.hold_out}")
    # A thread unzips the data while the programs compile, for which its shapes are enough.
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        data = pool.submit(read_data, "mnist", config.hold_out)
        device = use_platform(config.platform)
        print(f"device: {describe(device)}", flush=True)
        start = time.perf_counter()
        programs = _compile(pool, config.hold_out, device.platform)
        compile_seconds = time.perf_counter() - start
        splits, _ = data.result()
    result = _run_seeds(programs, jax.block_until_ready(jax.device_put(splits)), config.seeds)
    result["compile_seconds"] = compile_seconds
    _report(result, "held-out" if config.hold_out else "test")
    if config.json is not None:
        write_json(config.json, result | {"device": describe(device)})
    return EXIT_OK


def _compile(pool: concurrent.futures.Executor, held_out: int, platform: str) -> Programs:
    training, testing = map(_shapes, (TRAIN_COUNT - held_out, held_out or TEST_COUNT))
    key = jax.eval_shape(lambda: jax.random.key(0))
    train_options, accuracy_options = (TRAIN_OPTIONS, ACCURACY_OPTIONS) if platform == "cpu" else ({}, {})
    # The larger program compiles while Python traces the smaller one.
    lowered = train.lower(key, *training)
    programs = [pool.submit(lowered.compile, train_options)]
    lowered = jax.jit(_accuracy).lower(lowered.out_info, *testing)
    programs.append(pool.submit(lowered.compile, accuracy_options))
    return Programs(*(program.result() for program in programs))


def _shapes(count: int) -> tuple[Any, Any]:
    return jax.ShapeDtypeStruct((count, 28, 28), jnp.uint8), jax.ShapeDtypeStruct((count,), jnp.int32)


def _accuracy(params: Any, images: Any, labels: Any) -> Any:
    return (predict(params, images).argmax(axis=1) == labels).mean()


def _run_seeds(programs: Programs, splits: Splits, count: int) -> dict[str, Any]:
    seconds, accuracies, process_seconds = [], [], 0.0
    for seed in range(count):
        key = jax.block_until_ready(jax.random.key(seed))
        start = time.perf_counter()
        params = jax.block_until_ready(programs.train(key, splits.train.images, splits.train.labels))
        seconds.append(time.perf_counter() - start)
        accuracies.append(float(programs.accuracy(params, splits.valid.images, splits.valid.labels)))
        if seed == 0:
            process_seconds = _seconds_since_start()
            print(
                f"first run: accuracy {accuracies[0]:.4f}, {process_seconds:.2f} s after the process started",
                flush=True,
            )
    return {
        "accuracies": accuracies,
        "accuracy_mean": statistics.mean(accuracies),
        "accuracy_std": statistics.stdev(accuracies) if count > 1 else 0.0,
        "train_seconds": statistics.median(seconds),
        "first_run_seconds": seconds[0],
        "process_seconds": process_seconds,
    }


def _seconds_since_start() -> float:
    """Return the age of this process, to 0.01 s on Linux and NaN elsewhere: importing Python and JAX counts."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        uptime = float(Path("/proc/uptime").read_text().split()[0])
    except OSError:
        return math.nan
    return uptime - int(fields[19]) / os.sysconf("SC_CLK_TCK")


def _report(result: dict[str, Any], evaluated_part: str) -> None:
    names = {
        "compile_seconds": "compilation",
        "first_run_seconds": "training, first run",
        "train_seconds": "training, median run",
        "process_seconds": "whole process until the first accuracy",
    }
    for name, text in names.items():
        print(f"{text:42}{result[name]:8.3f} s")
    accuracies = result["accuracies"]
    print(
        f"{evaluated_part} accuracy over {len(accuracies)} seeds: {result['accuracy_mean']:.4f} +- "
        f"{result['accuracy_std']:.4f}, min {min(accuracies):.4f}"
    )


main = script(SpeedrunConfig, run)
