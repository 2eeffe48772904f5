"""TensorFlow Datasets, which must work without TensorFlow and must not import it."""

import io
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from marks import slow
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2

from jax_mnist import Dataset, Splits, class_names, load
from jax_mnist.cli import prepare_tfds
from jax_mnist.data import load_train
from jax_mnist.data.download import present
from jax_mnist.data.formats import tfds as ours
from jax_mnist.data.registry import BUNDLED, FAMILY, IDX_SETS

fashion_installed = pytest.mark.skipif(
    present("fashion_mnist") is None,
    reason="Fashion-MNIST is not on this machine: apt-get install dataset-fashion-mnist",
)


def assert_same(left, right):
    for a, b in zip(left, right, strict=True):
        np.testing.assert_array_equal(a.images, b.images)
        np.testing.assert_array_equal(a.labels, b.labels)
        assert (a.images.dtype, a.labels.dtype) == (b.images.dtype, b.labels.dtype) == (np.uint8, np.int32)


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    """A temporary directory that replaces TFDS's data directory."""
    monkeypatch.setattr("tensorflow_datasets.core.constants.DATA_DIR", str(tmp_path))
    return tmp_path


def plain_records(name, split, data_dir):
    """Read records with TFDS only, without our code."""
    options = {"file_format": "array_record"}
    return tfds.data_source(name, split=split, data_dir=data_dir, download=False, builder_kwargs=options)


def assert_plain_tfds_reads(name, data_dir, splits):
    for split, dataset in zip(("train", "test"), splits, strict=True):
        records = plain_records(name, split, data_dir)
        assert len(records) == len(dataset)
        examples = records.__getitems__(list(range(len(records))))
        np.testing.assert_array_equal([example["label"] for example in examples], dataset.labels)
        np.testing.assert_array_equal(np.stack([example["image"][..., 0] for example in examples]), dataset.images)


@pytest.mark.slow
def test_sample_prepared_from_a_directory_into_another_is_read(data_dir, tmp_path_factory, monkeypatch, sample, capsys):
    other = tmp_path_factory.mktemp("other")
    assert prepare_tfds.main(["mnist_sample", "--from", str(BUNDLED), "--data-dir", str(other)]) == 0
    assert f"12,396 training and 2,038 test images written to {other}" in capsys.readouterr().out
    assert list(data_dir.iterdir()) == []
    assert_same(ours.read_tfds("mnist_sample", other), sample)
    assert_plain_tfds_reads("mnist_sample", other, sample)
    monkeypatch.setattr("tensorflow_datasets.core.constants.DATA_DIR", str(other))
    assert class_names("tfds:mnist_sample") == class_names("mnist_sample")
    assert ours.prepared_directories() == {"mnist_sample": other / "mnist_sample" / "1.0.0"}


def use_first_images(monkeypatch, name, *counts):
    """Let prepare_tfds take only the first training and test images of a dataset, and return them."""
    splits = Splits(*(part[:count] for part, count in zip(load(name), counts, strict=True)))
    monkeypatch.setattr(prepare_tfds, "load_known", lambda *_: splits)
    return splits


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist", pytest.param("fashion_mnist", marks=fashion_installed)])
def test_prepared_dataset_is_read_in_file_order_by_us_and_by_plain_tfds(data_dir, monkeypatch, name):
    splits = use_first_images(monkeypatch, name, 3000, 1100)  # more than one chunk of 1,024 records each
    assert prepare_tfds.main([name]) == 0
    assert_plain_tfds_reads(name, data_dir, splits)
    assert_same(load(f"tfds:{name}"), splits)
    assert class_names(f"tfds:{name}") == class_names(name)


@pytest.mark.parametrize("name", FAMILY)
def test_class_names_are_those_of_tfds(tmp_path, name):
    features = tfds.builder(name, data_dir=tmp_path).info.features
    assert tuple(features["label"].names) == class_names(name)


def test_prepared_dataset_is_not_overwritten(data_dir, tiny, capsys):
    path = ours.prepare("mnist", tiny, class_names("mnist"))
    before = {file: file.read_bytes() for file in path.iterdir()}
    assert prepare_tfds.main(["mnist"]) == 2
    assert "tfds:mnist is already prepared; nothing was written" in capsys.readouterr().err
    assert {file: file.read_bytes() for file in path.iterdir()} == before
    assert_same(load("tfds:mnist"), tiny)


