"""Reader of prepared TensorFlow Datasets and writer of ours, both without TensorFlow."""

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
"""The only format that TFDS reads and writes correctly without TensorFlow: Parquet silently drops records."""

_CHUNK = 4096


def read_tfds(name: str, data_dir: str | Path | None = None) -> Splits:
    """Read a gray image-classification dataset that TFDS has prepared on this machine, in its stored order.

    `name` is TFDS's name ("mnist", "emnist/letters"). `data_dir` defaults to TFDS's: the environment variable
    TFDS_DATA_DIR, else ~/tensorflow_datasets. Returns the splits "train" and "test" ("validation" if there is no
    "test"), images uint8 [n, h, w] and labels int32 [n]. Raises FileNotFoundError, with the command that prepares the
    dataset, if it is not prepared, and ValueError if it has other features, splits or file formats.

    >>> import tempfile
    >>> from jax_mnist import load
    >>> train, valid = load("mnist_sample")
    >>> splits = Splits(train[:50], valid[:9])
    >>> with tempfile.TemporaryDirectory() as data_dir:
    ...     _ = prepare("mnist_sample", splits, ("7", "3"), data_dir)
    ...     read_tfds("mnist_sample", data_dir).valid.images.shape
    (9, 28, 28)
    """
    builder = _prepared_builder(name, data_dir)
    available = list(builder.info.splits)
    valid = next((split for split in ("test", "validation") if split in available), None)
    if "train" not in available or valid is None:
        raise ValueError(f"tfds:{name}: splits must include train, and test or validation, got {available}")
    return Splits(_read_split(builder, "train"), _read_split(builder, valid))


def tfds_class_names(name: str, data_dir: str | Path | None = None) -> tuple[str, ...]:
    """Return the class names of a prepared dataset, indexed by label; raises as `read_tfds` does."""
    return tuple(_prepared_builder(name, data_dir).info.features["label"].names)


def data_directory() -> Path:
    """Return TFDS's data directory: the environment variable TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    return Path(constants.DATA_DIR).expanduser()


def prepared_directories() -> dict[str, Path]:
    """Return the names of all datasets prepared in TFDS's data directory, mapped to their directories."""
    top = data_directory()
    files = [*top.glob("*/*/dataset_info.json"), *top.glob("*/*/*/dataset_info.json")]  # name[/config]/version
    finished = [file.parent for file in files if not file.parent.name.startswith(constants.INCOMPLETE_PREFIX)]
    return {path.parent.relative_to(top).as_posix(): path for path in sorted(finished)}


def prepare(name: str, splits: Splits, classes: Sequence[str], data_dir: str | Path | None = None) -> Path:
    """Write a dataset as TFDS does, in the order of the arrays, so that TFDS reads it without TensorFlow.

    Images are uint8 [n, h, w], labels int [n]; `classes` are the class names, indexed by label. A dataset that TFDS
    knows gets TFDS's version and description, so that `tfds.data_source(name, download=False)` finds it. Returns the
    directory, which appears atomically when all is written. TFDS shows a progress bar on stderr. Raises
    FileExistsError if the dataset is already prepared, and leaves it unchanged.
    """
    try:
        info = tfds.builder(name, data_dir=data_dir).info
        version = str(info.version)
        fields = ("description", "features", "homepage", "citation", "supervised_keys")
        metadata = {field: getattr(info, field) for field in fields}
    except tfds.core.DatasetNotFoundError:
        version = "1.0.0"
        image = tfds.features.Image(shape=(*splits.train.images.shape[1:], 1))
        label = tfds.features.ClassLabel(names=list(classes))
        metadata = {
            "description": f"{name}, written by jax_mnist: images with the labels {', '.join(classes)}.",
            "features": tfds.features.FeaturesDict({"image": image, "label": label}),
            "supervised_keys": ("image", "label"),
        }
    datasets = {"train": splits.train, "test": splits.valid}
    builder = ArrayBuilder(name, version, metadata, datasets, data_dir=data_dir, file_format=FORMAT)
    if builder.is_prepared():
        raise FileExistsError(f"{builder.data_path}: tfds:{name} is already prepared; nothing was written")
    with contextlib.redirect_stdout(io.StringIO()):  # TFDS prints that it downloads, which it does not
        builder.download_and_prepare()
    return Path(builder.data_path)


class ArrayBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """TFDS builder of a dataset in memory.

    `metadata` are arguments of DatasetInfo (description, features and so on), `datasets` maps each split to a Dataset.
    """

    # TFDS 4.9.10 would otherwise look for a file of URLs and import importlib_resources, which it does not declare.
    url_infos = None

    def __init__(self, name: str, version: str, metadata: dict[str, Any], datasets: dict[str, Dataset], **options: Any):
        self.name = name  # pyright: ignore[reportAttributeAccessIssue], as TFDS's own AdhocBuilder does
        self.VERSION = tfds.core.Version(version)
        self._metadata, self._datasets = metadata, datasets
        super().__init__(**options)

    def _info(self) -> tfds.core.DatasetInfo:
        # By default TFDS shuffles records by the hash of their keys; ours keep the order of the IDX files.
        return tfds.core.DatasetInfo(builder=self, disable_shuffling=True, **self._metadata)

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        return {split: self._generate_examples(dataset) for split, dataset in self._datasets.items()}

    def _generate_examples(self, dataset: Dataset) -> Iterator[tuple[int, dict[str, Any]]]:
        for index, (image, label) in enumerate(zip(dataset.images, dataset.labels, strict=True)):
            # A PIL image, because TFDS encodes arrays by TensorFlow.
            yield index, {"image": Image.fromarray(image), "label": int(label)}


def _prepared_builder(name: str, data_dir: str | Path | None) -> Any:
    """Return the tfds.core.DatasetBuilder of a prepared dataset, after checking its format and features."""
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        builder = None
    if builder is None or not builder.is_prepared():
        directory = data_dir or data_directory()
        raise FileNotFoundError(f"tfds:{name}: is not prepared in {directory}; {_how_to_prepare(name)}")
    stored = sorted(file_format.value for file_format in builder.info.available_file_formats())
    if FORMAT not in stored:
        raise ValueError(f"tfds:{name}: format must be {FORMAT}, got {', '.join(stored)} in {builder.data_path}")
    info: Any = builder.info
    features = dict(sorted(info.features.items()))
    expected = {"image": tfds.features.Image, "label": tfds.features.ClassLabel}
    if not all(isinstance(features.get(key), kind) for key, kind in expected.items()):
        raise ValueError(f"tfds:{name}: features must include image: Image and label: ClassLabel, got {features}")
    image = features["image"]
    if None in image.shape or image.shape[2] != 1 or image.np_dtype != np.uint8:
        raise ValueError(
            f"tfds:{name}: images must have one size, one channel and dtype uint8, got shape {image.shape}, "
            f"{np.dtype(image.np_dtype)}"
        )
    return builder


def _read_split(builder: Any, split: str) -> Dataset:
    # Decoding the PNGs here, in chunks, takes half the time of TFDS's decoder and does not need OpenCV.
    decoders = {"image": tfds.decode.SkipDecoding()}
    source = builder.as_data_source(split, decoders=decoders, file_format=FORMAT)
    images = np.empty((len(source), *builder.info.features["image"].shape[:2]), np.uint8)
    labels = np.empty(len(source), np.int32)
    for start in range(0, len(source), _CHUNK):
        indices = range(start, min(start + _CHUNK, len(source)))
        for index, example in zip(indices, source.__getitems__(list(indices)), strict=True):
            images[index] = np.asarray(Image.open(io.BytesIO(example["image"])))
            labels[index] = example["label"]
    return Dataset(images, labels)


def _how_to_prepare(name: str) -> str:
    if name in ("mnist_sample", *FAMILY):
        return f"to prepare it: python -m jax_mnist prepare_tfds {name}"
    code = f"import tensorflow_datasets as t; t.data_source('{name}', builder_kwargs={{'file_format': '{FORMAT}'}})"
    return f'to prepare it, if TFDS knows it and TensorFlow is installed: python -c "{code}"'
