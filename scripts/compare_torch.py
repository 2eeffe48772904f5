"""The same weights and the same batches through PyTorch and through JAX, in one run."""

import dataclasses
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import jax
import numpy as np
from benchmark import torch_side
from benchmark.jax_side import Task, epoch_side, make_task
from benchmark.timing import Contest, table, time_contest
from rich.console import Console
from rich.table import Table
from tyro.conf import arg

from jax_mnist import EpochRecord, History, cnn, fit_epochs, load, mlp, plots, to_state_dict
from jax_mnist.cli.console import EXIT_OK, EXIT_TARGET_MISSED, Platform, describe, script, use_platform
from jax_mnist.data.batches import epoch_indices
from jax_mnist.files import atomic_write

FLOAT64_EPOCHS = 2
FLOAT64_TOLERANCE, FLOAT32_TOLERANCE, IMAGES_TOLERANCE = 1e-12, 1e-5, 2


class Run(NamedTuple):
    """What is trained by plain SGD; `sizes` None is `cnn()`. `same` promises equal results in float32 too."""

    sizes: tuple[int, ...] | None
    learning_rate: float
    batch_size: int
    epochs: int
    same: bool = True


RUNS = {
    ("mnist_sample", "linear"): Run((784, 1), 1.0, 256, 20),
    ("mnist_sample", "mlp"): Run((784, 30, 1), 0.1, 256, 40),
    ("mnist_sample", "cnn"): Run(None, 0.1, 256, 2),
    ("mnist", "linear"): Run((784, 10), 0.1, 256, 20),
    # In float32 one of 512 ReLUs, over 938 steps an epoch, soon rounds to the other side of 0: the difference of the
    # parameters grew from 4e-7 to 5e-5 in that step and to 6e-4 in the next.
    ("mnist", "mlp"): Run((784, 512, 10), 0.3, 64, 20, same=False),
    ("mnist", "cnn"): Run(None, 0.1, 256, 2, same=False),
}


@dataclasses.dataclass(frozen=True)
class CompareTorchConfig:
    """Train in PyTorch and in JAX from the same weights over the same batches, and check that they agree.

    After two epochs in float64 the parameters must agree to 1e-12; after the whole run in float32 to 1e-5, and the
    numbers of correct images to 2. On the ten digits, rounding drives the mlp and the cnn apart in float32, so for
    these only float64 counts. The exit code is 1 if they do not agree.
    """

    dataset: Literal["mnist_sample", "mnist"] = "mnist_sample"
    """mnist_sample (3 or 7) with the chapter's loss, mnist (ten digits) with softmax cross entropy."""
    model: Literal["mlp", "linear", "cnn"] = "mlp"
    """One hidden layer (30 units, 512 for ten digits), a linear model, or cnn()."""
    epochs: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: 40, 20 or 2, see RUNS)")] = None
    """Number of epochs in float32."""
    seed: int = 0
    """Seed of the parameters and of the order of the images, for both."""
    timed_epochs: int = 5
    """Timed epochs of each side, after a first one; 0 leaves the timing out."""
    compile: bool = False
    """Try torch.compile among PyTorch's settings; compiling takes most of a minute for each of them."""
    out: Path = Path("runs/compare_torch")
    """Directory for curves.png, the plot of both runs."""
    platform: Platform = None
    """Device platform; an error if unavailable."""


class Compared(NamedTuple):
    """An epoch of both: their records, correct validation images, and the largest difference of a parameter."""

    torch: EpochRecord
    ours: EpochRecord
    torch_correct: int
    our_correct: int
    difference: float


def compare(task: Task, epochs: int) -> Iterator[Compared]:
    """Train both, in the float type of the task's parameters, and yield every epoch."""
    theirs = torch_side.make_learner(task)
    (x, y), valid = (torch_side.flat_tensors(dataset, theirs) for dataset in task.splits)
    count, images = len(x), len(task.splits.valid)
    for state, ours in fit_epochs(None, task.learner, task.splits, epochs=epochs, state=task.state):
        indices, mask = map(np.asarray, epoch_indices(task.state.key, ours.epoch - 1, count, task.learner.batch_size))
        began = time.perf_counter()
        batches = ((x[row[real]], y[row[real]]) for row, real in zip(indices, mask, strict=True))
        losses = torch_side.train(theirs.module, theirs.loss, theirs.optimizer, batches)
        trained = time.perf_counter()
        loss, correct = torch_side.evaluate(theirs, *valid)
        seconds = trained - began, time.perf_counter() - trained
        train_loss = float(np.average(losses, weights=mask.sum(axis=1)))
        pairs = zip(theirs.module.state_dict().values(), to_state_dict(state.params).values(), strict=True)
        difference = max(float(np.abs(tensor.cpu().numpy() - array).max()) for tensor, array in pairs)
        record = EpochRecord(ours.epoch, train_loss, loss, correct / images, *seconds)
        yield Compared(record, ours, correct, round(ours.accuracy * images), difference)


