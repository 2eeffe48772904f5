"""Reader and writer for image folders, one folder per class: train/3/10.png, valid/7/2.png, fastai's layout."""

import collections
import csv
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int, UInt8

from ...files import name_parse_errors, new_directory
from ...types import Dataset, Splits
from ...words import count_of
from ..registry import NoValidationError

SIDE = 28
"""Height and width of an image in pixels."""

_TRAIN = ("train", "training")  # accepted folder names, in any case
_VALID = ("valid", "validation", "val", "testing", "test")
_SYSTEM = (
    *("__macosx", "@eadir", "#recycle", "@recycle", "$recycle.bin", "system volume information", "lost+found"),
    *("thumbs.db", "thumbs.db:encryptable", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r"),
)
_FORMATS = ("PNG", "JPEG", "BMP", "DIB", "GIF", "TIFF", "WEBP", "AVIF", "JPEG2000", "PPM", "TGA", "ICO", "PCX")
# HEIC is a picture too, but Pillow does not read it: it is refused, not left out.
_SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".webp"),
    *(".avif", ".jp2", ".j2k", ".jpx", ".pbm", ".pgm", ".ppm", ".pnm", ".tga", ".ico", ".pcx", ".heic", ".heif"),
)

Prepare = Callable[[Sequence[Path], int], Sequence[Any]]
"""Files and the largest number of pixels in one -> for each file, a Photo, or the ValueError that refuses it."""


class ImageFolder(NamedTuple):
    """The folders of an image folder's parts, and those beside them that hold pictures too and are not read."""

    path: Path
    train: Path
    valid: Path | None
    unused: tuple[Path, ...]


def find_folder(path: Path) -> ImageFolder | None:
    """Return the parts of an image folder, or None if the directory is not one.

    The training images are in a folder train or training, or in the class folders that the directory holds itself. One
    folder of pictures is not enough: it may be of any name, and hold pictures of all classes.
    """
    folders = [(folder.name.lower(), folder) for folder in _folders(path)]
    train, valid = (
        next((folder for name in names for folder_name, folder in folders if folder_name == name), None)
        for names in (_TRAIN, _VALID)
    )
    if train is not None and not _folders(train) and not _has_pictures(train) and list_visible(train):
        return None  # such as the parts of a Hugging Face dataset
    others = [folder for name, folder in folders if folder != valid and (train or name in _VALID)]
    if train is None and sum(name not in _VALID and _has_pictures(folder) for name, folder in folders) > 1:
        train = path
    unused = tuple(folder for folder in others if folder != train and holds_pictures(folder))
    return None if train is None else ImageFolder(path, train, valid, unused)


def holds_pictures(folder: Path) -> bool:
    """Return True if there is a picture in a folder or in the folders in it."""
    return any(map(is_picture, _files(folder)))


def class_folders(folder: ImageFolder) -> tuple[str, ...]:
    """Return the class names, indexed by label.

    They are the folder names, sorted; exactly 3 and 7 are in the chapter's order instead: a 3 has label 1. Raises
    ValueError if there are no classes.
    """
    train = _unwrap(folder.train)
    names = [child.name for child in _folders(train) if child not in (folder.valid, *folder.unused)]
    if not names:
        raise ValueError(
            f"{train}: must contain one folder per class, such as {train / '3'}, got {describe_contents(train)}"
        )
    return ("7", "3") if names == ["3", "7"] else tuple(names)


