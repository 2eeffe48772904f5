"""The files of the MNIST family: found on this machine, or downloaded, checked, and only then in place."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import platformdirs

from ..files import atomic_write
from .formats.idx import find_idx
from .registry import FAMILY, IMAGES_AND_LABELS

TIMEOUT = 20.0
"""Seconds after which a server that sends nothing is given up."""

_ROUNDS = 2


def cache_directory() -> Path:
    """Where downloads are kept: the environment variable JAX_MNIST_CACHE, else the platform's cache folder."""
    chosen = os.environ.get("JAX_MNIST_CACHE")
    return Path(chosen or platformdirs.user_cache_dir("jax_mnist")).expanduser()


def present(name: str) -> Path | None:
    """The directory that holds all four files of "mnist", "fashion_mnist" or "kmnist", None where none does.

    >>> present("mnist").name
    'bundled'
    """
    installed = (directory for directory in FAMILY[name].directories if not _missing(directory))
    cached = cache_directory() / name
    return next(installed, None if _missing(cached) else cached)


def fetch(name: str) -> Path:
    """The directory that holds all four files of the dataset, after downloading those that the cache lacks.

    Raises FileNotFoundError where a file is nowhere and no mirror gives it.
    """
    found = present(name)
    if found is not None:
        return found
    source, directory = FAMILY[name], cache_directory() / name
    directory.mkdir(parents=True, exist_ok=True)
    for file in _missing(directory):
        download(directory / f"{file}.gz", [f"{mirror}{file}.gz" for mirror in source.mirrors], source.archives[file])
    return directory


def download(path: Path, urls: Sequence[str], sha256: str, timeout: float = TIMEOUT) -> None:
    """Download a file from the first address that gives the right one.

    Each is tried twice, in turn. It is written under a temporary name and moved to `path` in one step when its
    sha256 is right, so that nothing else is ever there, whatever is interrupted and however many do it at once.
    A progress bar shows on a terminal. Raises FileNotFoundError with the file, the addresses and what each of
    them answered where none gives it.
    """
    import pooch
    import requests

    downloader = pooch.HTTPDownloader(
        progressbar=sys.stderr.isatty(),
        chunk_size=2**16,
        timeout=timeout,
        headers={"Accept-Encoding": "identity"},  # else requests may unpack what it hands over
    )
    answers: dict[str, str] = {}
    for url in [*urls] * _ROUNDS:
        try:
            with atomic_write(path) as temporary:
                downloader(url, str(temporary), None)
                digest = pooch.file_hash(str(temporary))
                if digest != sha256:
                    size = temporary.stat().st_size
                    raise ValueError(f"sent another file, {size:,} bytes with sha256 {digest} instead of {sha256}")
            return
        except (ValueError, requests.RequestException) as error:
            told = isinstance(error, ValueError | requests.HTTPError)
            answers[url] = str(error) if told else type(error).__name__
    failures = "; ".join(f"{url}: {answer}" for url, answer in answers.items())
    raise FileNotFoundError(
        f"{path}: could not be downloaded; to go on without, put {path.name} into {path.parent} (tried {failures})"
    )


def _missing(directory: Path) -> list[str]:
    names = [name for pair in IMAGES_AND_LABELS.values() for name in pair]
    return [name for name in names if find_idx(directory, name) is None]
