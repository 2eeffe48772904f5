"""fastai's image-folder layout: train/3/10.png, valid/7/2.png, the folder's name being the class."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from ...files import new_directory, parsing
from ...types import Dataset, Splits

SIDE = 28
_TRAIN, _VALID = ("train", "training"), ("valid", "testing", "test")


def is_image_folder(path: Path) -> bool:
    """Whether a directory has a folder of training images."""
    return any((path / name).is_dir() for name in _TRAIN)


def class_folders(path: Path) -> tuple[str, ...]:
    """The names of the classes, each at the place of its label.

    With exactly the folders 3 and 7 it is the chapter's order, in which a 3 has label 1; else the names sorted.
    Raises ValueError where there is no class.
    """
    train = _part(path, _TRAIN)
    names = sorted(folder.name for folder in train.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    if not names:
        raise ValueError(f"{train}: empty; expected one folder a class, such as {train / '3'}")
    return ("7", "3") if names == ["3", "7"] else tuple(names)


def read_folder(path: Path) -> Splits:
    """The images of a folder: class after class by name, in each by file name as text ("10.png" before "2.png").

    Raises FileNotFoundError where a part is missing, ValueError, naming the file, where a class is empty or an
    image is no grey PNG of 28x28.
    """
    classes = class_folders(path)
    return Splits(*(_read_part(_part(path, names), classes) for names in (_TRAIN, _VALID)))


def write_folder(
    path: str | Path,
    splits: Splits,
    classes: Sequence[str],
    places: tuple[Int[np.ndarray, " n"], Int[np.ndarray, " m"]],
) -> None:
    """Write a dataset as fastai lays out MNIST_SAMPLE: train/3/10.png, valid/7/2.png and so on, and labels.csv.

    `classes` names the class of each label; `places`, int [n] and int [m], are the numbers that become the file
    names of the two parts. The pixels are written as they are. labels.csv has a row `name,label` for every image,
    first of train, then of valid; its label is the class's place among the sorted names, as in fastai's file: 0
    for a 3 and 1 for a 7. `load` gives the splits back where they are in the order of the file names. Raises
    ValueError where `path` exists and is not empty, or a part has not one number for every image.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "two_digits"
    >>> two = Dataset(np.zeros((2, 28, 28), np.uint8), np.array([1, 0], np.int32))
    >>> write_folder(path, Splits(two, two), ("7", "3"), (np.array([10, 15]), np.array([18, 0])))
    >>> (path / "labels.csv").read_text().split()
    ['name,label', 'train/3/10.png,0', 'train/7/15.png,1', 'valid/3/18.png,0', 'valid/7/0.png,1']
    """
    with new_directory(path) as temporary:
        rows = []
        for part, dataset, numbers in zip((_TRAIN[0], _VALID[0]), splits, places, strict=True):
            digits = [classes[int(label)] for label in np.asarray(dataset.labels)]
            names = [f"{part}/{digit}/{number}.png" for digit, number in zip(digits, numbers, strict=True)]
            _write_pngs(temporary, names, np.asarray(dataset.images))
            rows += [(name, sorted(classes).index(digit)) for name, digit in zip(names, digits, strict=True)]
        with (temporary / "labels.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([("name", "label"), *rows])


def _write_pngs(path: Path, names: Sequence[str], images: np.ndarray) -> None:
    from PIL import Image

    for folder in {(path / name).parent for name in names}:
        folder.mkdir(parents=True)
    for name, image in zip(names, images, strict=True):
        Image.fromarray(image).save(path / name)


def _part(path: Path, names: tuple[str, ...]) -> Path:
    found = [path / name for name in names if (path / name).is_dir()]
    if not found:
        raise FileNotFoundError(f"{path}: has no folder {' or '.join(names)}; expected train/CLASS/*.png and valid/...")
    return found[0]


def _read_part(part: Path, classes: tuple[str, ...]) -> Dataset:
    strangers = {folder.name for folder in part.iterdir() if folder.is_dir() and folder.name[0] != "."} - set(classes)
    if strangers:
        raise ValueError(f"{part}: has classes {sorted(strangers)} that the training images lack: {sorted(classes)}")
    images, labels = [], []
    for name in sorted(classes):
        files = sorted((part / name).glob("*.png"), key=lambda file: file.name)
        if not files:
            raise ValueError(f"{part / name}: empty; expected PNG images of {SIDE}x{SIDE}")
        images += [_read_png(file) for file in files]
        labels += [classes.index(name)] * len(files)
    return Dataset(np.stack(images), np.array(labels, np.int32))


def _read_png(path: Path) -> np.ndarray:
    from PIL import Image

    with parsing(path, "PNG"), Image.open(path, formats=["PNG"]) as image:
        image.verify()  # checksums, without which a file cut short can pass; it uses the image up
    with parsing(path, "PNG"), Image.open(path, formats=["PNG"]) as image:
        size, mode = image.size, image.mode
        fits = size == (SIDE, SIDE) and mode in ("L", "RGB")
        pixels = np.asarray(image.convert("L"), np.uint8) if fits else np.empty(0, np.uint8)
    if size != (SIDE, SIDE):
        raise ValueError(f"{path}: is {size[0]}x{size[1]} pixels; expected {SIDE}x{SIDE}")
    if not fits:
        raise ValueError(f"{path}: has pixels of mode {mode}; expected 8-bit grey (L) or RGB")
    return pixels
