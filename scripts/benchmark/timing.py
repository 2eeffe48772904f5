"""The timer: the sides of a contest run in turns, so that all meet the same state of the machine."""

import statistics
import timeit
from collections.abc import Callable, Sequence
from typing import NamedTuple

from rich.table import Table

Work = Callable[[], object]
"""A run, finished when the call returns."""


class Side(NamedTuple):
    """One way to do the work of a contest. `accuracy`, in [0, 1], is asked for after the last run."""

    name: str
    work: Work
    accuracy: Callable[[], float]
    units: int = 1
    """The number of the contest's units, such as epochs, in one run."""


class Contest(NamedTuple):
    """Sides that do the same work, ours first; each must reach `least_accuracy`.

    If `grows_with` names a quantity, the sides are ours at growing values of it, and their names are the values.
    """

    name: str
    unit: str
    sides: Sequence[Side]
    least_accuracy: float
    grows_with: str = ""


class Timed(NamedTuple):
    """The times of one side. `first_seconds` is its first run, which compiles and warms up."""

    contest: str
    side: str
    unit: str
    grows_with: str
    first_seconds: float
    seconds: list[float]
    """Seconds per unit of each later run."""
    median_seconds: float
    ratio: float
    """The median divided by that of the first side."""
    accuracy: float


def time_in_turns(works: Sequence[Work], repeats: int) -> list[list[float]]:
    """Run each work once, then each `repeats` times more, in turns; return the seconds of each work's runs."""
    turns = [[timeit.timeit(work, number=1) for work in works] for _ in range(1 + repeats)]
    return [list(seconds) for seconds in zip(*turns, strict=True)]


def time_contest(contest: Contest, repeats: int) -> list[Timed]:
    """Return the times of all sides, over `repeats` runs after the first."""
    timed = []
    for side, (first, *later) in zip(
        contest.sides, time_in_turns([side.work for side in contest.sides], repeats), strict=True
    ):
        seconds = [run / side.units for run in later]
        median = statistics.median(seconds)
        ratio = median / timed[0].median_seconds if timed else 1.0
        names = contest.name, side.name, contest.unit, contest.grows_with
        timed.append(Timed(*names, first, seconds, median, ratio, side.accuracy()))
    return timed


def table(timed: Sequence[Timed]) -> Table:
    """Return one contest's times as a table."""
    table = Table(timed[0].grows_with, title=timed[0].contest, title_justify="left")
    for heading in ("first run, s", f"ms per {timed[0].unit}", "fastest to slowest", "ratio", "accuracy"):
        table.add_column(heading, justify="right")
    for side in timed:
        median, fastest, slowest = (
            f"{1000 * seconds:,.1f}" for seconds in (side.median_seconds, min(side.seconds), max(side.seconds))
        )
        figures = f"{side.first_seconds:.2f}", median, f"{fastest} to {slowest}", f"{side.ratio:.2f}"
        table.add_row(side.side, *figures, f"{side.accuracy:.4f}")
    return table
