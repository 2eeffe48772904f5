"""Reader of tables of images: NumPy's npz, such as Keras's mnist.npz, and CSV, such as Kaggle's train.csv."""

import csv
import io
import itertools
import math
import re
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from ...files import name_parse_errors, open_maybe_gzipped
from ...types import Dataset
from ...words import count_of
from ..registry import IDX_SETS, IdxSet, NoValidationError
from .idx import MAX_BYTES
from .image_folder import SIDE, list_visible, make_light_on_dark

_ROWS = 1024  # of a CSV that are parsed at once
_LINE_BYTES = 2**16  # of a row at most: 785 numbers of many digits
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?")
_LABELS = ("label", "labels", "class", "target", "digit", "y")  # the accepted names of the column, in any case
_INDICES = ("", "unnamed: 0", "index", "id", "imageid")  # names of columns that are neither labels nor pixels
_TRAIN_ARRAYS = (("x_train", "y_train"), ("train_images", "train_labels"))
_VALID_ARRAYS = (
    *(("x_valid", "y_valid"), ("x_val", "y_val"), ("valid_images", "valid_labels"), ("val_images", "val_labels")),
    *(("x_test", "y_test"), ("test_images", "test_labels")),
)


class Table(NamedTuple):
    """A file with the training images, and CSVs beside it: with the validation images, and others with labels."""

    train: Path
    valid: Path | None = None
    unused: tuple[Path, ...] = ()


def is_csv(path: Path) -> bool:
    """Return True if a file is a CSV by its name, gzipped or not."""
    return path.name.lower().endswith((".csv", ".csv.gz"))


def find_table(path: Path) -> Table | None:
    """Return the table that a file is, by its name, or None.

    The validation images of mnist_train.csv are in a file with labels whose name has "valid", "val" or "test" instead.
    """
    if path.suffix.lower() == ".npz":
        return Table(path)
    if not is_csv(path):
        return None
    beside = {_stem(file): file for file in list_visible(path.parent) if is_csv(file)}
    stems = [re.sub("train(ing)?", word, _stem(path)) for word in ("validation", "valid", "val", "testing", "test")]
    found = [beside[stem] for stem in stems if stem in beside and stem != _stem(path)]
    labelled = [file for file in found if _read_header(file).label is not None]
    return Table(path, labelled[0] if labelled else None, tuple(labelled[1:]))


def find_tables(directory: Path) -> list[Table]:
    """Return the tables in a directory: npz files, and CSV files with "train" in their names."""
    files = [file for file in list_visible(directory) if file.suffix.lower() == ".npz" or "train" in _stem(file)]
    return [table for file in files if file.is_file() and (table := find_table(file)) is not None]


def table_classes(table: Table) -> tuple[str, ...]:
    """Return the class names: those of the set that the file is named after, or the labels, at least ten digits."""
    known = _known_set(table.train)
    if known is not None:
        return known.classes
    if is_csv(table.train):
        _, labels = _read_csv(table.train, pixels=False)
    else:
        ((_, labels),), _ = _read_npz(table.train, with_valid=False)
    return tuple(map(str, range(_count_classes(_check_labels(table.train, labels)))))


def read_table(table: Table, *, with_valid: bool = True, prepare: bool = True) -> tuple[list[Dataset], str]:
    """Read the training and, if `with_valid`, the validation images of a table.

    Pixels are 0..255 or in [0, 1]; with `prepare`, images that are dark on light are inverted. Returns the datasets
    (images uint8 [n, 28, 28], labels int32 [n]), and what was done in words, empty if there is nothing to say. Raises
    FileNotFoundError if there are no validation images, and ValueError, naming the file, if the file is damaged, has
    other arrays or columns, or holds Python objects, which are a pickle and are not read.
    """
    if is_csv(table.train):
        files = [table.train, table.valid] if with_valid else [table.train]
        parts = [(file, *_read_csv(file)) for file in files if file is not None]
        notes = [f"{file} is not used" for file in table.unused if with_valid]
    else:
        arrays, notes = _read_npz(table.train, with_valid)
        parts = [(table.train, *part) for part in arrays]
    if with_valid and len(parts) == 1:
        missing = "labeled test file beside it" if is_csv(table.train) else "validation images, such as x_test, y_test"
        raise NoValidationError(f"{table.train}: has no {missing}")
    known = _known_set(table.train)
    datasets, inverted = [], 0
    for file, images, labels in parts:
        labels = _check_labels(file, labels, known)
        if len(images) != len(labels):
            raise ValueError(f"{file}: must have one image per label, got {len(images)} and {len(labels)}")
        if known is not None and known.transposed:
            images = images.transpose(0, 2, 1).copy()
        inverted += int(make_light_on_dark(images).sum()) if prepare else 0
        datasets.append(Dataset(images, labels))
    classes = _count_classes(datasets[0].labels) if known is None else len(known.classes)
    if datasets[-1].labels.max() >= classes:
        raise ValueError(
            f"{parts[-1][0]}: labels must be those of the training images, got {datasets[-1].labels.max()}"
        )
    notes += [f"{count_of(inverted, 'image')} inverted"] if inverted else []
    return datasets, f"{table.train}: {'; '.join(notes)}" if notes else ""


