"""Loading of datasets by name or path, and splits of them."""

from pathlib import Path

import jax
import numpy as np
from jaxtyping import Int, PRNGKeyArray

from ..types import Dataset, Splits
from .download import fetch
from .formats.idx import check_sha256, find_idx, read_idx, spellings
from .formats.image_folder import SIDE, class_folders, is_image_folder, read_folder
from .registry import DIGITS, FAMILY, IMAGES_AND_LABELS, Source

_SAMPLE_CLASSES = ("7", "3")  # the chapter's labels: 1 for a 3, 0 for a 7
_TFDS = "tfds:"


def load(name_or_path: str | Path) -> Splits:
    """Load the training and validation images of a dataset.

    - "mnist": all ten digits, 60,000 and 10,000 images; bundled.
    - "mnist_sample": the chapter's 3s and 7s in the chapter's order, 12,396 and 2,038 images; a 3 has label 1, a 7 has
      label 0; bundled.
    - "fashion_mnist", "kmnist": the sizes of "mnist"; found on this machine or downloaded, see `data/download.py`.
    - "tfds:NAME": a dataset that TensorFlow Datasets has prepared on this machine, see `data/formats/tfds.py`.
    - Anything else is a path to a directory: the four IDX files, plain or .gz, or an image folder in fastai's layout
      (train/3/10.png, valid/...).

    The files of the first three are verified by SHA-256. Returns Splits of Dataset(images uint8 [n, 28, 28], labels
    int32 [n]) as NumPy arrays. Raises FileNotFoundError if something does not exist and ValueError if it is damaged,
    naming the file.

    >>> train, valid = load("mnist_sample")
    >>> train.images.shape, train.labels[:3].tolist(), len(valid)
    ((12396, 28, 28), [1, 1, 1], 2038)
    """
    if name_or_path in known_names():
        return load_known(str(name_or_path))
    if str(name_or_path).startswith(_TFDS):
        from .formats.tfds import read_tfds

        return read_tfds(str(name_or_path).removeprefix(_TFDS))
    path = _existing_directory(name_or_path)
    return read_folder(path) if is_image_folder(path) else _read_idx_directory(path)


def load_known(name: str, directory: Path | None = None) -> Splits:
    """Load one of `known_names()`, by default from its usual location, else from a directory with its IDX files.

    The files are verified by SHA-256 in both cases. Raises as `load` does.
    """
    if name == "mnist_sample":
        return Splits(*(_threes_and_sevens(digits) for digits in load_known("mnist", directory)))
    return _read_idx_directory(directory or fetch(name), FAMILY[name])


def known_names() -> tuple[str, ...]:
    """Return the names that `load` accepts besides "tfds:NAME" and paths.

    >>> known_names()
    ('mnist_sample', 'mnist', 'fashion_mnist', 'kmnist')
    """
    return ("mnist_sample", *FAMILY)


def class_names(name_or_path: str | Path) -> tuple[str, ...]:
    """Return the class names of a dataset, indexed by label.

    `name_or_path` is as in `load`. Raises FileNotFoundError if it does not exist.

    >>> class_names("mnist_sample")
    ('7', '3')
    """
    if name_or_path in known_names():
        return _SAMPLE_CLASSES if name_or_path == "mnist_sample" else FAMILY[str(name_or_path)].classes
    if str(name_or_path).startswith(_TFDS):
        from .formats.tfds import tfds_class_names

        return tfds_class_names(str(name_or_path).removeprefix(_TFDS))
    path = _existing_directory(name_or_path)
    return class_folders(path) if is_image_folder(path) else DIGITS


def sample_indices() -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " m"]]:
    """Return the index of each image of "mnist_sample" in MNIST's training and test files.

    Returns int [12396] and int [2038], in the order of `load("mnist_sample")`. These numbers are also the file names
    of the images in fastai's MNIST_SAMPLE.

    >>> train, valid = sample_indices()
    >>> train[:3].tolist(), len(valid)
    ([10, 10000, 10011], 2038)
    """
    train, valid = load_known("mnist")
    return _sample_indices(train), _sample_indices(valid)


def hold_out(key: PRNGKeyArray, dataset: Dataset, count: int) -> Splits:
    """Split a training set into training and validation images, to select models without using the test set.

    `count` images, drawn by `key` without replacement, become the validation part. Both parts keep the order of the
    dataset. Raises ValueError if `count` leaves either part empty.

    >>> train, valid = hold_out(jax.random.key(0), load("mnist_sample").train, 2000)
    >>> len(train), len(valid)
    (10396, 2000)
    """
    if not 0 < count < len(dataset):
        raise ValueError(f"cannot hold out {count} of {len(dataset)} images: must be 1 to {len(dataset) - 1}")
    held_out = np.zeros(len(dataset), bool)
    held_out[np.asarray(jax.random.permutation(key, len(dataset)))[:count]] = True
    return Splits(dataset[~held_out], dataset[held_out])


def _existing_directory(name_or_path: str | Path) -> Path:
    path = Path(name_or_path)
    if not path.is_dir():
        raise FileNotFoundError(
            f"dataset must be a name ({', '.join(known_names())}, {_TFDS}NAME) or the path of a directory of IDX files "
            f"or class folders, got {name_or_path}"
        )
    return path


def _sample_indices(digits: Dataset) -> np.ndarray:
    """Return the indices of the 3s, then of the 7s, each in fastai's order: by file name as text."""
    threes_and_sevens = np.flatnonzero(np.isin(digits.labels, (3, 7))).tolist()
    return np.array(sorted(threes_and_sevens, key=lambda index: (digits.labels[index], f"{index}.png")))


def _threes_and_sevens(digits: Dataset) -> Dataset:
    indices = _sample_indices(digits)
    return Dataset(digits.images[indices], (digits.labels[indices] == 3).astype(np.int32))


def _read_idx_directory(directory: Path, source: Source | None = None) -> Splits:
    """Read four IDX files and check that they fit together; `source`, if given, has their checksums."""
    parts = []
    for images_name, labels_name in IMAGES_AND_LABELS.values():
        images_file, images = _read_idx_file(directory, images_name, 3, source)
        labels_file, labels = _read_idx_file(directory, labels_name, 1, source)
        if images.shape[1:] != (SIDE, SIDE):
            raise ValueError(f"{images_file}: images must be {SIDE}x{SIDE} pixels, got {images.shape[1:]}")
        if len(images) != len(labels) or len(images) == 0:
            raise ValueError(
                f"{images_file}: must have one image per label and at least one, got {len(images)} images and "
                f"{len(labels)} labels in {labels_file}"
            )
        if labels.max() >= len(DIGITS):
            index = int(np.argmax(labels >= len(DIGITS)))
            raise ValueError(f"{labels_file}: labels must be 0 to 9, got {labels[index]} at index {index}")
        parts.append(Dataset(images, labels.astype(np.int32)))
    return Splits(*parts)


def _read_idx_file(directory: Path, name: str, dimensions: int, source: Source | None) -> tuple[Path, np.ndarray]:
    """Find and read one IDX file; return its path and its array."""
    file = find_idx(directory, name)
    if file is None:
        accepted = ", ".join(spellings(name))
        raise FileNotFoundError(f"{directory}: has no {name}; looked for {accepted}, or train/ with image folders")
    sha256 = source.contents.get(name) if source else None
    if source and sha256 is None:  # only the checksum of the published .gz is known
        check_sha256(file, source.archives[name])
    return file, read_idx(file, dimensions, sha256)
