"""Reader and writer for fastai's image-folder layout: train/3/10.png, valid/7/2.png, one folder per class."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from ...files import name_parse_errors, new_directory
from ...types import Dataset, Splits

SIDE = 28
"""Height and width of an image in pixels."""

_TRAIN, _VALID = ("train", "training"), ("valid", "testing", "test")  # accepted folder names


def is_image_folder(path: Path) -> bool:
    """Return True if a directory has a folder of training images."""
    return any((path / name).is_dir() for name in _TRAIN)


def class_folders(path: Path) -> tuple[str, ...]:
    """Return the class names, indexed by label.

    They are the folder names, sorted; exactly 3 and 7 are in the chapter's order instead: a 3 has label 1. Raises
    FileNotFoundError if there are no training images, ValueError if there are no classes.
    """
    train = _find_part(path, _TRAIN)
    names = sorted(folder.name for folder in train.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    if not names:
        raise ValueError(f"{train}: must contain one folder per class, such as {train / '3'}, got none")
    return ("7", "3") if names == ["3", "7"] else tuple(names)


def read_folder(path: Path) -> Splits:
    """Read the images of a folder, sorted by class name, then by file name as text ("10.png" before "2.png").

    Returns Splits of Dataset(images uint8 [n, 28, 28], labels int32 [n]). Raises FileNotFoundError if a part is
    missing, and ValueError, naming the file or folder, if a class has no images, the validation images have a class
    that the training images lack, or an image is not a gray or RGB PNG of 28x28.
    """
    classes = class_folders(path)
    return Splits(*(_read_part(_find_part(path, names), classes) for names in (_TRAIN, _VALID)))


def write_folder(
    path: str | Path,
    splits: Splits,
    classes: Sequence[str],
    file_numbers: tuple[Int[np.ndarray, " n"], Int[np.ndarray, " m"]],
) -> None:
    """Write a dataset in the layout of fastai's MNIST_SAMPLE: train/3/10.png, valid/7/2.png and so on, and labels.csv.

    `classes` are the class names, indexed by label. `file_numbers`, int [n] and int [m], become the file names of the
    two parts. labels.csv has a row `name,label` per image, first of train, then of valid; as in fastai's file, label
    is the index of the class among the sorted names: 0 for a 3 and 1 for a 7. `load` reads the same splits back if
    their images are in the order of `read_folder`. Raises ValueError if `path` exists and is not an empty directory,
    or if a part has more or fewer file numbers than images.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "two_digits"
    >>> two = Dataset(np.zeros((2, 28, 28), np.uint8), np.array([1, 0], np.int32))
    >>> write_folder(path, Splits(two, two), ("7", "3"), (np.array([10, 15]), np.array([18, 0])))
    >>> (path / "labels.csv").read_text().split()
    ['name,label', 'train/3/10.png,0', 'train/7/15.png,1', 'valid/3/18.png,0', 'valid/7/0.png,1']
    """
    from PIL import Image

    with new_directory(path) as temporary:
        rows = [("name", "label")]
        for part, dataset, numbers in zip((_TRAIN[0], _VALID[0]), splits, file_numbers, strict=True):
            images, labels = np.asarray(dataset.images), np.asarray(dataset.labels)
            for image, label, number in zip(images, labels, numbers, strict=True):
                name = classes[int(label)]
                file = temporary / part / name / f"{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(file)
                rows.append((file.relative_to(temporary).as_posix(), str(sorted(classes).index(name))))
        with (temporary / "labels.csv").open("w", newline="", encoding="utf-8") as labels_file:
            csv.writer(labels_file, lineterminator="\n").writerows(rows)


def _find_part(path: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        if (path / name).is_dir():
            return path / name
    raise FileNotFoundError(f"{path}: has no folder {' or '.join(names)}; expected train/CLASS/*.png and valid/...")


def _read_part(part: Path, classes: tuple[str, ...]) -> Dataset:
    folders = {folder.name for folder in part.iterdir() if folder.is_dir() and not folder.name.startswith(".")}
    unknown_classes = folders - set(classes)
    if unknown_classes:
        raise ValueError(f"{part}: classes must be among {sorted(classes)}, as in train, got {sorted(unknown_classes)}")
    images, labels = [], []
    for name in sorted(classes):
        files = sorted((part / name).glob("*.png"), key=lambda file: file.name)
        if not files:
            raise ValueError(f"{part / name}: must contain PNG images of {SIDE}x{SIDE}, got none")
        images += [_read_png(file) for file in files]
        labels += [classes.index(name)] * len(files)
    return Dataset(np.stack(images), np.array(labels, np.int32))


def _read_png(path: Path) -> np.ndarray:
    from PIL import Image

    with name_parse_errors(path, "PNG"), Image.open(path, formats=["PNG"]) as image:
        (width, height), mode = image.size, image.mode
        image.verify()  # the checksums: a truncated file can decode without error. Afterwards, the image is unusable.
    if (width, height) != (SIDE, SIDE):
        raise ValueError(f"{path}: image must be {SIDE}x{SIDE} pixels, got {width}x{height}")
    if mode not in ("L", "RGB"):
        raise ValueError(f"{path}: image mode must be 8-bit gray (L) or RGB, got {mode}")
    with name_parse_errors(path, "PNG"), Image.open(path, formats=["PNG"]) as image:
        return np.asarray(image.convert("L"), np.uint8)