def run(config: CompareTorchConfig) -> int:
    """Compare as configured; return 1 if the two do not agree, else 0."""
    chosen, splits = RUNS[config.dataset, config.model], load(config.dataset)
    epochs = chosen.epochs if config.epochs is None else config.epochs
    if epochs < 1:
        raise ValueError(f"--epochs must be 1 or more, got {epochs}")
    console, device = Console(width=120), use_platform(config.platform)
    config.out.mkdir(parents=True, exist_ok=True)
    classes = 1 if config.dataset == "mnist_sample" else 10
    model = mlp(chosen.sizes) if chosen.sizes else cnn(classes=classes)

    def start() -> Task:
        options = {"batch_size": chosen.batch_size, "seed": config.seed, "platform": device.platform}
        return make_task(model, splits, chosen.learning_rate, **options)

    with jax.default_matmul_precision("highest"):
        task = start()
        settings = torch_side.fastest_epoch(task, "sliced tensors")
        console.print(f"{describe(device)}; {torch_side.version()}, {torch_side.describe(settings)}", highlight=False)
        with torch_side.threads(settings.threads):
            with jax.enable_x64(True):
                exact = max(row.difference for row in compare(start(), min(FLOAT64_EPOCHS, epochs)))
            rows = list(compare(task, epochs))
        console.print(_table(rows))
        if config.timed_epochs > 0:
            sides = [epoch_side(task)]
            for way in torch_side.WAYS:
                sides.append(torch_side.epoch_side(task, way, torch_side.fastest_epoch(task, way, config.compile)))
            contest = Contest("training only, every epoch shuffled", "epoch", sides, 0.0)
            console.print(table(time_contest(contest, config.timed_epochs)))
    histories = {"PyTorch": [row.torch for row in rows], "JAX": [row.ours for row in rows]}
    axes = plots.runs({name: History.from_records(records) for name, records in histories.items()})
    with atomic_write(config.out / "curves.png") as temporary:
        axes[0].figure.savefig(temporary, dpi=100)
    console.print(f"plot of both: {config.out / 'curves.png'}", highlight=False, soft_wrap=True)
    return EXIT_OK if _agree(exact, rows[-1], chosen.same, console) else EXIT_TARGET_MISSED


def _table(rows: list[Compared]) -> Table:
    table = Table("epoch", title="float32, on the validation images")
    for column in ("PyTorch loss", "JAX loss", "PyTorch accuracy", "JAX accuracy", "largest parameter difference"):
        table.add_column(column, justify="right")
    for row in rows:
        losses = f"{row.torch.valid_loss:.6f}", f"{row.ours.valid_loss:.6f}"
        accuracies = f"{row.torch.accuracy:.4f}", f"{row.ours.accuracy:.4f}"
        table.add_row(str(row.ours.epoch), *losses, *accuracies, f"{row.difference:.1e}")
    return table


def _agree(exact: float, last: Compared, same: bool, console: Console) -> bool:
    """Print the three checks; return whether those that count hold."""
    correct = f"{last.torch_correct:,} correct in PyTorch, {last.our_correct:,} in JAX"
    apart = abs(last.torch_correct - last.our_correct)
    difference = "largest difference of a parameter"
    checks = [
        (f"float64: {difference} {exact:.1e}, below {FLOAT64_TOLERANCE:g}", exact < FLOAT64_TOLERANCE, True),
        (
            f"float32: {difference} {last.difference:.1e}, at most {FLOAT32_TOLERANCE:g}",
            last.difference <= FLOAT32_TOLERANCE,
            same,
        ),
        (f"float32: {correct}, at most {IMAGES_TOLERANCE} apart", apart <= IMAGES_TOLERANCE, same),
    ]
    for text, holds, counts in checks:
        word = "yes" if holds else "NO " if counts else "no, not promised for this run:"
        console.print(f"{word} {text}", style="red" if counts and not holds else "", highlight=False, soft_wrap=True)
    return all(holds for _, holds, counts in checks if counts)


main: Any = script(CompareTorchConfig, run)

if __name__ == "__main__":
    sys.exit(main())
