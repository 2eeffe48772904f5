"""Files and directories that are never half written, and damaged ones that are named."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path`; it takes the place of `path` when the block ends, and is gone if it fails.

    Whoever reads `path`, at any moment and after any crash, finds the old contents or the new. Raises OSError, naming
    `path` and not the temporary one, where it cannot be written.

    >>> target = Path(tempfile.mkdtemp()) / "result.txt"
    >>> with atomic_write(target) as temporary:
    ...     _ = temporary.write_text("done")
    >>> target.read_text()
    'done'
    """
    path = Path(path)
    with writing(path):
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
        os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        with writing(path):
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            _open_up(temporary, 0o666)
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Say of an OSError in the block which file cannot be written; a full disk's does not say so itself."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"cannot be written ({error.strerror}); what was there stays", str(path)) from error


@contextlib.contextmanager
def new_directory(path: str | Path) -> Iterator[Path]:
    """A temporary directory beside `path`; it becomes `path` when the block ends, and is gone if it fails.

    Parents are made where they lack. Raises ValueError where `path` is a file or a directory with something in it.

    >>> target = Path(tempfile.mkdtemp()) / "results"
    >>> with new_directory(target) as temporary:
    ...     _ = (temporary / "result.txt").write_text("done")
    >>> [file.name for file in target.iterdir()]
    ['result.txt']
    """
    path = Path(path)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise ValueError(f"{path}: exists and is no empty directory; nothing was written")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-"))
    try:
        yield temporary
        _open_up(temporary, 0o777)
        if path.exists():
            path.rmdir()  # not every system moves a directory onto an empty one
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def parsing(path: str | Path, kind: str) -> Iterator[None]:
    """A block that has another library parse a file; whatever it raises becomes a ValueError that names the file.

    >>> with parsing("digit.png", "PNG"):
    ...     raise KeyError(7)
    Traceback (most recent call last):
    ValueError: digit.png: is no readable PNG (KeyError: 7)
    """
    try:
        yield
    except Exception as error:  # for bytes that make no sense parsers raise a dozen kinds, struct.error among them
        raise ValueError(f"{path}: is no readable {kind} ({type(error).__name__}: {error})") from error


def _open_up(temporary: Path, mode: int) -> None:
    """Give what tempfile made for its owner alone the permissions that any new file has."""
    umask = os.umask(0)
    os.umask(umask)
    temporary.chmod(mode & ~umask)
