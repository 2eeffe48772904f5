"""Reader of prepared TensorFlow Datasets and writer of ours, both without TensorFlow."""

import contextlib
import io
import re
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core import constants
from tensorflow_datasets.proto import tf_example_pb2

from ...files import name_parse_errors
from ...types import Dataset, Splits
from ..registry import FAMILY, IDX_SETS, IdxSet, NoValidationError

FORMAT = "array_record"
"""The only format that TFDS reads and writes correctly without TensorFlow: Parquet silently drops records."""

_TFRECORD = "tfrecord"  # TFDS's default; read here, without TensorFlow
_CHUNK = 1024
_MAX_RECORD_BYTES = 2**18


def read_tfds(name: str, data_dir: str | Path | None = None) -> Splits:
    """Read a gray image-classification dataset that TFDS has prepared on this machine, in its stored order.

    `name` is TFDS's name ("mnist", "emnist/letters"). `data_dir` defaults to TFDS's: the environment variable
    TFDS_DATA_DIR, else ~/tensorflow_datasets. Returns the splits "train" and "test" ("validation" if there is no
    "test"), images uint8 [n, h, w] and labels int32 [n]. EMNIST's images, which TFDS has transposed, are upright. The
    files are array_record or tfrecord. Raises FileNotFoundError, with the command that prepares the dataset, if it is
    not prepared, or has no validation images, and ValueError, naming the file, if it is damaged, or has other features
    or file formats.

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
    valid = next((split for split in ("test", "validation") if split in builder.info.splits), None)
    if valid is None:
        raise NoValidationError(f"tfds:{name}: splits must include test or validation, got {list(builder.info.splits)}")
    return Splits(_read_split(builder, "train"), _read_split(builder, valid))


def read_tfds_train(name: str, data_dir: str | Path | None = None) -> Dataset:
    """Read only the training images of a prepared dataset; raises as `read_tfds` does."""
    return _read_split(_prepared_builder(name, data_dir), "train")


def tfds_class_names(name: str, data_dir: str | Path | None = None) -> tuple[str, ...]:
    """Return the class names of a prepared dataset, indexed by label; raises as `read_tfds` does."""
    builder = _prepared_builder(name, data_dir)
    emnist = _emnist_set(builder)
    return tuple(builder.info.features["label"].names) if emnist is None else emnist.classes


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
    directory = data_dir or data_directory()
    if version := re.fullmatch(r"(.+)/(\d+\.\d+\.\d+)", name):
        raise ValueError(f"tfds:{name}: a version follows a colon: tfds:{version[1]}:{version[2]}")
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        builder = None
    except Exception as error:  # TFDS raises many types, with a page of advice
        raise ValueError(f"tfds:{name}: TFDS cannot open it in {directory} ({str(error).splitlines()[0]})") from error
    if builder is None or not builder.is_prepared():
        raise FileNotFoundError(f"tfds:{name}: is not prepared in {directory}; {_how_to_prepare(name)}")
    stored = sorted(file_format.value for file_format in builder.info.available_file_formats())
    if not {FORMAT, _TFRECORD}.intersection(stored):
        raise ValueError(
            f"tfds:{name}: format must be {FORMAT} or {_TFRECORD}, got {', '.join(stored)}; delete "
            f"{builder.data_path}, then {_how_to_prepare(name)}"
        )
    if "train" not in builder.info.splits:
        raise ValueError(f"tfds:{name}: splits must include train, got {list(builder.info.splits)}")
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


def _emnist_set(builder: Any) -> IdxSet | None:
    """Return EMNIST's set of IDX files, whose images TFDS stores as they are, and whose classes it does not name."""
    return IDX_SETS[f"emnist-{builder.builder_config.name}"] if builder.name == "emnist" else None