def test_prepare_from_a_directory_verifies_its_checksums(data_dir, tmp_path_factory, capsys):
    other = tmp_path_factory.mktemp("other")
    assert prepare_tfds.main(["fashion_mnist", "--from", str(BUNDLED)]) == 2
    assert "sha256 of the contents" in capsys.readouterr().err
    assert prepare_tfds.main(["mnist", "--from", str(other)]) == 2
    assert "has no train-images-idx3-ubyte" in capsys.readouterr().err
    assert list(data_dir.iterdir()) == []


@pytest.mark.slow
def test_script_runs_the_command():
    code = [sys.executable, "-W", "error", str(Path(__file__).parents[1] / "scripts/prepare_tfds.py"), "--help"]
    output = subprocess.run(code, capture_output=True, text=True, check=True).stdout
    assert "{mnist,mnist_sample,fashion_mnist,kmnist}" in output
    assert "--from DIR" in output


def test_validation_split_replaces_a_missing_test_split_at_any_image_size(data_dir):
    images = np.random.default_rng(0).integers(0, 256, (6, 5, 9), np.uint8)
    datasets = {"train": Dataset(images[:4], np.arange(4)), "validation": Dataset(images[4:], np.arange(2))}
    build("letters", datasets, (5, 9, 1))
    train, valid = load("tfds:letters")
    np.testing.assert_array_equal(train.images, images[:4])
    np.testing.assert_array_equal(valid.images, images[4:])
    assert class_names("tfds:letters") == ("0", "1", "2", "3")


def build(name, datasets, shape, dtype=np.uint8, label=None):
    image = tfds.features.Image(shape=shape, dtype=dtype, encoding_format="png")
    features = {"image": image, "label": label or tfds.features.ClassLabel(num_classes=4)}
    metadata = {"description": name, "features": tfds.features.FeaturesDict(features)}
    ours.ArrayBuilder(name, "1.0.0", metadata, datasets, file_format="array_record").download_and_prepare()


GREY = Dataset(np.zeros((2, 4, 4), np.uint8), np.zeros(2, np.int64))
COLOUR = Dataset(np.zeros((2, 4, 4, 3), np.uint8), np.zeros(2, np.int64))
DEEP = Dataset(np.full((2, 4, 4), 700, np.uint16), np.zeros(2, np.int64))
BOTH = ("train", "test")
REFUSED = {
    r"images .*one channel .*\(4, 4, 3\), uint8": (COLOUR, BOTH, (4, 4, 3)),
    r"images .*one size.*\(None, None, 1\), uint8": (GREY, BOTH, (None, None, 1)),
    r"images .*uint8, .*\(4, 4, 1\), uint16": (DEEP, BOTH, (4, 4, 1), np.uint16),
    r"splits .*train, got \['test'\]": (GREY, ("test",), (4, 4, 1)),
    r"features .*ClassLabel, got .*'image': Image.*'label': Scalar": (
        GREY, BOTH, (4, 4, 1), np.uint8, tfds.features.Scalar(np.int64),
    ),
}  # fmt: skip


@pytest.mark.parametrize("message", REFUSED)
def test_other_kinds_of_datasets_are_refused(data_dir, message):
    dataset, splits, *features = REFUSED[message]
    build("others", dict.fromkeys(splits, dataset), *features)
    with pytest.raises(ValueError, match=f"tfds:others: {message}"):
        load("tfds:others")


def test_other_file_formats_are_refused_with_what_to_do(data_dir, tiny):
    """As Parquet, TFDS silently drops records."""
    path = ours.prepare("mnist", tiny, class_names("mnist"))
    rename_format(path, "parquet")
    message = f"tfds:mnist: .*array_record or tfrecord, got parquet; delete {path}, then .*prepare_tfds mnist$"
    with pytest.raises(ValueError, match=message):
        load("tfds:mnist")


def rename_format(path, other):
    for file in path.glob("*array_record*"):
        file.rename(str(file).replace("array_record", other))
    for file in path.glob("*.json"):
        file.write_text(file.read_text().replace("array_record", other))


