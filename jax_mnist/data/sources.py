"""Where digits come from: a name or a path to the two parts of a dataset."""

from pathlib import Path

import jax
import numpy as np
from jaxtyping import Int, PRNGKeyArray

from ..types import Dataset, Splits
from .folders import SIDE, class_folders, is_image_folder, read_folder
from .idx import read_idx

BUNDLED = Path(__file__).parent / "bundled"
_DIGITS = tuple("0123456789")
_CHAPTER = ("7", "3")
_NAMES = {"mnist_sample": _CHAPTER, "mnist": _DIGITS}

_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


def load(name_or_path: str | Path) -> Splits:
    """A dataset's training and validation images.

    "mnist" is all ten digits (60,000 and 10,000); "mnist_sample" the chapter's 3s and 7s in the chapter's order
    and labels (12,396 and 2,038; a 3 is 1, a 7 is 0); both are bundled, and checked by sha256. Anything else is
    a path: a directory of the four IDX files, plain or .gz, or a folder of images as fastai lays them out
    (train/3/10.png, valid/...). Returns Splits of Dataset(images uint8 [n, 28, 28], labels int32 [n]) in
    NumPy. Raises FileNotFoundError for what is not there and ValueError for what is damaged, naming the file.

    >>> train, valid = load("mnist_sample")
    >>> train.images.shape, train.labels[:3].tolist(), len(valid)
    ((12396, 28, 28), [1, 1, 1], 2038)
    """
    if name_or_path == "mnist":
        return _read_idx_directory(BUNDLED, _SHA256)
    if name_or_path == "mnist_sample":
        return Splits(*map(_threes_and_sevens, _read_idx_directory(BUNDLED, _SHA256)))
    path = _directory(name_or_path)
    return read_folder(path) if is_image_folder(path) else _read_idx_directory(path, {})


def class_names(name_or_path: str | Path) -> tuple[str, ...]:
    """The names of a dataset's classes, each at the place of its label.

    `name_or_path` is as in `load`. Raises FileNotFoundError for what is not there.

    >>> class_names("mnist_sample")
    ('7', '3')
    """
    if name_or_path in _NAMES:
        return _NAMES[str(name_or_path)]
    path = _directory(name_or_path)
    return class_folders(path) if is_image_folder(path) else _DIGITS


def sample_places() -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " m"]]:
    """Where the images of "mnist_sample" stand in MNIST's own training and test file.

    Returns int [12396] and int [2038], in the order of `load("mnist_sample")`: the numbers that are the images'
    file names in fastai's MNIST_SAMPLE.

    >>> train, valid = sample_places()
    >>> train[:3].tolist(), len(valid)
    ([10, 10000, 10011], 2038)
    """
    train, valid = map(_places, _read_idx_directory(BUNDLED, _SHA256))
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
    return Splits(_select(dataset, ~held_out), _select(dataset, held_out))


def _select(dataset: Dataset, places: np.ndarray) -> Dataset:
    return Dataset(dataset.images[places], dataset.labels[places])


def _directory(name_or_path: str | Path) -> Path:
    path = Path(name_or_path)
    if not path.is_dir():
        raise FileNotFoundError(
            f"{name_or_path}: neither a dataset's name ({', '.join(_NAMES)}) nor a directory of IDX files or images"
        )
    return path


def _places(digits: Dataset) -> np.ndarray:
    """The places of the 3s and then of the 7s, each by file name as text."""
    places = sorted(np.flatnonzero(np.isin(digits.labels, (3, 7))).tolist(), key=lambda place: f"{place}.png")
    return np.array(sorted(places, key=lambda place: digits.labels[place]))


def _threes_and_sevens(digits: Dataset) -> Dataset:
    places = _places(digits)
    return Dataset(digits.images[places], (digits.labels[places] == 3).astype(np.int32))


def _read_idx_directory(path: Path, sha256: dict[str, str]) -> Splits:
    return Splits(_read_pair(path, "train", sha256), _read_pair(path, "t10k", sha256))


def _read_pair(path: Path, part: str, sha256: dict[str, str]) -> Dataset:
    images_name, labels_name = f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"
    images_file, labels_file = _find(path, images_name), _find(path, labels_name)
    images = read_idx(images_file, 3, sha256.get(images_name))
    labels = read_idx(labels_file, 1, sha256.get(labels_name))
    if images.shape[1:] != (SIDE, SIDE):
        raise ValueError(f"{images_file}: images of {images.shape[1:]} pixels; expected {SIDE}x{SIDE}")
    if len(images) != len(labels) or len(images) == 0:
        raise ValueError(f"{images_file}: {len(images)} images, but {labels_file} has {len(labels)} labels")
    if labels.max() >= len(_DIGITS):
        place = int(np.argmax(labels >= len(_DIGITS)))
        raise ValueError(f"{labels_file}: label {labels[place]} at place {place} is out of range; expected 0 to 9")
    return Dataset(images, labels.astype(np.int32))


def _find(path: Path, name: str) -> Path:
    spellings = [f"{stem}{suffix}" for stem in (name, name.replace("-idx", ".idx")) for suffix in ("", ".gz")]
    for spelling in spellings:
        if (path / spelling).is_file():
            return path / spelling
    raise FileNotFoundError(f"{path}: has no {name}; looked for {', '.join(spellings)}, or train/ with image folders")