def _read_split(builder: Any, split: str) -> Dataset:
    info = builder.info
    stored = [file_format.value for file_format in info.available_file_formats()]
    read, kind = (_read_array_records, FORMAT) if FORMAT in stored else (_read_tfrecords, _TFRECORD)
    files = [str(file) for file in info.splits[split].filepaths]
    path = files[0] if len(files) == 1 else f"{builder.data_path}: {split}"
    images = np.empty((info.splits[split].num_examples, *info.features["image"].shape[:2]), np.uint8)
    labels = np.empty(len(images), np.int32)
    index = 0
    with name_parse_errors(path, f"{kind} of images"):
        for image, label in read(builder, split):
            # Decoding the PNGs here takes half the time of TFDS's decoder and does not need OpenCV.
            picture = Image.open(io.BytesIO(image))
            if picture.size != images.shape[:0:-1]:  # before it is decoded, since a small PNG may declare a huge one
                raise ValueError(f"image {index} must have {images.shape[1:]} pixels, got {picture.size[::-1]}")
            images[index], labels[index] = np.asarray(picture), label
            index += 1
        if index != len(images):
            raise ValueError(f"must have {len(images):,} records, got {index:,}")
        emnist = _emnist_set(builder)
        first, classes = (
            (0, info.features["label"].num_classes) if emnist is None else (emnist.first_label, len(emnist.classes))
        )
        if len(labels) and not first <= labels.min() <= labels.max() < first + classes:
            raise ValueError(f"labels must be {first} to {first + classes - 1}, got {labels.min()}..{labels.max()}")
    return Dataset(images if emnist is None else images.transpose(0, 2, 1).copy(), labels - np.int32(first))


def _read_array_records(builder: Any, split: str) -> Iterator[tuple[bytes, int]]:
    decoders = {"image": tfds.decode.SkipDecoding()}
    source = builder.as_data_source(split, decoders=decoders, file_format=FORMAT)
    for start in range(0, len(source), _CHUNK):
        for example in source.__getitems__(list(range(start, min(start + _CHUNK, len(source))))):
            yield example["image"], example["label"]


def _read_tfrecords(builder: Any, split: str) -> Iterator[tuple[bytes, int]]:
    """Yield the images and labels of TFRecord files: each record is its length, a checksum, its bytes, a checksum."""
    for file in builder.info.splits[split].filepaths:
        contents, offset = Path(file).read_bytes(), 0
        while offset < len(contents):
            records, checksums = [], []
            while offset < len(contents) and len(records) < _CHUNK:
                (length,) = struct.unpack_from("<Q", contents, offset)
                end = offset + 12 + length
                if length > _MAX_RECORD_BYTES or end + 4 > len(contents):
                    raise ValueError(f"record at byte {offset} declares {length:,} bytes")
                records.append(contents[offset + 12 : end])
                checksums += struct.unpack_from("<I", contents, end)
                offset = end + 4
            if _masked_crc32c(records).tolist() != checksums:
                raise ValueError(f"a record before byte {offset} has another checksum")
            for record in records:
                example = tf_example_pb2.Example.FromString(record)  # pyright: ignore[reportAttributeAccessIssue]
                feature = example.features.feature
                yield feature["image"].bytes_list.value[0], feature["label"].int64_list.value[0]


def _masked_crc32c(records: Sequence[bytes]) -> np.ndarray:
    """Return TFRecord's checksum of each record, uint32 [n], computed for all of them at once, byte by byte."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, np.uint32(0x82F63B78), np.uint32(0)) ^ (table >> 1)
    lengths = np.array([len(record) for record in records])
    padded = np.zeros((lengths.max(initial=0), len(records)), np.uint8)
    for i, record in enumerate(records):
        padded[: len(record), i] = np.frombuffer(record, np.uint8)
    crc = np.full(len(records), 0xFFFFFFFF, np.uint32)
    for position, byte in enumerate(padded):
        crc = np.where(position < lengths, table[(crc ^ byte) & 255] ^ (crc >> 8), crc)
    crc = ~crc
    return (crc >> 15 | crc << 17) + np.uint32(0xA282EAD8)


def _how_to_prepare(name: str) -> str:
    if name in ("mnist_sample", *FAMILY):
        return f"to prepare it: python -m jax_mnist prepare_tfds {name}"
    code = f"import tensorflow_datasets as t; t.data_source('{name}', builder_kwargs={{'file_format': '{FORMAT}'}})"
    return f'to prepare it, if TFDS knows it and TensorFlow is installed: python -c "{code}"'
