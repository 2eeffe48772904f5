"""Loading of datasets by name or path, and splits of them."""

import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int, PRNGKeyArray

from ..types import Dataset, Splits
from .download import fetch
from .formats.idx import check_sha256, find_idx, read_idx, spellings
from .formats.image_folder import (
    SIDE,
    ImageFolder,
    class_folders,
    describe_contents,
    find_folder,
    holds_pictures,
    list_visible,
    read_folder,
)
from .formats.tables import Table, find_table, find_tables, read_table, table_classes
from .formats.unread import describe_directory, describe_file
from .registry import FAMILY, IDX_SETS, IdxSet, NoValidationError, Source

_SAMPLE_CLASSES = ("7", "3")  # the chapter's labels: 1 for a 3, 0 for a 7
_TFDS = "tfds:"


class IdxFiles(NamedTuple):
    """A directory with IDX files, and the name in `IDX_SETS` of the set that they are."""

    directory: Path
    name: str


def load(
    name_or_path: str | Path,
    *,
    prepare: bool = True,
    report: Callable[[str], Any] | None = None,
    progress: Callable[..., Iterable[Any]] | None = None,
) -> Splits:
    """Load the training and validation images of a dataset.

    - "mnist": all ten digits, 60,000 and 10,000 images; bundled.
    - "mnist_sample": the chapter's 3s and 7s in the chapter's order, 12,396 and 2,038 images; a 3 has label 1, a 7 has
      label 0; bundled.
    - "fashion_mnist", "kmnist": the sizes of "mnist"; found on this machine or downloaded, see `data/download.py`.
    - "tfds:NAME": a dataset that TensorFlow Datasets has prepared on this machine, see `data/formats/tfds.py`.
    - Anything else is a path: of an .npz or .csv file; of a directory with IDX files as MNIST, EMNIST or QMNIST name
      them, plain or .gz; of an image folder (train/3/10.png, valid/...); or of a directory that holds one of these, up
      to two folders down. See docs/data.md.

    The files of the first three are verified by SHA-256. With `prepare` pictures and tables that are dark on light are
    inverted, and pictures that are not 28x28 become what `read_photo` makes of them; without it they are read as they
    are, and other sizes are refused. What was done or left out is a sentence for `report`, by default a UserWarning.
    `progress(iterable, total=n)`, such as `tqdm.tqdm`, is called if pictures are prepared. Returns Splits of
    Dataset(images uint8 [n, 28, 28], labels int32 [n]) as NumPy arrays. Raises FileNotFoundError if something does not
    exist and ValueError if it is damaged, naming the file.

    >>> train, valid = load("mnist_sample")
    >>> train.images.shape, train.labels[:3].tolist(), len(valid)
    ((12396, 28, 28), [1, 1, 1], 2038)
    """
    datasets, notes = _read(name_or_path, with_valid=True, prepare=prepare, progress=progress)
    _tell(notes, report)
    return Splits(*datasets)


def load_train(
    name_or_path: str | Path,
    *,
    prepare: bool = True,
    report: Callable[[str], Any] | None = None,
    progress: Callable[..., Iterable[Any]] | None = None,
) -> Dataset:
    """Load the training images of a dataset, which needs no others; the arguments are those of `load`.

    >>> train, valid = hold_out(jax.random.key(0), load_train("mnist_sample"), 2000)
    >>> len(train), len(valid)
    (10396, 2000)
    """
    datasets, notes = _read(name_or_path, with_valid=False, prepare=prepare, progress=progress)
    _tell(notes, report)
    return datasets[0]


def _tell(notes: str, report: Callable[[str], Any] | None) -> None:
    if notes:
        warnings.warn(notes, stacklevel=3) if report is None else report(notes)


