"""Location or download of the MNIST-family files, verified by SHA-256."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import platformdirs

from ..files import atomic_write
from .formats.idx import find_idx
from .registry import FAMILY, IMAGES_AND_LABELS

TIMEOUT = 20.0
"""Seconds without data after which a request fails."""

_ATTEMPTS = 2


def cache_directory() -> Path:
    """Return the directory of downloads: the environment variable JAX_MNIST_CACHE, else the platform's cache folder."""
    configured = os.environ.get("JAX_MNIST_CACHE")
    return Path(configured or platformdirs.user_cache_dir("jax_mnist")).expanduser()


def present(name: str) -> Path | None:
    """Return the directory that has all four files of "mnist", "fashion_mnist" or "kmnist", or None.

    Installed files come before the cache. Nothing is downloaded and no checksum is computed.

    >>> present("mnist").name
    'bundled'
    """
    directories = (*FAMILY[name].directories, cache_directory() / name)
    return next((directory for directory in directories if not _missing_files(directory)), None)


def fetch(name: str) -> Path:
    """Return the directory that has all four files of a dataset, after downloading those that the cache lacks.

    Raises FileNotFoundError if no mirror has a missing file.
    """
    found = present(name)
    if found is not None:
        return found
    source, directory = FAMILY[name], cache_directory() / name
    directory.mkdir(parents=True, exist_ok=True)
    for file in _missing_files(directory):
        download(directory / f"{file}.gz", [f"{mirror}{file}.gz" for mirror in source.mirrors], source.archives[file])
    return directory


def download(path: Path, urls: Sequence[str], sha256: str, timeout: float = TIMEOUT) -> None:
    """Download a file from the first URL that serves the contents with the given SHA-256.

    All URLs are tried in order, then all once more. `timeout` is in seconds without data. The file is downloaded to a
    temporary path and renamed to `path` after its checksum is verified, so that `path` never has other contents, even
    after a crash or with concurrent downloads. Shows a progress bar on a terminal. Raises FileNotFoundError, with the
    file and the error of each URL, if all fail.
    """
    import pooch
    import requests

    downloader = pooch.HTTPDownloader(
        progressbar=sys.stderr.isatty(),
        chunk_size=2**16,
        timeout=timeout,
        # Some servers declare .gz as a transfer encoding, and requests then decompresses the file.
        headers={"Accept-Encoding": "identity"},
    )
    errors: dict[str, str] = {}
    for url in [*urls] * _ATTEMPTS:
        try:
            with atomic_write(path) as temporary:
                downloader(url, str(temporary), None)
                digest = pooch.file_hash(str(temporary))
                if digest != sha256:
                    size = temporary.stat().st_size
                    raise ValueError(f"sent a different file: sha256 must be {sha256}, got {digest} ({size:,} bytes)")
            return
        except (ValueError, requests.RequestException) as error:
            # A ConnectionError or timeout has a long message of urllib3 objects; its type says as much.
            readable = isinstance(error, ValueError | requests.HTTPError)
            errors[url] = str(error) if readable else type(error).__name__
    failures = "; ".join(f"{url}: {error}" for url, error in errors.items())
    raise FileNotFoundError(
        f"{path}: download failed; to continue without it, put {path.name} into {path.parent} (tried {failures})"
    )


def _missing_files(directory: Path) -> list[str]:
    names = [name for pair in IMAGES_AND_LABELS.values() for name in pair]
    return [name for name in names if find_idx(directory, name) is None]
