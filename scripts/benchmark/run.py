"""The command: `python scripts/benchmark --help`."""

import dataclasses
import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from jax_mnist.cli.console import EXIT_OK, EXIT_TARGET_MISSED, Platform, describe, script, use_platform
from jax_mnist.files import atomic_write

from . import pictures
from .contests import CONTESTS, Setup, torch_side
from .timing import Timed, table, time_contest


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """Time jax_mnist and its baselines in interleaved runs, and check the accuracy that each reaches.

    Each figure is the median of --repeats runs, after one that compiles and warms up. PyTorch runs at the settings
    (threads, memory layout) that are fastest on this machine; if it is not installed, its sides are left out.
    """

    only: str = ""
    """Time only the contests that have this in their name."""
    repeats: int = 9
    """Timed runs of each side."""
    quick: bool = False
    """Two timed runs of small versions, to see that everything works; the times mean nothing."""
    compile: bool = False
    """Try torch.compile among PyTorch's settings; compiling takes most of a minute for each of them."""
    out: Path = Path("runs/benchmark")
    """Directory for benchmark.json, benchmark.png and growth.png."""
    platform: Platform = None
    """Device platform; an error if unavailable."""


def run(config: BenchmarkConfig) -> int:
    """Time as configured; return 1 if a side does not reach its accuracy, else 0."""
    console, device = Console(width=120), use_platform(config.platform)
    chosen = [make for name, make in CONTESTS.items() if config.only in name]
    if not chosen:
        raise ValueError(f"--only must be part of one of {', '.join(CONTESTS)}, got {config.only}")
    if config.repeats < 1:
        raise ValueError(f"--repeats must be 1 or more, got {config.repeats}")
    config.out.mkdir(parents=True, exist_ok=True)
    torch = torch_side.version() if torch_side else "torch not installed"
    machine = f"{_processor()}, {os.cpu_count()} cores; {describe(device)}; {torch}"
    console.print(machine, highlight=False, soft_wrap=True)
    timed: list[Timed] = []
    failures = []
    for make in chosen:
        contest = make(Setup(device.platform, config.quick, config.compile))
        sides = time_contest(contest, 2 if config.quick else config.repeats)
        console.print(table(sides))
        failures += [side for side in sides if side.accuracy < contest.least_accuracy]
        timed += sides
    _write(timed, machine, config.out)
    for side in failures:
        console.print(f"accuracy below threshold: {side.side}: {side.accuracy:.4f}", style="red", highlight=False)
    return EXIT_TARGET_MISSED if failures else EXIT_OK


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def _write(timed: Sequence[Timed], machine: str, out: Path) -> None:
    """Write benchmark.json and the pictures of the contests and of the growing ones, if there are any."""
    written = {"machine": machine, "sides": [side._asdict() for side in timed]}
    with atomic_write(out / "benchmark.json") as temporary:
        temporary.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
    figures = {
        "benchmark.png": pictures.bars([side for side in timed if not side.grows_with], machine),
        "growth.png": pictures.growth([side for side in timed if side.grows_with]),
    }
    for name, figure in figures.items():
        if figure is not None:
            with atomic_write(out / name) as temporary:
                figure.savefig(temporary, dpi=100)


main: Any = script(BenchmarkConfig, run)