def read_csv_images(path: Path, prepare: bool = True) -> UInt8[np.ndarray, "n 28 28"]:
    """Return the images of a CSV with or without labels; `prepare` and what it raises are those of `read_table`."""
    images, _ = _read_csv(path)
    if len(images) == 0:
        raise ValueError(f"{path}: must have at least one image, got none")
    if prepare:
        make_light_on_dark(images)
    return images


def _count_classes(labels: np.ndarray) -> int:
    return max(10, int(labels.max()) + 1)


def _stem(path: Path) -> str:
    return path.name.lower().partition(".csv")[0]


def _known_set(path: Path) -> IdxSet | None:
    """Return the set of IDX files after which a table is named: emnist-letters-train.csv is transposed too."""
    return next((known for name, known in IDX_SETS.items() if path.name.startswith(f"{name}-")), None)


def _check_labels(path: Path, labels: Any, known: IdxSet | None = None) -> np.ndarray:
    """Return labels as int32 [n] from 0, after checking that they are whole numbers in the range of the classes."""
    if labels is None:
        raise ValueError(
            f"{path}: must have a column of labels, called label or the first of 785, got {SIDE * SIDE} columns; "
            "`predict RUN FILE --submission OUT` reads images without labels"
        )
    if labels.size == 0:
        raise ValueError(f"{path}: must have at least one image, got none")
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if labels.ndim != 1:
        raise ValueError(
            f"{path}: labels must be [n] whole numbers, got {list(labels.shape)}; take the argmax of one-hot labels"
        )
    first, count = (0, 256) if known is None else (known.first_label, len(known.classes))
    outside = ~((labels >= first) & (labels < first + count) & (np.floor(labels) == labels))  # True for NaN
    if outside.any():
        index = int(np.argmax(outside))
        raise ValueError(
            f"{path}: labels must be whole numbers from {first} to {first + count - 1}, got {labels[index]:g} at index "
            f"{index}"
        )
    return labels.astype(np.int32) - first


def _to_uint8(path: Path, pixels: np.ndarray, scale: int) -> np.ndarray:
    """Return pixels as uint8; `scale` is 1 for pixels in 0..255 and 255 for pixels in [0, 1]."""
    low, high = pixels.min(initial=0), pixels.max(initial=0)
    if not (low >= 0 and high * scale <= 255):  # also for NaN
        raise ValueError(f"{path}: pixels must be all in 0..255 or all in [0, 1], got {low:g}..{high:g}")
    return pixels if pixels.dtype == np.uint8 and scale == 1 else np.round(pixels * np.float32(scale)).astype(np.uint8)


def _scale(pixels: np.ndarray) -> int:
    return 255 if pixels.max(initial=0) <= 1 else 1


# CSV


class _Header(NamedTuple):
    """The layout of a CSV: its header, delimiter and columns."""

    has_names: bool
    delimiter: str
    columns: int
    label: int | None
    is_label_guessed: bool
    pixels: list[int]


