"""Preparation of many pictures as `read_photo` does it, in threads, and with a cache."""

import concurrent.futures
import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..files import atomic_write
from . import photos, pictures
from .download import cache_directory
from .photos import Photo, prepare_photo

Progress = Callable[..., Iterable[Any]]
"""`progress(iterable, total=n)` yields the items and shows how far it has come, such as tqdm's or rich's `track`."""

_CACHE_FROM = 2.0  # seconds of work
_MAX_PIXELS = 128_000_000  # of all pictures that are prepared at once, about 12 bytes each


def prepare_pictures(
    folder: Path, files: Sequence[Path], largest: int, progress: Progress | None = None
) -> list[Photo | ValueError]:
    """Return, for each file, what `prepare_photo` makes of it, or the error that it raises.

    `largest` is the number of pixels of the largest picture, which limits the threads. What takes longer than two
    seconds is kept in the cache directory, in one file for each `folder`; there a picture is known by its path, size
    and time of change, and by the code that prepared it. Delete the directory "prepared" to empty it.
    """
    code = hashlib.sha256(Path(photos.__file__).read_bytes() + Path(pictures.__file__).read_bytes()).hexdigest()
    keys = [_identity(file) for file in files]
    cache = cache_directory() / "prepared" / f"{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]}.npz"
    known = _read_cache(cache, code)
    missing = [(key, file) for key, file in zip(keys, files, strict=True) if key not in known]
    start = time.perf_counter()
    # Threads, not processes, which would need `if __name__ == "__main__"` in the user's script. NumPy, SciPy and Pillow
    # let them run side by side.
    workers = max(1, min(os.cpu_count() or 1, _MAX_PIXELS // max(largest, 1)))
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        results = pool.map(_prepare, [file for _, file in missing])
        if progress is not None and missing:
            results = progress(results, total=len(missing))
        found = known | {key: result for (key, _), result in zip(missing, results, strict=True)}
    if time.perf_counter() - start > _CACHE_FROM:
        _write_cache(cache, code, found)
    return [found[key] for key in keys]


def _prepare(file: Path) -> Photo | ValueError:
    try:
        return prepare_photo(file)
    except ValueError as error:
        return error


def _identity(file: Path) -> str:
    status = file.stat()
    return hashlib.sha256(f"{file.resolve()} {status.st_size} {status.st_mtime_ns}".encode()).hexdigest()


def _read_cache(path: Path, code: str) -> dict[str, Photo | ValueError]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if arrays["code"] != code:
                return {}
            photos = map(Photo, arrays["images"], arrays["inverted"].tolist(), arrays["cropped"].tolist())
            return dict(zip(arrays["keys"].tolist(), photos, strict=True))
    except Exception:  # missing or damaged: everything is prepared anew
        return {}


def _write_cache(path: Path, code: str, found: dict[str, Photo | ValueError]) -> None:
    photos = {key: photo for key, photo in found.items() if isinstance(photo, Photo)}
    if not photos:
        return
    images, inverted, cropped = zip(*photos.values(), strict=True)
    with contextlib.suppress(OSError):  # without a cache it only takes longer
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            np.savez_compressed(
                temporary, code=code, keys=list(photos), images=images, inverted=inverted, cropped=cropped
            )
