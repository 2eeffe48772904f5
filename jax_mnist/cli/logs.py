"""Event files for TensorBoard, without TensorFlow."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ..types import EpochRecord


@contextlib.contextmanager
def tensorboard(directory: Path | None, rows: Sequence[EpochRecord]) -> Iterator[Callable[[EpochRecord], None]]:
    """Inside, a function that adds an epoch to the directory's event files; one that does nothing without a directory.

    What was logged there before is replaced by `rows`, the epochs that a resumed run has behind it. Raises ValueError
    where tensorboardX is not installed.
    """
    if directory is None:
        yield lambda row: None
        return
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise ValueError('--tensorboard needs tensorboardX: pip install "jax_mnist[tensorboard]"') from error
    for old in directory.glob("events.out.tfevents.*"):
        old.unlink()
    with SummaryWriter(str(directory)) as writer:

        def log(row: EpochRecord) -> None:
            for name in ("train_loss", "valid_loss", "accuracy"):
                writer.add_scalar(name, getattr(row, name), row.epoch)
            writer.flush()

        for row in rows:
            log(row)
        yield log
