"""Where digits come from: a name or a path to the two parts of a dataset."""

from pathlib import Path

import jax
import numpy as np
from jaxtyping import Int, PRNGKeyArray

from ..types import Dataset, Splits
from .download import fetch
from .formats.idx import check_sha256, find_idx, read_idx, spellings
from .formats.image_folder import SIDE, class_folders, is_image_folder, read_folder
from .registry import DIGITS, FAMILY, IMAGES_AND_LABELS, Source

_CHAPTER = ("7", "3")
_TFDS = "tfds:"


def load(name_or_path: str | Path) -> Splits:
    """A dataset's training and validation images.

    "mnist" is all ten digits (60,000 and 10,000); "mnist_sample" the chapter's 3s and 7s in the chapter's order
    and labels (12,396 and 2,038; a 3 is 1, a 7 is 0); both are bundled. "fashion_mnist" and "kmnist" have MNIST's
    sizes; their files are looked for on this machine, else downloaded, see `data/downloads.py`. All are checked by
    sha256. "tfds:NAME" is what TensorFlow Datasets has prepared here, see `data/tfds.py`. Anything else is
    a path: a directory of the four IDX files, plain or .gz, or a folder of images as fastai lays them out
    (train/3/10.png, valid/...). Returns Splits of Dataset(images uint8 [n, 28, 28], labels int32 [n]) in
    NumPy. Raises FileNotFoundError for what is not there and ValueError for what is damaged, naming the file.

    >>> train, valid = load("mnist_sample")
    >>> train.images.shape, train.labels[:3].tolist(), len(valid)
    ((12396, 28, 28), [1, 1, 1], 2038)
    """
    if name_or_path in known_names():
        return load_known(str(name_or_path))
    if str(name_or_path).startswith(_TFDS):
        from .formats.tfds import read_tfds

        return read_tfds(str(name_or_path).removeprefix(_TFDS))
    path = _directory(name_or_path)
    return read_folder(path) if is_image_folder(path) else _read_idx_directory(path)


def load_known(name: str, directory: Path | None = None) -> Splits:
    """A dataset of the MNIST family, or "mnist_sample", from its own place or from a directory of its IDX files.

    The files are checked by sha256 wherever they lie. Raises as `load` does.
    """
    if name == "mnist_sample":
        return Splits(*map(_threes_and_sevens, load_known("mnist", directory)))
    return _read_idx_directory(directory or fetch(name), FAMILY[name])


def known_names() -> tuple[str, ...]:
    """The names that `load` takes beside "tfds:NAME" and paths.

    >>> known_names()
    ('mnist_sample', 'mnist', 'fashion_mnist', 'kmnist')
    """
    return ("mnist_sample", *FAMILY)


def class_names(name_or_path: str | Path) -> tuple[str, ...]:
    """The names of a dataset's classes, each at the place of its label.

    `name_or_path` is as in `load`. Raises FileNotFoundError for what is not there.

    >>> class_names("mnist_sample")
    ('7', '3')
    """
    if name_or_path in known_names():
        return _CHAPTER if name_or_path == "mnist_sample" else FAMILY[str(name_or_path)].classes
    if str(name_or_path).startswith(_TFDS):
        from .formats.tfds import tfds_class_names

        return tfds_class_names(str(name_or_path).removeprefix(_TFDS))
    path = _directory(name_or_path)
    return class_folders(path) if is_image_folder(path) else DIGITS


def sample_places() -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " m"]]:
    """Where the images of "mnist_sample" stand in MNIST's own training and test file.

    Returns int [12396] and int [2038], in the order of `load("mnist_sample")`: the numbers that are the images'
    file names in fastai's MNIST_SAMPLE.

    >>> train, valid = sample_places()
    >>> train[:3].tolist(), len(valid)
    ([10, 10000, 10011], 2038)
    """
    train, valid = map(_places, load_known("mnist"))
    return train, valid


def hold_out(key: PRNGKeyArray, dataset: Dataset, count: int) -> Splits:
    """Training images set apart to choose by, so that nothing is chosen on the test set.

    `count` images, drawn by `key` and each at most once, become the validation part; both parts keep the
    dataset's order. Raises ValueError for a count that leaves either part empty.

    >>> train, valid = hold_out(jax.random.key(0), load("mnist_sample").train, 2000)
    >>> len(train), len(valid)
    (10396, 2000)
    """
    if not 0 < count < len(dataset):
        raise ValueError(f"cannot hold out {count} of {len(dataset)} images: choose 1 to {len(dataset) - 1}")
    held_out = np.zeros(len(dataset), bool)
    held_out[np.asarray(jax.random.permutation(key, len(dataset)))[:count]] = True
    return Splits(dataset[~held_out], dataset[held_out])


def _directory(name_or_path: str | Path) -> Path:
    path = Path(name_or_path)
    if not path.is_dir():
        raise FileNotFoundError(
            f"{name_or_path}: neither a dataset's name ({', '.join(known_names())}, {_TFDS}NAME) "
            "nor a directory of IDX files or images"
        )
    return path


def _places(digits: Dataset) -> np.ndarray:
    """The places of the 3s and then of the 7s, each by file name as text."""
    places = sorted(np.flatnonzero(np.isin(digits.labels, (3, 7))).tolist(), key=lambda place: f"{place}.png")
    return np.array(sorted(places, key=lambda place: digits.labels[place]))


def _threes_and_sevens(digits: Dataset) -> Dataset:
    places = _places(digits)
    return Dataset(digits.images[places], (digits.labels[places] == 3).astype(np.int32))


def _read_idx_directory(path: Path, source: Source | None = None) -> Splits:
    return Splits(*(_read_pair(path, *names, source) for names in IMAGES_AND_LABELS.values()))


def _read_pair(path: Path, images_name: str, labels_name: str, source: Source | None) -> Dataset:
    images_file, images = _read_known(path, images_name, 3, source)
    labels_file, labels = _read_known(path, labels_name, 1, source)
    if images.shape[1:] != (SIDE, SIDE):
        raise ValueError(f"{images_file}: images of {images.shape[1:]} pixels; expected {SIDE}x{SIDE}")
    if len(images) != len(labels) or len(images) == 0:
        raise ValueError(f"{images_file}: {len(images)} images, but {labels_file} has {len(labels)} labels")
    if labels.max() >= len(DIGITS):
        place = int(np.argmax(labels >= len(DIGITS)))
        raise ValueError(f"{labels_file}: label {labels[place]} at place {place} is out of range; expected 0 to 9")
    return Dataset(images, labels.astype(np.int32))


def _read_known(path: Path, name: str, dimensions: int, source: Source | None) -> tuple[Path, np.ndarray]:
    """A file and the array in it, checked by the checksums that we have."""
    file = find_idx(path, name)
    if file is None:
        looked_for = ", ".join(spellings(name))
        raise FileNotFoundError(f"{path}: has no {name}; looked for {looked_for}, or train/ with image folders")
    if source is not None and name not in source.contents:
        check_sha256(file, source.archives[name])
    return file, read_idx(file, dimensions, source.contents.get(name) if source is not None else None)