def _read(name_or_path: str | Path, *, with_valid: bool, prepare: bool, progress: Any) -> tuple[list[Dataset], str]:
    """Return the training images and, if `with_valid`, the validation images, and what to tell the user."""
    if name_or_path in known_names():
        return list(load_known(str(name_or_path)))[: 1 + with_valid], ""
    if str(name_or_path).startswith(_TFDS):
        from .formats.tfds import read_tfds, read_tfds_train

        name = str(name_or_path).removeprefix(_TFDS)
        return list(read_tfds(name)) if with_valid else [read_tfds_train(name)], ""
    found = _find(name_or_path)
    if isinstance(found, IdxFiles):
        return _read_idx_set(found, with_valid), ""
    if isinstance(found, Table):
        return read_table(found, with_valid=with_valid, prepare=prepare)

    def prepare_files(files: Sequence[Path], largest: int) -> Sequence[Any]:
        from .prepare import prepare_pictures  # importing SciPy's ndimage takes half a second

        return prepare_pictures(found.path, files, largest, progress)

    return read_folder(found, with_valid=with_valid, prepare=prepare_files if prepare else None)


def load_known(name: str, directory: Path | None = None) -> Splits:
    """Load one of `known_names()`, by default from its usual location, else from a directory with its IDX files.

    The files are verified by SHA-256 in both cases. Raises as `load` does.
    """
    if name == "mnist_sample":
        return Splits(*(_threes_and_sevens(digits) for digits in load_known("mnist", directory)))
    return Splits(*_read_idx_set(IdxFiles(directory or fetch(name), "mnist"), with_valid=True, source=FAMILY[name]))


def known_names() -> tuple[str, ...]:
    """Return the names that `load` accepts besides "tfds:NAME" and paths.

    >>> known_names()
    ('mnist_sample', 'mnist', 'fashion_mnist', 'kmnist')
    """
    return ("mnist_sample", *FAMILY)


def class_names(name_or_path: str | Path) -> tuple[str, ...]:
    """Return the class names of a dataset, indexed by label.

    `name_or_path` and the exceptions are those of `load`.

    >>> class_names("mnist_sample")
    ('7', '3')
    """
    if name_or_path in known_names():
        return _SAMPLE_CLASSES if name_or_path == "mnist_sample" else FAMILY[str(name_or_path)].classes
    if str(name_or_path).startswith(_TFDS):
        from .formats.tfds import tfds_class_names

        return tfds_class_names(str(name_or_path).removeprefix(_TFDS))
    found = _find(name_or_path)
    if isinstance(found, IdxFiles):
        return IDX_SETS[found.name].classes
    return table_classes(found) if isinstance(found, Table) else class_folders(found)


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


def _find(name_or_path: str | Path) -> IdxFiles | Table | ImageFolder:
    """Return what a path leads to: the dataset there, or the only one in the folders up to two levels below."""
    path = Path(name_or_path)
    chosen = IdxFiles(path.parent, path.name)  # DIR/emnist-letters: one of several sets
    if not path.exists() and path.parent.is_dir() and chosen in _find_sets(path.parent):
        return chosen
    if path.is_file():
        table = find_table(path)
        if table is None:
            raise ValueError(f"{path}: is {describe_file(path)}")
        return table
    if not path.is_dir():
        raise FileNotFoundError(
            f"dataset must be a name ({', '.join(known_names())}, {_TFDS}NAME) or the path of a directory of IDX files "
            f"or class folders, or of an .npz or .csv file, got {name_or_path}"
        )
    level, passed = [path], []
    for _ in range(3):
        found = [one for directory in level for one in _datasets_in(directory)]
        if len(found) == 1 and isinstance(found[0], ImageFolder):
            # Folders beside the one that is read must not be left out silently.
            beside = [one for one in passed if not found[0].path.is_relative_to(one) and holds_pictures(one)]
            outermost = (one for one in beside if one.parent not in beside)
            return found[0]._replace(unused=(*found[0].unused, *outermost))
        if len(found) == 1:
            return found[0]
        if found:
            choices = [_path_of(one) for one in found]
            raise ValueError(f"{path}: holds {len(found)} datasets; give one of {', '.join(choices)}")
        level = [child for directory in level for child in list_visible(directory) if child.is_dir()]
        passed += level
    if what := describe_directory(path):
        raise ValueError(f"{path}: is {what}")
    raise FileNotFoundError(
        f"{path}: has no {IDX_SETS['mnist'].train[0]} (plain or .gz), no train/ or class folders with pictures, no "
        f".npz and no train.csv; it has {describe_contents(path)}"
    )