def _read_header(path: Path) -> _Header:
    with open_maybe_gzipped(path) as file:
        first = next(_lines(path, file), "")
    delimiter = max(",;\t", key=first.count)
    with name_parse_errors(path, "CSV"):
        names = [name.strip().lower() for name in next(csv.reader([first], delimiter=delimiter), [])]
    texts = [name for name in names if name]
    numbers = [text for text in texts if _NUMBER.fullmatch(text)]
    if {"0", "0.1", "0.2"} <= {*numbers} and len({*numbers}) == len(numbers):
        raise ValueError(
            f"{path}: the first line must have the names of columns, or an image, got 0, 0.1, 0.2, ...: pandas has "
            "made names of the first image; give the file that it read, or read that with header=None and write it "
            "again"
        )
    # Many pixels of an image are equal; numbers among the names of columns are all different.
    has_names = len({*numbers}) == len(numbers) and (texts != numbers or numbers == [*map(str, range(len(numbers)))])
    label = next((i for i, name in enumerate(names) if name in _LABELS), None) if has_names else None
    ignored = [i for i, name in enumerate(names) if has_names and name in _INDICES]
    ignored += [len(names) - 1] if names[-1:] == [""] else []  # every line ends with a delimiter
    pixels = [i for i in range(len(names)) if i != label and i not in ignored]
    is_label_guessed = label is None and len(pixels) == SIDE * SIDE + 1
    if is_label_guessed:
        label, *pixels = pixels
        kind, kind_of_pixels = (re.sub(r"\d+", "", names[i]) for i in (label, pixels[0]))
        if has_names and kind == kind_of_pixels != "":
            raise ValueError(
                f"{path}: the column of labels must be called label or class if the others are numbered alike, got "
                f"{names[label]}, {names[pixels[0]]}, ..., {names[pixels[-1]]}; rename it"
            )
    if len(pixels) != SIDE * SIDE:
        raise ValueError(
            f"{path}: must have {SIDE * SIDE} columns of pixels and one of labels, called label or the first, got "
            f"{len(names)} column{'s' if len(names) > 1 else ''}"
        )
    found = [re.findall(r"\d{1,9}", names[i]) for i in pixels]
    if has_names and all(len(numbers) == 1 for numbers in found):  # pixel0, pixel1, pixel10, ... are sorted as text
        pixels = [i for _, i in sorted(zip([int(number) for (number,) in found], pixels, strict=True))]
    return _Header(has_names, delimiter, len(names), label, is_label_guessed, pixels)


