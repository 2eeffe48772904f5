"""Reader and writer for IDX, the file format in which MNIST is published."""

import gzip
import hashlib
import io
import math
from pathlib import Path
from typing import Any

import numpy as np

from ...files import atomic_write, open_maybe_gzipped

MAX_BYTES = 640 * 2**20
"""Size limit of an array: EMNIST, the largest dataset of the family, has 522 MiB."""

_CHUNK_BYTES = 2**20
_CODES = {"uint8": 8, "int32": 12}


def find_idx(directory: Path, name: str) -> Path | None:
    """Return the path of an IDX file in a directory, or None; `spellings` lists the file names that it accepts.

    The file may be in a folder that has its name, which 7-Zip makes when it unpacks a .gz.
    """
    names = spellings(name)
    folders = [directory / folder for folder in names if (directory / folder).is_dir()]
    paths = (top / spelling for top in (directory, *folders) for spelling in names)
    return next((path for path in paths if path.is_file()), None)


def spellings(name: str) -> list[str]:
    """Return the accepted file names of an IDX file: plain or .gz, with a hyphen or a dot before "idx".

    >>> spellings("t10k-labels-idx1-ubyte")[1:3]
    ['t10k-labels-idx1-ubyte.gz', 't10k-labels.idx1-ubyte']
    """
    return [f"{stem}{suffix}" for stem in (name, name.replace("-idx", ".idx")) for suffix in ("", ".gz")]


def check_sha256(path: Path, sha256: str) -> None:
    """Raise ValueError if the file's bytes, not decompressed, have another checksum."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != sha256:
        raise ValueError(f"{path}: sha256 of the file must be {sha256}, that of the published .gz, got {digest}")


def read_idx(path: str | Path, dimensions: int, sha256: str | None = None, dtype: Any = np.uint8) -> np.ndarray:
    """Read the array in an IDX file, plain or gzipped.

    `dimensions` is 3 for images [n, h, w], 1 for labels [n]. `sha256`, if given, is the checksum of the decompressed
    contents. `dtype` is uint8 or, for QMNIST's labels, int32. Raises FileNotFoundError if the file does not exist, and
    ValueError, naming the file, if it is not an IDX file of that dtype with that many dimensions, is too short or too
    long, declares more than MAX_BYTES, or has another checksum.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "labels.gz"
    >>> write_idx(path, np.array([5, 0, 4], np.uint8))
    >>> read_idx(path, dimensions=1)
    array([5, 0, 4], dtype=uint8)
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file; expected an IDX file, plain or .gz")
    with open_maybe_gzipped(path) as file:
        return _parse(path, file, dimensions, sha256, np.dtype(dtype))


def _parse(
    path: Path, file: io.BufferedIOBase, dimensions: int, sha256: str | None, dtype: np.dtype[Any]
) -> np.ndarray:
    """Parse an IDX header (two zero bytes, dtype code, rank, then big-endian sizes) and its big-endian data."""
    header = file.read(4 + 4 * dimensions)
    magic = bytes([0, 0, _CODES[dtype.name], dimensions])
    if header[:4] != magic:
        raise ValueError(
            f"{path}: the magic number of an IDX file of {dtype} with {dimensions} dimension(s) must be {magic.hex()}, "
            f"got {header[:4].hex() or 'an empty file'}"
        )
    if len(header) < 4 + 4 * dimensions:
        raise ValueError(f"{path}: the header is truncated: must have {4 + 4 * dimensions} bytes, got {len(header)}")
    shape = tuple(int(size) for size in np.frombuffer(header[4:], ">u4"))
    size = math.prod(shape) * dtype.itemsize
    if size > MAX_BYTES:
        raise ValueError(f"{path}: header declares {shape} = {size:,} bytes, over the limit of {MAX_BYTES:,}")
    # The buffer grows with the bytes that are there, so that a false header cannot allocate memory. Reading stops one
    # byte past the declared size, which is enough to detect a file that is too long.
    data = bytearray()
    while chunk := file.read(min(_CHUNK_BYTES, size + 1 - len(data))):
        data += chunk
    if len(data) != size:
        found = f"{len(data):,}" if len(data) < size else "more"
        raise ValueError(f"{path}: header declares {shape} = {size:,} bytes of data, the file has {found}")
    if sha256 is not None:
        digest = hashlib.sha256(header)
        digest.update(data)
        if digest.hexdigest() != sha256:
            raise ValueError(f"{path}: sha256 of the contents must be {sha256}, got {digest.hexdigest()}")
    return np.frombuffer(data, dtype.newbyteorder(">")).reshape(shape).astype(dtype, copy=False)


def write_idx(path: str | Path, array: np.ndarray) -> None:
    """Write a uint8 array of any number of dimensions as an IDX file, gzipped if the name ends in .gz.

    Raises ValueError for other dtypes.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "images"
    >>> write_idx(path, np.zeros((2, 28, 28), np.uint8))
    >>> read_idx(path, dimensions=3).shape
    (2, 28, 28)
    """
    if array.dtype != np.uint8:
        raise ValueError(f"{path}: array must be uint8, got {array.dtype}")
    path = Path(path)
    contents = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()
    with atomic_write(path) as temporary:
        # mtime=0 makes the .gz reproducible: by default, it contains the time of writing.
        temporary.write_bytes(gzip.compress(contents, mtime=0) if path.suffix == ".gz" else contents)
