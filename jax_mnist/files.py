"""Atomic writes, and read and write errors that name the file."""

import contextlib
import gzip
import io
import os
import secrets
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path that replaces `path` when the block ends, or is deleted if the block fails.

    The temporary file is in the same directory. A reader of `path` finds either the old contents or the new, at any
    moment and after any crash. Raises OSError, naming `path` and not the temporary file, if it cannot be written.

    >>> target = Path(tempfile.mkdtemp()) / "result.txt"
    >>> with atomic_write(target) as temporary:
    ...     _ = temporary.write_text("done")
    >>> target.read_text()
    'done'
    """
    path = Path(path)
    temporary = path.parent / f".{path.stem}-{secrets.token_hex(4)}{path.suffix}"
    with name_write_errors(path):
        temporary.touch(exist_ok=False)  # not tempfile's, which only its owner can open
    try:
        yield temporary
        with name_write_errors(path):
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())  # otherwise a power failure after the rename can leave an empty file
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def make_writable(directory: Path) -> None:
    """Create a directory if it is missing, and raise OSError now, not after training, if nothing can be written there.

    >>> target = Path(tempfile.mkdtemp()) / "run"
    >>> make_writable(target)
    >>> target.is_dir(), list(target.iterdir())
    (True, [])
    """
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=directory):
        pass


@contextlib.contextmanager
def name_write_errors(path: str | Path) -> Iterator[None]:
    """Re-raise an OSError of the block with `path` in it; a full disk raises one that names no file."""
    try:
        yield
    except OSError as error:
        message = f"cannot write ({error.strerror}); any existing file is unchanged"
        raise OSError(error.errno, message, str(path)) from error


@contextlib.contextmanager
def new_directory(path: str | Path) -> Iterator[Path]:
    """Yield a temporary directory that is renamed to `path` when the block ends, or deleted if the block fails.

    Creates missing parent directories. Raises ValueError if `path` is a file or a directory that is not empty.

    >>> target = Path(tempfile.mkdtemp()) / "results"
    >>> with new_directory(target) as temporary:
    ...     _ = (temporary / "result.txt").write_text("done")
    >>> [file.name for file in target.iterdir()]
    ['result.txt']
    """
    path = Path(path)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise ValueError(f"{path}: already exists and is not an empty directory; nothing was written")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}-{secrets.token_hex(4)}"
    temporary.mkdir()
    try:
        yield temporary
        if path.exists():
            path.rmdir()  # some systems cannot rename a directory onto an empty one
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def name_parse_errors(path: str | Path, kind: str) -> Iterator[None]:
    """Re-raise any exception of the block, in which another library parses `path`, as a ValueError that names it.

    >>> with name_parse_errors("digit.png", "PNG"):
    ...     raise KeyError(7)
    Traceback (most recent call last):
    ValueError: digit.png: is not a readable PNG (KeyError: 7)
    """
    try:
        yield
    except Exception as error:  # on malformed bytes, parsers raise many types, among them struct.error
        raise ValueError(f"{path}: is not a readable {kind} ({type(error).__name__}: {error})") from error


@contextlib.contextmanager
def open_maybe_gzipped(path: Path) -> Iterator[io.BufferedIOBase]:
    """Open a file for reading bytes, decompressed if it is gzipped, whatever its name.

    Raises ValueError, naming the file, if the gzip data is damaged, or if the name ends in .gz and the file is not
    gzipped.
    """
    try:
        with path.open("rb") as raw:
            gzipped = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            if path.suffix == ".gz" and not gzipped:
                raise ValueError(f"{path}: is not a gzip file, although its name ends in .gz")
            with gzip.GzipFile(fileobj=raw) if gzipped else raw as file:
                yield file
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}: the gzip data is damaged or truncated ({error})") from error