def _read_csv(path: Path, pixels: bool = True) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the images, uint8 [n, 28, 28], and the labels, float [n], of a CSV; with `pixels=False` only the labels.

    The rows are parsed in chunks, so that only their bytes are in memory.
    """
    header = _read_header(path)
    if not pixels and header.label is None:
        return np.zeros((0, SIDE, SIDE), np.uint8), None
    columns = [] if header.label is None else [header.label]
    columns += header.pixels if pixels else []
    images, labels, scale, row = [], [], None, 1 + header.has_names
    with open_maybe_gzipped(path) as file:
        lines = _lines(path, file)
        if header.has_names:
            next(lines)
        while chunk := list(itertools.islice(lines, _ROWS)):
            values = _parse_rows(path, row, chunk, header, columns)
            row += len(chunk)
            if row * SIDE * SIDE > MAX_BYTES:
                raise ValueError(f"{path}: must have at most {MAX_BYTES // SIDE**2:,} rows")
            if header.label is not None:
                labels.append(values[:, 0])
                values = values[:, 1:]
            if pixels:
                scale = _scale(values) if scale is None else scale
                images.append(_to_uint8(path, values, scale).reshape(-1, SIDE, SIDE))
    images = np.concatenate([np.zeros((0, SIDE, SIDE), np.uint8), *images])
    if header.label is None:
        return images, None
    labels = np.concatenate([np.zeros(0), *labels])
    # The first pixel of nearly all images is the same; labels are not.
    if header.is_label_guessed and pixels and _largest_share(labels) > 0.8 > _largest_share(images[:, -1, -1]):
        raise ValueError(
            f"{path}: labels must be in the first column, or in one that the first line calls label, got "
            f"{np.median(labels):g} in the first column of most of the {len(labels):,} images"
        )
    return images, labels


def _largest_share(values: np.ndarray) -> float:
    """Return how large a part of the values is the most frequent one; 0 if there are none."""
    return float(np.unique(values, return_counts=True)[1].max(initial=0)) / max(len(values), 1)


def _parse_rows(path: Path, row: int, lines: Sequence[str], header: _Header, columns: Sequence[int]) -> np.ndarray:
    delimiters = [line.count(header.delimiter) for line in lines]
    wrong = next((i for i, count in enumerate(delimiters) if count != header.columns - 1), None)
    if wrong is not None:
        raise ValueError(
            f"{path}: every line must have {header.columns} columns, got {delimiters[wrong] + 1} in line {row + wrong}"
        )
    with name_parse_errors(path, f"CSV of numbers from line {row} to {row + len(lines) - 1}"):
        return np.loadtxt(
            lines, np.float32, comments=None, delimiter=header.delimiter, usecols=columns, quotechar='"', ndmin=2
        )


def _lines(path: Path, file: io.BufferedIOBase) -> Iterator[str]:
    """Yield the lines up to the end or to the empty lines there."""
    number = 0
    while line := file.readline(_LINE_BYTES):
        number += 1
        if number == 1 and line.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise ValueError(f"{path}: must be a CSV in UTF-8, got UTF-16; save it again")
        if len(line) == _LINE_BYTES:
            raise ValueError(f"{path}: is not a CSV of images: line {number} has more than {_LINE_BYTES:,} bytes")
        if not line.strip():
            rest = file.read(1024)
            if rest.strip() or len(rest) == 1024:
                raise ValueError(f"{path}: line {number} must not be empty")
            return
        yield line.decode("utf-8-sig" if number == 1 else "utf-8", errors="replace")


# npz


def _read_npz(path: Path, with_valid: bool) -> tuple[list[tuple[np.ndarray, np.ndarray]], list[str]]:
    """Return the images, uint8 [n, 28, 28], and the labels of the parts of an npz, and what is not used in words."""
    with name_parse_errors(path, "npz file"):
        archive = zipfile.ZipFile(path)
    with archive:
        members = {name.removesuffix(".npy").lower(): name for name in archive.namelist()}
        train, valid = (
            [pair for pair in pairs if members.keys() >= {*pair}] for pairs in (_TRAIN_ARRAYS, _VALID_ARRAYS)
        )
        if not train:
            raise ValueError(f"{path}: must have the arrays x_train and y_train, got {', '.join(members) or 'none'}")
        pairs = [train[0], *valid[:1]] if with_valid else [train[0]]
        parts = []
        for images_name, labels_name in pairs:
            images = _read_array(path, archive, members[images_name])
            shape = tuple(side for side in images.shape[1:] if side != 1)  # without the channel, first or last
            if shape not in ((SIDE, SIDE), (SIDE * SIDE,)):
                raise ValueError(
                    f"{path}: {images_name} must be [n, {SIDE}, {SIDE}] or [n, {SIDE * SIDE}], got {list(images.shape)}"
                )
            scale = _scale(images)
            slices = [_to_uint8(path, images[i : i + _ROWS], scale) for i in range(0, len(images), _ROWS)]
            images = np.concatenate([np.zeros((0, *images.shape[1:]), np.uint8), *slices]).reshape(-1, SIDE, SIDE)
            parts.append((images, _read_array(path, archive, members[labels_name])))
    return parts, [f"{pair[0]} is not used" for pair in valid[1:] if with_valid]


def _read_array(path: Path, archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """Read one array of numbers. Unlike np.load, it allocates no more than the file holds, whatever it declares."""
    with name_parse_errors(path, "npz file"), archive.open(name) as member:
        version = np.lib.format.read_magic(member)
        if version != (1, 0):  # the length of a later version's header is not limited
            raise ValueError(f"the version of {name} must be (1, 0), got {version}")
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(member)
        if dtype.kind not in "buif":
            what = "Python objects, a pickle, which could run code and is not read" if dtype.hasobject else str(dtype)
            raise ValueError(f"{name} must hold numbers, got {what}")
        size = math.prod(shape) * dtype.itemsize
        if not 0 <= size <= MAX_BYTES:
            raise ValueError(f"{name} declares {shape} {dtype}, over the limit of {MAX_BYTES:,} bytes")
        data = bytearray()
        while chunk := member.read(min(2**20, size + 1 - len(data))):
            data += chunk
        if len(data) != size:
            raise ValueError(f"{name} declares {shape} {dtype} = {size:,} bytes, and has others")
        return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran_order else "C")
