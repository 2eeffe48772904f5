"""The IDX format, in which MNIST is published: parse it, write it."""

import gzip
import hashlib
import io
import math
import zlib
from pathlib import Path

import numpy as np

from ...files import atomic_write

MAX_BYTES = 640 * 2**20
"""The largest array that is read: EMNIST, the largest of the family, has 522 MiB."""

_PIECE = 2**20


def find_idx(directory: Path, name: str) -> Path | None:
    """The file of that name in a directory, plain or .gz, spelled with a hyphen or a dot before "idx"."""
    return next((directory / spelling for spelling in spellings(name) if (directory / spelling).is_file()), None)


def spellings(name: str) -> list[str]:
    """The names under which an IDX file is found.

    >>> spellings("t10k-labels-idx1-ubyte")[1:3]
    ['t10k-labels-idx1-ubyte.gz', 't10k-labels.idx1-ubyte']
    """
    return [f"{stem}{suffix}" for stem in (name, name.replace("-idx", ".idx")) for suffix in ("", ".gz")]


def check_sha256(path: Path, sha256: str) -> None:
    """Raise ValueError where the file, as it lies there, has another checksum."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != sha256:
        raise ValueError(f"{path}: sha256 of the file is {digest}, expected {sha256}, that of the published .gz")


def read_idx(path: str | Path, dimensions: int, sha256: str | None = None) -> np.ndarray:
    """The uint8 array in an IDX file, which may be gzipped.

    `dimensions` is 3 for images [n, h, w], 1 for labels [n]; `sha256`, where given, is that of the uncompressed
    contents. Raises FileNotFoundError where there is no such file, ValueError, naming the file, where it is
    not such an IDX file, is cut short or too long, or has another checksum.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "labels.gz"
    >>> write_idx(path, np.array([5, 0, 4], np.uint8))
    >>> read_idx(path, dimensions=1)
    array([5, 0, 4], dtype=uint8)
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file; expected an IDX file, plain or .gz")
    try:
        with path.open("rb") as raw:
            gzipped = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            if path.suffix == ".gz" and not gzipped:
                raise ValueError(f"{path}: is not a gzip file, though its name ends in .gz")
            with gzip.GzipFile(fileobj=raw) if gzipped else raw as file:
                return _parse(path, file, dimensions, sha256)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}: the gzip data is damaged or cut short ({error})") from error


def _parse(path: Path, file: io.BufferedIOBase, dimensions: int, sha256: str | None) -> np.ndarray:
    header = file.read(4 + 4 * dimensions)
    magic = bytes([0, 0, 8, dimensions])
    if header[:4] != magic:
        raise ValueError(
            f"{path}: wrong magic number {header[:4].hex() or '(empty file)'}; "
            f"an IDX file of uint8 with {dimensions} dimension(s) starts with {magic.hex()}"
        )
    if len(header) < 4 + 4 * dimensions:
        raise ValueError(f"{path}: cut short in its header of {4 + 4 * dimensions} bytes")
    shape = tuple(int(size) for size in np.frombuffer(header[4:], ">u4"))
    size = math.prod(shape)
    if size > MAX_BYTES:
        raise ValueError(f"{path}: announces {shape} = {size:,} bytes, more than the {MAX_BYTES:,} that are read")
    data = bytearray()  # grows with what is there, not with what is announced
    while piece := file.read(min(_PIECE, size + 1 - len(data))):
        data += piece
    if len(data) != size:
        found = f"{len(data):,}" if len(data) < size else "more"
        raise ValueError(f"{path}: announces {shape} = {size:,} bytes of data but holds {found}")
    if sha256 is not None:
        digest = hashlib.sha256(header)
        digest.update(data)
        if digest.hexdigest() != sha256:
            raise ValueError(f"{path}: sha256 of the contents is {digest.hexdigest()}, expected {sha256}")
    return np.frombuffer(data, np.uint8).reshape(shape)


def write_idx(path: str | Path, array: np.ndarray) -> None:
    """Write a uint8 array of any number of dimensions as an IDX file, gzipped where the name ends in .gz.

    Raises ValueError for another dtype.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "images"
    >>> write_idx(path, np.zeros((2, 28, 28), np.uint8))
    >>> read_idx(path, dimensions=3).shape
    (2, 28, 28)
    """
    if array.dtype != np.uint8:
        raise ValueError(f"{path}: an IDX file here holds uint8, not {array.dtype}")
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    contents = header + array.tobytes()
    path = Path(path)
    with atomic_write(path) as temporary:
        temporary.write_bytes(gzip.compress(contents, mtime=0) if path.suffix == ".gz" else contents)