def read_folder(
    folder: ImageFolder, *, with_valid: bool = True, prepare: Prepare | None = None
) -> tuple[list[Dataset], str]:
    """Read the images of a folder, sorted by class name, then by file name as text ("10.png" before "2.png").

    Every picture is read, except in hidden and system files. Pictures of 28x28 pixels are read as they are, or
    inverted if they are dark on light; those of other sizes become what `prepare` makes of them. Without `prepare`
    nothing is inverted, and other sizes are refused. Returns the training and, if `with_valid`, the validation images
    (uint8 [n, 28, 28], labels int32 [n]), and what was done in words, empty if there is nothing to say. Raises
    FileNotFoundError if the part is missing or has no class folders, and ValueError, naming the file or folder, if a
    class has no images, the validation images have a class that the training images lack, or a picture cannot be read
    or prepared.
    """
    classes = class_folders(folder)
    if with_valid and folder.valid is None:
        raise NoValidationError(f"{folder.path}: has no folder {', '.join(_VALID[:-1])} or {_VALID[-1]}")
    parts = [_unwrap(part) for part in (folder.train, folder.valid if with_valid else None) if part is not None]
    listed = [_list_part(part, classes, (folder.valid, *folder.unused)) for part in parts]
    images, notes = read_pictures([file for files, _, _ in listed for file in files], prepare)
    others = sum((others for _, _, others in listed), collections.Counter())
    beside = [child for top in {folder.path, folder.train, *parts} for child in list_visible(top)]
    others.update(child.suffix.lower() for child in beside if is_picture(child) and child.is_file())
    if others:
        notes.append(f"{_count_by_suffix(others)} in the class folders or beside them left out")
    notes += [f"{unused} ({describe_contents(unused)}) is not used" for unused in folder.unused]
    ends = np.cumsum([len(files) for files, _, _ in listed])[:-1]
    labels = [labels for _, labels, _ in listed]
    datasets = [Dataset(*arrays) for arrays in zip(np.split(images, ends), labels, strict=True)]
    return datasets, f"{folder.path}: {'; '.join(notes)}" if notes else ""


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


def is_picture(file: Path) -> bool:
    """Return True if a file is a picture by its suffix, in any case."""
    return file.suffix.lower() in _SUFFIXES


def list_visible(path: Path) -> list[Path]:
    """Return the files and folders in a directory, sorted by name, without hidden ones and those of a system."""
    return sorted(child for child in path.iterdir() if not _is_hidden(child.name))


def describe_contents(folder: Path) -> str:
    """Return what a folder holds in words: "30 .txt files"."""
    return _count_by_suffix(collections.Counter(file.suffix.lower() for file in _files(folder)))


def make_light_on_dark(images: UInt8[np.ndarray, "n h w"]) -> Bool[np.ndarray, " n"]:
    """Invert, in place, the images that are dark on light, and return which ones.

    If at least three quarters of the border are lighter than the middle of the image's range, the paper is light; if at
    most a quarter is, it is dark. An image that shows neither, such as a coat that fills the picture, is treated like
    most of the others.
    """
    border = np.concatenate([images[:, 0], images[:, -1], images[:, 1:-1, 0], images[:, 1:-1, -1]], axis=1)
    middle = (images.min(axis=(1, 2)).astype(np.float32) + images.max(axis=(1, 2))) / 2
    light = np.mean(border > middle[:, None], axis=1)
    is_light, is_dark = light >= 0.75, light <= 0.25
    inverted = is_light if is_light.sum() <= is_dark.sum() else ~is_dark
    images[inverted] = 255 - images[inverted]
    return inverted


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "~$")) or name.lower() in _SYSTEM  # ~$ begins the lock files of Office


def _folders(path: Path) -> list[Path]:
    return [child for child in list_visible(path) if child.is_dir()]


