"""Event files for TensorBoard, without TensorFlow."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ..types import EpochRecord


@contextlib.contextmanager
def tensorboard(directory: Path | None, records: Sequence[EpochRecord]) -> Iterator[Callable[[EpochRecord], None]]:
    """Yield a function that adds an epoch to the directory's event files; without a directory it does nothing.

    Existing event files are replaced by `records`, the finished epochs of a resumed run. Raises ValueError if
    tensorboardX is not installed.
    """
    if directory is None:
        yield lambda record: None
        return
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise ValueError('--tensorboard needs tensorboardX: pip install "jax_mnist[tensorboard]"') from error
    for old in directory.glob("events.out.tfevents.*"):
        old.unlink()
    with SummaryWriter(str(directory)) as writer:

        def log(record: EpochRecord) -> None:
            for name in ("train_loss", "valid_loss", "accuracy"):
                writer.add_scalar(name, getattr(record, name), record.epoch)
            writer.flush()

        for record in records:
            log(record)
        yield log
