"""`benchmark`: every speed that is claimed, ours and its peers in turns in one run."""

import dataclasses
import os
import platform
import statistics
import timeit
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from . import races, torch_side
from .console import EXIT_OK, EXIT_TARGET_MISSED, Platform, describe, script, use_platform
from .contests import Contest, Side
from .pictures import load_plots, save_picture
from .runs import write_json


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """Time ours against its peers, the sides taking turns, and check that each side has learnt what it should.

    Each figure is a median of `--repeats` runs, after one that compiles and warms up. Where PyTorch is not
    installed its sides are left out.
    """

    only: str = ""
    """Only the contests with this in their name."""
    repeats: int = 9
    """Timed runs of every side."""
    quick: bool = False
    """Two timed runs, and small versions of what takes minutes: to see that it works, not how fast."""
    out: Path = Path("runs/benchmark")
    """Where benchmark.json and benchmark.png go."""
    platform: Platform = None
    """Run there or fail: never a silent fall back to another."""


class Timed(NamedTuple):
    """One side: seconds of its first run, seconds a unit of the later ones and their median, what it had learnt."""

    contest: str
    side: str
    unit: str
    grows_with: str
    first_seconds: float
    seconds: list[float]
    median_seconds: float
    ratio: float
    """Its median over that of the first side, which is ours."""
    accuracy: float


def run(config: BenchmarkConfig) -> int:
    """Time as configured; the exit code says whether every side learnt what it should."""
    console, device = Console(width=110), use_platform(config.platform)
    chosen = {name: make for name, make in races.ALL.items() if config.only in name}
    if not chosen or config.repeats < 1:
        raise ValueError(f"--only is part of one of {', '.join(races.ALL)}, and --repeats 1 or more")
    config.out.mkdir(parents=True, exist_ok=True)
    machine = f"{_processor()}, {os.cpu_count()} cores; {describe(device)}; {torch_side.version()}"
    console.print(machine, highlight=False, soft_wrap=True)
    sides: list[Timed] = []
    failures = []
    for make in chosen.values():
        contest = make(device.platform, config.quick)
        timed = time_in_turns(contest, 2 if config.quick else config.repeats)
        console.print(_table(contest, timed))
        failures += [f"{side.side}: {side.accuracy:.4f}" for side in timed if side.accuracy < contest.least_accuracy]
        sides += timed
    write_json(config.out / "benchmark.json", {"machine": machine, "sides": [side._asdict() for side in sides]})
    _draw(sides, machine, config.out)
    for failure in failures:
        console.print(f"has not learnt what it should: {failure}", style="red", highlight=False)
    return EXIT_TARGET_MISSED if failures else EXIT_OK


def time_in_turns(contest: Contest, repeats: int) -> list[Timed]:
    """Run every side once, then `repeats` times, one after the other, so that all meet the same machine."""
    with contest.around():
        first = [_seconds(side) for side in contest.sides]
        turns = [[_seconds(side) / side.units for side in contest.sides] for _ in range(repeats)]
    return list(_timed(contest, first, [list(seconds) for seconds in zip(*turns, strict=True)]))


def _seconds(side: Side) -> float:
    return timeit.timeit(side.work, number=1)


def _timed(contest: Contest, first: list[float], seconds: list[list[float]]) -> Iterator[Timed]:
    ours = statistics.median(seconds[0])
    for side, start, runs in zip(contest.sides, first, seconds, strict=True):
        median = statistics.median(runs)
        names = contest.name, side.name, contest.unit, contest.grows_with
        yield Timed(*names, start, runs, median, median / ours, side.accuracy())


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def _table(contest: Contest, timed: list[Timed]) -> Table:
    table = Table(contest.grows_with, title=contest.name, title_justify="left")
    for heading in ("first run, s", f"ms per {contest.unit}", "fastest to slowest", "times the first", "accuracy"):
        table.add_column(heading, justify="right")
    for side in timed:
        low, high = min(side.seconds), max(side.seconds)
        figures = [f"{side.first_seconds:.2f}", _ms(side.median_seconds), f"{_ms(low)} to {_ms(high)}"]
        table.add_row(side.side, *figures, f"{side.ratio:.2f}", f"{side.accuracy:.4f}")
    return table


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:,.1f}"


def _draw(sides: list[Timed], machine: str, out: Path) -> None:
    races: dict[str, dict[str, list[float]]] = {}
    growing: dict[str, tuple[str, list[int], list[list[float]]]] = {}
    for side in sides:
        milliseconds = [1000 * seconds for seconds in side.seconds]
        if side.grows_with:
            _, values, times = growing.setdefault(side.contest, (side.grows_with, [], []))
            values.append(int(side.side.replace(",", "")))
            times.append(milliseconds)
        else:
            races.setdefault(side.contest, {})[side.side] = milliseconds
    if races:
        axes = load_plots().timings(races)
        axes[-1].set_xlabel(f"milliseconds, on {machine}", fontsize=7)
        save_picture(out / "benchmark.png", axes[0])
    if growing:
        axes = load_plots().growth(growing)
        axes[0].figure.supylabel("milliseconds an epoch")
        save_picture(out / "growth.png", axes[0])


main: Any = script(BenchmarkConfig, run)
