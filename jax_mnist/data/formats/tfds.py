"""TensorFlow Datasets without TensorFlow: what is prepared on this machine is read, what we have is prepared."""

import contextlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core import constants

from ...types import Dataset, Splits
from ..registry import FAMILY

FORMAT = "array_record"
"""The one format that TFDS writes and reads whole without TensorFlow: its Parquet loses records, unnoticed."""

_CHUNK = 4096


def read_tfds(name: str, data_dir: str | Path | None = None) -> Splits:
    """A grey image-classification dataset that TFDS has prepared on this machine, in its stored order.

    `name` is TFDS's own ("mnist", "emnist/letters"); `data_dir` by default TFDS's: the environment variable
    TFDS_DATA_DIR, else ~/tensorflow_datasets. Returns its splits "train" and "test" ("validation" where there is
    no "test"), images uint8 [n, h, w] and labels int32 [n]. Raises FileNotFoundError, with the command that
    prepares it, where it is not prepared, and ValueError where it is something else than such images.

    >>> import tempfile
    >>> from jax_mnist import load
    >>> train, valid = load("mnist_sample")
    >>> splits = Splits(train[:50], valid[:9])
    >>> with tempfile.TemporaryDirectory() as data_dir:
    ...     _ = prepare("mnist_sample", splits, ("7", "3"), data_dir)
    ...     read_tfds("mnist_sample", data_dir).valid.images.shape
    (9, 28, 28)
    """
    builder = _prepared(name, data_dir)
    available = list(builder.info.splits)
    valid = next((split for split in ("test", "validation") if split in available), None)
    if "train" not in available or valid is None:
        raise ValueError(f"tfds:{name}: has the splits {available}; expected train, and test or validation")
    return Splits(_read_split(builder, "train"), _read_split(builder, valid))


def tfds_class_names(name: str, data_dir: str | Path | None = None) -> tuple[str, ...]:
    """The names of the classes of such a dataset, each at the place of its label; raises as `read_tfds` does."""
    return tuple(_prepared(name, data_dir).info.features["label"].names)


def data_directory() -> Path:
    """TFDS's data directory: the environment variable TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    return Path(constants.DATA_DIR).expanduser()


def prepared_directories() -> dict[str, Path]:
    """The names of all datasets that are prepared in TFDS's data directory, each with its own directory."""
    top = data_directory()
    files = [*top.glob("*/*/dataset_info.json"), *top.glob("*/*/*/dataset_info.json")]
    finished = [file.parent for file in files if not file.parent.name.startswith(constants.INCOMPLETE_PREFIX)]
    return {path.parent.relative_to(top).as_posix(): path for path in sorted(finished)}


def prepare(name: str, splits: Splits, classes: Sequence[str], data_dir: str | Path | None = None) -> Path:
    """Write a dataset as TFDS does, in the order of the arrays, so that TFDS alone reads it without TensorFlow.

    Images are uint8 [n, h, w], labels int [n], each the place of its name in `classes`. A dataset that TFDS knows
    gets TFDS's own version and description, so that `tfds.data_source(name, download=False)` finds it. Returns
    the directory; it appears in one step when all is written. TFDS draws its progress bar on
    stderr. Raises FileExistsError where that dataset is prepared already: it is left as it is.
    """
    try:
        info = tfds.builder(name, data_dir=data_dir).info
        version, about = str(info.version), _about(info)
    except tfds.core.DatasetNotFoundError:
        version, about = "1.0.0", _about_ours(name, splits, classes)
    parts = {"train": splits.train, "test": splits.valid}
    builder = ArrayBuilder(name, version, about, parts, data_dir=data_dir, file_format=FORMAT)
    if builder.is_prepared():
        raise FileExistsError(f"{builder.data_path}: tfds:{name} is prepared already; nothing was written")
    with contextlib.redirect_stdout(io.StringIO()):  # TFDS prints that it downloads, which it does not
        builder.download_and_prepare()
    return Path(builder.data_path)


class ArrayBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A dataset builder whose examples are arrays in memory, one Dataset a split.

    `about` holds what DatasetInfo takes: description, features and so on.
    """

    # To look for addresses, of which we have none, TFDS 4.9.10 imports importlib_resources, which it does not declare.
    url_infos = None

    def __init__(self, name: str, version: str, about: dict[str, Any], parts: dict[str, Dataset], **options: Any):
        self.name = name  # pyright: ignore[reportAttributeAccessIssue], as TFDS's own AdhocBuilder does
        self.VERSION = tfds.core.Version(version)
        self._about, self._parts = about, parts
        super().__init__(**options)

    def _info(self) -> tfds.core.DatasetInfo:
        # Shuffled by the hash of their keys, the records would stand in another order than everywhere else.
        return tfds.core.DatasetInfo(builder=self, disable_shuffling=True, **self._about)

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        return {split: self._generate_examples(dataset) for split, dataset in self._parts.items()}

    def _generate_examples(self, dataset: Dataset) -> Iterator[tuple[int, dict[str, Any]]]:
        for place, (image, label) in enumerate(zip(dataset.images, dataset.labels, strict=True)):
            yield place, {"image": Image.fromarray(image), "label": int(label)}  # TFDS needs TensorFlow for an array


def _about(info: tfds.core.DatasetInfo) -> dict[str, Any]:
    names = ("description", "features", "homepage", "citation", "supervised_keys")
    return {name: getattr(info, name) for name in names}


def _about_ours(name: str, splits: Splits, classes: Sequence[str]) -> dict[str, Any]:
    image = tfds.features.Image(shape=(*splits.train.images.shape[1:], 1))
    features = {"image": image, "label": tfds.features.ClassLabel(names=list(classes))}
    return {
        "description": f"{name}, written by jax_mnist: images with the labels {', '.join(classes)}.",
        "features": tfds.features.FeaturesDict(features),
        "supervised_keys": ("image", "label"),
    }


def _prepared(name: str, data_dir: str | Path | None) -> Any:
    """The builder, a tfds.core.DatasetBuilder, of a dataset that is there and is what we can read."""
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        builder = None
    if builder is None or not builder.is_prepared():
        place = data_dir or data_directory()
        raise FileNotFoundError(f"tfds:{name}: is not prepared in {place}; {_how_to_prepare(name)}")
    stored = sorted(file_format.value for file_format in builder.info.available_file_formats())
    if FORMAT not in stored:
        raise ValueError(f"tfds:{name}: is prepared as {', '.join(stored)} in {builder.data_path}; expected {FORMAT}")
    features: Any = builder.info.features
    kinds = {"image": tfds.features.Image, "label": tfds.features.ClassLabel}
    if not all(isinstance(dict(features.items()).get(key), kind) for key, kind in kinds.items()):
        raise ValueError(f"tfds:{name}: has the features {sorted(features)}; expected image, and label of a class")
    image = features["image"]
    if None in image.shape or image.shape[2] != 1 or image.np_dtype != np.uint8:
        raise ValueError(
            f"tfds:{name}: has images of shape {image.shape}, {np.dtype(image.np_dtype)}; "
            "expected one size, one channel and uint8"
        )
    return builder


def _read_split(builder: Any, split: str) -> Dataset:
    # The PNGs as they are: decoding them here, in chunks, takes half the time and does not ask for OpenCV.
    decoders = {"image": tfds.decode.SkipDecoding()}
    source = builder.as_data_source(split, decoders=decoders, file_format=FORMAT)
    images = np.empty((len(source), *builder.info.features["image"].shape[:2]), np.uint8)
    labels = np.empty(len(source), np.int32)
    for start in range(0, len(source), _CHUNK):
        places = range(start, min(start + _CHUNK, len(source)))
        for place, example in zip(places, source.__getitems__(list(places)), strict=True):
            images[place] = np.asarray(Image.open(io.BytesIO(example["image"])))
            labels[place] = example["label"]
    return Dataset(images, labels)


def _how_to_prepare(name: str) -> str:
    if name in ("mnist_sample", *FAMILY):
        return f"to prepare it: python -m jax_mnist prepare_tfds {name}"
    code = f"import tensorflow_datasets as t; t.data_source('{name}', builder_kwargs={{'file_format': '{FORMAT}'}})"
    return f'to prepare it, if TFDS knows it and TensorFlow is installed: python -c "{code}"'