def _path_of(found: IdxFiles | Table | ImageFolder) -> str:
    if isinstance(found, IdxFiles):
        is_only_one = len(_find_sets(found.directory)) == 1
        return str(found.directory if is_only_one else found.directory / found.name)
    return str(found.train if isinstance(found, Table) else found.path)


def _datasets_in(directory: Path) -> Sequence[IdxFiles | Table | ImageFolder]:
    folder = find_folder(directory)
    return _find_sets(directory) or ([folder] if folder else [*find_tables(directory)])


def _find_sets(directory: Path) -> list[IdxFiles]:
    """Return the sets of which a directory has any file, so that a missing one is named."""
    present = {child.name for child in directory.iterdir()}
    return [
        IdxFiles(directory, name)
        for name, files in IDX_SETS.items()
        if any(present.intersection(spellings(file)) for file in (*files.train, *files.valid))
    ]


def _sample_indices(digits: Dataset) -> np.ndarray:
    """Return the indices of the 3s, then of the 7s, each in fastai's order: by file name as text."""
    threes_and_sevens = np.flatnonzero(np.isin(digits.labels, (3, 7))).tolist()
    return np.array(sorted(threes_and_sevens, key=lambda index: (digits.labels[index], f"{index}.png")))


def _threes_and_sevens(digits: Dataset) -> Dataset:
    indices = _sample_indices(digits)
    return Dataset(digits.images[indices], (digits.labels[indices] == 3).astype(np.int32))


def _read_idx_set(files: IdxFiles, with_valid: bool, source: Source | None = None) -> list[Dataset]:
    """Read the IDX files of a set and check that they fit together; `source`, if given, has their checksums."""
    directory, names = files.directory, IDX_SETS[files.name]
    train = _read_idx_part(directory, names, names.train, source)
    if not with_valid:
        return [train]
    if not any(find_idx(directory, file) for file in names.valid):
        raise NoValidationError(f"{directory}: has no {names.valid[0]} and {names.valid[1]}")
    return [train, _read_idx_part(directory, names, names.valid, source)]


def _read_idx_part(directory: Path, names: IdxSet, part: tuple[str, str], source: Source | None) -> Dataset:
    images_file, images = _read_idx_file(directory, part[0], source)
    labels_file, labels = _read_idx_file(directory, part[1], source)
    if images.shape[1:] != (SIDE, SIDE):
        raise ValueError(f"{images_file}: images must be {SIDE}x{SIDE} pixels, got {images.shape[1:]}")
    if labels.ndim == 2:  # QMNIST has the writer, the form and more beside the class
        if labels.shape[1] != 8:
            raise ValueError(f"{labels_file}: labels must have 8 columns, got {labels.shape[1]}")
        labels = labels[:, 0]
    if len(images) != len(labels) or len(images) == 0:
        raise ValueError(
            f"{images_file}: must have one image per label and at least one, got {len(images)} images and "
            f"{len(labels)} labels in {labels_file}"
        )
    labels = labels.astype(np.int32) - names.first_label
    outside = (labels < 0) | (labels >= len(names.classes))
    if outside.any():
        index, last = int(np.argmax(outside)), names.first_label + len(names.classes) - 1
        raise ValueError(
            f"{labels_file}: labels must be {names.first_label} to {last}, got {labels[index] + names.first_label} at "
            f"index {index}"
        )
    if names.transposed:
        for start in range(0, len(images), 4096):  # in place, since the largest set takes half a gigabyte
            images[start : start + 4096] = images[start : start + 4096].transpose(0, 2, 1).copy()
    return Dataset(images, labels)


def _read_idx_file(directory: Path, name: str, source: Source | None) -> tuple[Path, np.ndarray]:
    """Find and read one IDX file; return its path and its array."""
    file = find_idx(directory, name)
    if file is None:
        accepted = ", ".join(spellings(name))
        raise FileNotFoundError(f"{directory}: has no {name}; looked for {accepted}")
    sha256 = source.contents.get(name) if source else None
    if source and sha256 is None:  # only the checksum of the published .gz is known
        check_sha256(file, source.archives[name])
    _, _, form = name.rpartition("-idx")  # such as 3-ubyte: the dimensions and the dtype
    return file, read_idx(file, int(form[0]), sha256, np.uint8 if form.endswith("ubyte") else np.int32)
