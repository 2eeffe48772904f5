"""`compare_torch`: the same weights and the same batches through PyTorch and through JAX, in one run."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import jax
from rich.console import Console
from rich.table import Table
from tyro.conf import arg

from .. import class_names, load
from ..types import History
from . import torch_side
from .console import EXIT_OK, EXIT_TARGET_MISSED, Platform, describe, script, use_platform
from .pictures import load_plots, save_picture
from .recipes import choose_recipe, make_loss, make_model
from .side_by_side import Compared, Task, Timing, compare, few_steps, time_variants

FLOAT64_EPOCHS = 2
FLOAT64_TOLERANCE, FLOAT32_TOLERANCE, IMAGES_TOLERANCE = 1e-12, 1e-5, 2


@dataclasses.dataclass(frozen=True)
class CompareTorchConfig:
    """Train in PyTorch and in JAX from the same weights over the same batches, and show that they are the same.

    A short run in float64 must end with the same parameters to 1e-12; the whole run, in float32, within 1e-5 of
    PyTorch's parameters and within 2 images of its accuracy, except for the ten digits' mlp, which rounding drives
    apart. Else the exit code is 1. The recipe is that of `train`.
    """

    dataset: Literal["mnist_sample", "mnist"] = "mnist_sample"
    """mnist_sample (3 or 7) with the chapter's loss, mnist (ten digits) with softmax cross entropy."""
    model: Literal["mlp", "linear", "cnn"] = "mlp"
    """The chapter's two-layer net, one linear layer, or cnn(), trained by SGD here."""
    epochs: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: that of train; cnn 2)")] = None
    """How often every training image is seen."""
    seed: int = 0
    """Draws the parameters and the order of the images, for both."""
    timed_epochs: int = 5
    """Epochs timed of every variant, in turns; their median is shown. 0 leaves the timing out."""
    compile: bool = True
    """Time torch.compile too, which can take a minute to compile."""
    out: Path = Path("runs/compare_torch")
    """Where the plot of both runs goes, curves.png."""
    platform: Platform = None
    """Run there or fail: never a silent fall back to another."""


def run(config: CompareTorchConfig) -> int:
    """Compare as configured; the exit code says whether the two agree."""
    torch_side.import_torch()
    console, device = Console(), use_platform(config.platform)
    task, epochs = _task(config, torch_side.choose_device(device.platform))
    config.out.mkdir(parents=True, exist_ok=True)
    with jax.default_matmul_precision("highest"), torch_side.faster_threads(few_steps(task)):
        console.print(f"{describe(device)}; {torch_side.describe(task.device)}", highlight=False, soft_wrap=True)
        with jax.enable_x64(True):
            exact = max(row.difference for row in compare(task, min(FLOAT64_EPOCHS, epochs)))
        rows = list(compare(task, epochs))
        console.print(_table(rows))
        if config.timed_epochs > 0:
            console.print(_timing_table(time_variants(task, config.timed_epochs, config.compile)))
    histories = {
        "PyTorch": History.from_records([row.torch for row in rows]),
        "JAX": History.from_records([row.ours for row in rows]),
    }
    save_picture(config.out / "curves.png", load_plots().runs(histories)[0])
    console.print(f"curves of both: {config.out / 'curves.png'}", highlight=False, soft_wrap=True)
    # Ten digits through 512 ReLUs, 938 steps an epoch: in float32 one soon rounds to the other side of 0, and the
    # difference grew from 4e-7 to 5e-5 in that step and to 6e-4 in the next.
    promised = config.dataset == "mnist_sample" or config.model == "linear"
    return _verdict(exact, rows[-1], console, promised)


def _task(config: CompareTorchConfig, torch_device: str) -> tuple[Task, int]:
    count = len(class_names(config.dataset))
    epochs = 2 if config.model == "cnn" and config.epochs is None else config.epochs
    recipe = choose_recipe(count, config.model, "sgd", epochs=epochs, label_smoothing=0.0)
    task = Task(
        splits=load(config.dataset),
        model=make_model(recipe, count),
        loss_fn=make_loss(count),
        learning_rate=recipe.learning_rate,
        batch_size=recipe.batch_size,
        seed=config.seed,
        device=torch_device,
    )
    return task, recipe.epochs


def _table(rows: list[Compared]) -> Table:
    columns = "epoch", "PyTorch loss", "JAX loss", "PyTorch accuracy", "JAX accuracy", "largest parameter difference"
    table = Table(title="float32, on the validation images")
    for column in columns:
        table.add_column(column, justify="right")
    for row in rows:
        losses = f"{row.torch.valid_loss:.6f}", f"{row.ours.valid_loss:.6f}"
        accuracies = f"{row.torch.accuracy:.4f}", f"{row.ours.accuracy:.4f}"
        table.add_row(str(row.ours.epoch), *losses, *accuracies, f"{row.difference:.1e}")
    return table


def _timing_table(timings: list[Timing]) -> Table:
    table = Table("", "epoch", title="training alone, every epoch shuffled")
    for column in ("first epoch, s", "ms per epoch"):
        table.add_column(column, justify="right")
    for timing in timings:
        numbers = f"{timing.first_seconds:.2f}", f"{timing.milliseconds:.1f}"
        table.add_row(timing.framework, timing.variant, *(("fails", "") if timing.failure else numbers))
    table.caption = "\n".join(f"{timing.variant}: {timing.failure}" for timing in timings if timing.failure)
    return table


def _verdict(exact: float, last: Compared, console: Console, float32_promised: bool) -> int:
    right = f"{last.torch_correct:,} right in PyTorch, {last.our_correct:,} in JAX"
    apart = abs(last.torch_correct - last.our_correct)
    exact_kept, float32_kept = exact < FLOAT64_TOLERANCE, last.difference <= FLOAT32_TOLERANCE
    lines = [
        (f"float64: largest parameter difference {exact:.1e}, below {FLOAT64_TOLERANCE:g}", exact_kept, True),
        (
            f"float32: largest parameter difference {last.difference:.1e}, at most {FLOAT32_TOLERANCE:g}",
            float32_kept,
            float32_promised,
        ),
        (f"float32: {right}, at most {IMAGES_TOLERANCE} apart", apart <= IMAGES_TOLERANCE, float32_promised),
    ]
    for text, kept, promised in lines:
        word = "yes" if kept else "NO " if promised else "no, nor promised for this run:"
        console.print(f"{word} {text}", style="red" if promised and not kept else "", highlight=False, soft_wrap=True)
    return EXIT_OK if all(kept for _, kept, promised in lines if promised) else EXIT_TARGET_MISSED


main = script(CompareTorchConfig, run)