def write_tfrecord(path, records):
    """Write records as TFDS does by default; checksums are those of `crc32c`, byte by byte."""
    frames = []
    for record in records:
        length = struct.pack("<Q", len(record))
        frames.append(length + masked(crc32c(length)) + record + masked(crc32c(record)))
    path.write_bytes(b"".join(frames))


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(crc):
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def to_tfrecord(path, splits):
    """Turn a prepared dataset into what TFDS writes by default."""
    rename_format(path, "tfrecord")
    for file, dataset in zip(sorted(path.glob("*tfrecord*"), reverse=True), splits, strict=True):
        records = []
        for image, label in zip(dataset.images, dataset.labels, strict=True):
            png = io.BytesIO()
            Image.fromarray(image).save(png, format="PNG")
            example = tf_example_pb2.Example()
            example.features.feature["image"].bytes_list.value.append(png.getvalue())
            example.features.feature["label"].int64_list.value.append(int(label))
            records.append(example.SerializeToString())
        write_tfrecord(file, records)


def test_crc32c_is_the_published_one():
    assert crc32c(b"123456789") == 0xE3069283  # the check value of CRC-32C in RFC 3720's catalogue
    assert ours._masked_crc32c([b"123456789", b"", b"a"]).tolist() == [
        int.from_bytes(masked(crc32c(data)), "little") for data in (b"123456789", b"", b"a")
    ]


def test_tfrecord_is_read_without_tensorflow(data_dir, tiny):
    path = ours.prepare("mnist", tiny, class_names("mnist"))
    to_tfrecord(path, tiny)
    assert_same(load("tfds:mnist"), tiny)
    assert_same([load_train("tfds:mnist")], [tiny.train])
    assert class_names("tfds:mnist") == tuple("0123456789")


def damage_end(contents):
    return contents[:-300]


def damage_middle(contents):
    middle = len(contents) // 2
    return contents[:middle] + bytes([contents[middle] ^ 8]) + contents[middle + 1 :]


def damage_all(contents):
    return b"hello"


@pytest.mark.parametrize("damage", [damage_end, damage_middle, damage_all])
@pytest.mark.parametrize("kind", ["array_record", "tfrecord"])
def test_damaged_file_is_named(data_dir, tiny, kind, damage):
    path = ours.prepare("mnist", tiny, class_names("mnist"))
    if kind == "tfrecord":
        to_tfrecord(path, tiny)
    file = path / f"mnist-train.{kind}-00000-of-00001"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=f"{file}: is not a readable {kind} of images") as error:
        load("tfds:mnist")
    assert "\n" not in str(error.value)


def test_missing_records_and_labels_out_of_range_are_refused(data_dir, tiny):
    path = ours.prepare("mnist", tiny, class_names("mnist"))
    to_tfrecord(path, tiny)
    file = path / "mnist-train.tfrecord-00000-of-00001"
    whole = file.read_bytes()
    (length,) = struct.unpack_from("<Q", whole)
    file.write_bytes(whole[16 + length :])
    with pytest.raises(ValueError, match=f"{file}: .* must have 30 records, got 29"):
        load("tfds:mnist")
    to_tfrecord(path, Splits(Dataset(tiny.train.images[:, :20], tiny.train.labels), tiny.valid))
    with pytest.raises(ValueError, match=rf"{file}: .*image 0 must have \(28, 28\) pixels, got \(20, 28\)"):
        load("tfds:mnist")
    to_tfrecord(path, Splits(Dataset(tiny.train.images, tiny.train.labels + 10), tiny.valid))
    with pytest.raises(ValueError, match=f"{file}: .*labels must be 0 to 9, got 10..11"):
        load("tfds:mnist")


@pytest.mark.parametrize(("name", "first"), [("letters", 1), ("digits", 0)])
def test_emnist_is_upright_and_has_its_classes(data_dir, tiny, name, first):
    stored = Splits(*(Dataset(part.images.transpose(0, 2, 1), part.labels + first) for part in tiny))
    info = tfds.builder(f"emnist/{name}").info
    metadata = {"description": info.description, "features": info.features}
    datasets = {"train": stored.train, "test": stored.valid}
    builder = ours.ArrayBuilder("emnist", str(info.version), metadata, datasets, file_format="array_record")
    builder.download_and_prepare()
    (data_dir / "emnist" / name).mkdir()
    Path(builder.data_path).rename(data_dir / "emnist" / name / str(info.version))
    assert_same(load(f"tfds:emnist/{name}"), tiny)
    assert class_names(f"tfds:emnist/{name}") == IDX_SETS[f"emnist-{name}"].classes


BAD_NAMES = {
    "mnist/3.0.1": "a version follows a colon: tfds:mnist:3.0.1$",
    "mnist:9.9.9": "TFDS cannot open it in .* cannot be loaded at version 9.9.9",
    "no such thing": "TFDS cannot open it in .*Parsing builder name string",
}


