"""fastai's image-folder layout: train/3/10.png, valid/7/2.png, the folder's name being the class."""

from pathlib import Path

import numpy as np

from ..types import Dataset, Splits

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

    try:
        with Image.open(path, formats=["PNG"]) as image:
            image.verify()  # checksums, without which a file cut short can pass; it uses the image up
        with Image.open(path, formats=["PNG"]) as image:
            if image.size != (SIDE, SIDE):
                raise ValueError(f"{path}: is {image.width}x{image.height} pixels; expected {SIDE}x{SIDE}")
            if image.mode not in ("L", "RGB"):
                raise ValueError(f"{path}: has pixels of mode {image.mode}; expected 8-bit grey (L) or RGB")
            return np.asarray(image.convert("L"), np.uint8)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: is no readable PNG ({error})") from error