def _has_pictures(folder: Path) -> bool:
    """Return True if a folder holds pictures itself."""
    return any(is_picture(child) for child in list_visible(folder))


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files in a folder and in the folders in it, without those that are hidden or of a system."""
    seen = set()
    for top, folders, names in os.walk(folder, onerror=_raise_unless_missing, followlinks=True):
        folders[:] = [name for name in folders if not _is_hidden(name)]
        if (real := os.path.realpath(top)) in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add(real)
        yield from (Path(top, name) for name in names if not _is_hidden(name))


def _raise_unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):  # such as a folder that may not be read, which os.walk skips
        raise error


def _unwrap(part: Path) -> Path:
    """Return the folder with the class folders: of train/train/3, as some archives unpack, the inner one."""
    folders = _folders(part)
    while len(folders) == 1 and not _has_pictures(folders[0]) and _folders(folders[0]):
        part, folders = folders[0], _folders(folders[0])
    return part


def _count_by_suffix(counts: collections.Counter[str]) -> str:
    words = (
        count_of(count, f"{suffix} file") if suffix else f"{count_of(count, 'file')} without a suffix"
        for suffix, count in counts.most_common()
    )
    return ", ".join(words) or "no files"


def _list_part(
    part: Path, classes: Sequence[str], other_parts: Sequence[Path | None]
) -> tuple[list[Path], np.ndarray, collections.Counter[str]]:
    """Return the pictures of a part, their labels, and how many other files there are of each suffix."""
    unknown_classes = {folder.name for folder in _folders(part) if folder not in other_parts} - set(classes)
    if unknown_classes:
        raise ValueError(f"{part}: classes must be among {sorted(classes)}, as in train, got {sorted(unknown_classes)}")
    if not any((part / name).is_dir() for name in classes):  # such as a test set without labels
        raise NoValidationError(
            f"{part}: has no folder per class, such as {part / classes[0]}; it has {describe_contents(part)}"
        )
    pictures, labels = [], []
    others = collections.Counter()
    for name in sorted(classes):
        files = sorted(_files(part / name), key=lambda file: file.as_posix())
        found = [file for file in files if is_picture(file)]
        if not found:
            raise ValueError(
                f"{part / name}: must contain pictures, such as PNG or JPEG, got {describe_contents(part / name)}"
            )
        pictures += found
        labels += [classes.index(name)] * len(found)
        others.update(file.suffix.lower() for file in files if not is_picture(file))
    return pictures, np.array(labels, np.int32), others


def read_pictures(files: Sequence[Path], prepare: Prepare | None) -> tuple[np.ndarray, list[str]]:
    """Return the images of all files, uint8 [n, 28, 28], and what was done to them; raises as `read_folder` does."""
    images, notes, largest = np.empty((len(files), SIDE, SIDE), np.uint8), [], 0
    is_large = np.zeros(len(files), bool)
    for i, file in enumerate(files):
        image, pixels = _read_picture(file)
        if image is not None:
            images[i] = image
        elif prepare is None:
            raise ValueError(f"{file}: image must be {SIDE}x{SIDE} pixels, got {pixels[0]}x{pixels[1]}")
        else:
            is_large[i], largest = True, max(largest, pixels[0] * pixels[1])
    if prepare is not None:
        small = images[~is_large]
        if count := int(make_light_on_dark(small).sum()):
            images[~is_large] = small
            notes.append(f"{count_of(count, 'picture')} of {SIDE}x{SIDE} inverted")
    if prepare is not None and is_large.any():
        photos = prepare([files[i] for i in np.flatnonzero(is_large).tolist()], largest)
        if errors := [photo for photo in photos if isinstance(photo, ValueError)]:
            others = f" (and {len(errors) - 1:,} more: {_shorten(errors[1:])})" if errors[1:] else ""
            raise ValueError(f"{errors[0]}{others}")
        images[is_large] = [photo.image for photo in photos]
        counts = {"inverted": sum(p.inverted for p in photos), "with a frame removed": sum(p.cropped for p in photos)}
        done = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
        notes.append(f"{count_of(len(photos), 'picture')} prepared" + (f": {done}" if done else ""))
    return images, notes


def _shorten(errors: Sequence[ValueError]) -> str:
    return ", ".join(str(error).partition(": ")[0] for error in errors[:5]) + (", ..." if errors[5:] else "")


def _read_picture(path: Path) -> tuple[np.ndarray | None, tuple[int, int]]:
    """Return a picture in gray, or None if it is not of SIDE x SIDE pixels, and its size."""
    from ..pictures import open_picture, to_grey  # importing Pillow takes 0.1 s

    with open_picture(path, _FORMATS) as image:
        size = image.size
        if size != (SIDE, SIDE):
            return None, size
        with name_parse_errors(path, "picture"):
            image.verify()  # the checksums: a truncated file can decode without error. Afterwards, it is unusable.
    with open_picture(path, _FORMATS) as image, name_parse_errors(path, "picture"):
        return np.round(to_grey(image, SIDE) * 255).astype(np.uint8), size