@pytest.mark.parametrize("name", BAD_NAMES)
def test_bad_name_is_refused_in_one_line(data_dir, name):
    with pytest.raises(ValueError, match=f"tfds:{name}: {BAD_NAMES[name]}") as error:
        load(f"tfds:{name}")
    assert "\n" not in str(error.value)


def test_dataset_with_only_a_train_split_needs_hold_out(data_dir):
    build("letters", {"train": GREY}, (4, 4, 1))
    with pytest.raises(
        FileNotFoundError, match=r"tfds:letters: splits must include test or validation.* give --hold-out N"
    ):
        load("tfds:letters")
    assert len(load_train("tfds:letters")) == 2


MISSING = {
    "tfds:mnist: .*not prepared in .* python -m jax_mnist prepare_tfds mnist$": "mnist",
    "tfds:mnist_sample: .*not prepared .* prepare_tfds mnist_sample$": "mnist_sample",
    "tfds:emnist/letters: .*not prepared .*TensorFlow is installed: python -c": "emnist/letters",
    "tfds:no_such_thing: .*not prepared in": "no_such_thing",
}


@pytest.mark.parametrize("message", MISSING)
@pytest.mark.parametrize("function", [load, class_names])
def test_missing_dataset_error_gives_the_command_that_prepares_it(data_dir, function, message):
    with pytest.raises(FileNotFoundError, match=message):
        function(f"tfds:{MISSING[message]}")


PREPARE_AND_READ = """
import sys
import tensorflow_datasets as tfds
from jax_mnist import (Dataset, Splits, class_names, load)
from jax_mnist.data.formats.tfds import prepare
train, valid = load("mnist")
part = lambda dataset: dataset[:300]
prepare("mnist", Splits(part(train), part(valid)), class_names("mnist"))
assert (load("tfds:mnist").train.images == train.images[:300]).all()
options = {"file_format": "array_record"}
records = tfds.data_source("mnist", split="train", download=False, builder_kwargs=options)
assert [record["label"] for record in records] == train.labels[:300].tolist()
assert "tensorflow" not in sys.modules
print("done")
"""


@pytest.mark.parametrize("blocked", [slow(False), True])
def test_tensorflow_is_never_imported(tmp_path, monkeypatch, blocked):
    """Blocking uses a module that fails to import: TFDS takes a None in sys.modules for a loaded TensorFlow."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    if blocked:
        (tmp_path / "tensorflow.py").write_text("raise RuntimeError('tensorflow was imported')")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", PREPARE_AND_READ], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout.splitlines()[-1:]) == (0, ["done"]), ended.stderr


@pytest.mark.parametrize("moment", ["while the records are generated", "after the first split"])
@pytest.mark.slow
def test_killed_prepare_leaves_no_dataset_and_can_be_repeated(data_dir, monkeypatch, moment):
    count = {"while the records are generated": 100, "after the first split": 300}[moment]
    code = f"""
import os, signal
from PIL import Image
from jax_mnist import Splits, load
from jax_mnist.cli import prepare_tfds
from jax_mnist.data.formats import tfds
prepare_tfds.load_known = lambda *_: Splits(*(part[:300] for part in load("mnist_sample")))
images, made = Image.fromarray, []
def fromarray(array):
    made.append(1)
    if len(made) > {count}:
        os.kill(os.getpid(), signal.SIGKILL)
    return images(array)
tfds.Image.fromarray = fromarray
prepare_tfds.main(["mnist_sample", "--data-dir", {str(data_dir)!r}])
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert list(data_dir.rglob("*")) != []
    assert ours.prepared_directories() == {}
    with pytest.raises(FileNotFoundError, match="not prepared"):
        load("tfds:mnist_sample")
    splits = use_first_images(monkeypatch, "mnist_sample", 300, 300)
    assert prepare_tfds.main(["mnist_sample"]) == 0
    assert_same(load("tfds:mnist_sample"), splits)


def test_failed_prepare_leaves_no_files(data_dir, tiny):
    broken = Splits(tiny.train, Dataset(tiny.valid.images, np.full(len(tiny.valid), 99)))
    with pytest.raises(ValueError, match="99"):
        ours.prepare("mnist", broken, class_names("mnist"))
    assert [path for path in data_dir.rglob("*") if path.is_file()] == []
