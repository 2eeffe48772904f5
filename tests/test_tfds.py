"""TensorFlow Datasets, which must work with no TensorFlow installed and must not be what imports it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from jax_mnist import Dataset, Splits, class_names, load
from jax_mnist.cli import prepare_tfds
from jax_mnist.data import tfds as ours
from jax_mnist.data.download import present
from jax_mnist.data.registry import BUNDLED, FAMILY

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
    """A data directory of its own, in the place of TFDS's."""
    monkeypatch.setattr("tensorflow_datasets.core.constants.DATA_DIR", str(tmp_path))
    return tmp_path


def plain_records(name, split, data_dir):
    """What TFDS alone reads, without a word of ours."""
    options = {"file_format": "array_record"}
    return tfds.data_source(name, split=split, data_dir=data_dir, download=False, builder_kwargs=options)


def assert_plain_tfds_reads(name, data_dir, splits):
    for split, dataset in zip(("train", "test"), splits, strict=True):
        records = plain_records(name, split, data_dir)
        assert len(records) == len(dataset)
        examples = records.__getitems__(list(range(len(records))))
        np.testing.assert_array_equal([example["label"] for example in examples], dataset.labels)
        np.testing.assert_array_equal(np.stack([example["image"][..., 0] for example in examples]), dataset.images)


def test_the_sample_is_prepared_and_read_in_order(data_dir, sample, capsys):
    assert prepare_tfds.main(["mnist_sample"]) == 0
    assert f"12,396 training and 2,038 test images written to {data_dir}" in capsys.readouterr().out
    assert_same(load("tfds:mnist_sample"), sample)
    assert class_names("tfds:mnist_sample") == class_names("mnist_sample")
    assert_plain_tfds_reads("mnist_sample", data_dir, sample)
    assert ours.prepared_directories() == {"mnist_sample": data_dir / "mnist_sample" / "1.0.0"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist", pytest.param("fashion_mnist", marks=fashion_installed)])
def test_stock_tfds_reads_what_we_prepare_in_the_order_of_the_files(data_dir, name):
    assert prepare_tfds.main([name]) == 0
    splits = load(name)
    assert (len(splits.train), len(splits.valid)) == (60_000, 10_000)
    assert_plain_tfds_reads(name, data_dir, splits)
    assert_same(load(f"tfds:{name}"), splits)
    assert class_names(f"tfds:{name}") == class_names(name)


@pytest.mark.parametrize("name", FAMILY)
def test_class_names_are_those_of_tfds(tmp_path, name):
    features = tfds.builder(name, data_dir=tmp_path).info.features
    assert tuple(features["label"].names) == class_names(name)


def test_what_is_prepared_stays(data_dir, tiny, capsys):
    path = ours.prepare("mnist", tiny, class_names("mnist"))
    before = {file: file.read_bytes() for file in path.iterdir()}
    assert prepare_tfds.main(["mnist"]) == 2
    assert "tfds:mnist is prepared already; nothing was written" in capsys.readouterr().err
    assert {file: file.read_bytes() for file in path.iterdir()} == before
    assert_same(load("tfds:mnist"), tiny)


def test_prepared_from_a_directory_only_when_it_is_that_dataset(data_dir, tmp_path_factory, sample, capsys):
    bundled, other = str(BUNDLED), tmp_path_factory.mktemp("other")
    assert prepare_tfds.main(["mnist_sample", "--from", bundled, "--data-dir", str(other)]) == 0
    assert_same(ours.read_tfds("mnist_sample", other), sample)
    assert prepare_tfds.main(["fashion_mnist", "--from", bundled]) == 2
    assert "sha256 of the contents is" in capsys.readouterr().err
    assert prepare_tfds.main(["mnist", "--from", str(other)]) == 2
    assert "has no train-images-idx3-ubyte" in capsys.readouterr().err
    assert list(data_dir.iterdir()) == []


def test_the_script_is_the_command():
    code = [sys.executable, "-W", "error", str(Path(__file__).parents[1] / "scripts/prepare_tfds.py"), "--help"]
    output = subprocess.run(code, capture_output=True, text=True, check=True).stdout
    assert "{mnist,mnist_sample,fashion_mnist,kmnist}" in output
    assert "--from DIR" in output


def test_validation_takes_the_place_of_a_missing_test_and_sizes_are_free(data_dir):
    images = np.random.default_rng(0).integers(0, 256, (6, 5, 9), np.uint8)
    parts = {"train": Dataset(images[:4], np.arange(4)), "validation": Dataset(images[4:], np.arange(2))}
    build("letters", parts, (5, 9, 1))
    train, valid = load("tfds:letters")
    np.testing.assert_array_equal(train.images, images[:4])
    np.testing.assert_array_equal(valid.images, images[4:])
    assert class_names("tfds:letters") == ("0", "1", "2", "3")


def build(name, parts, shape, dtype=np.uint8, label=None):
    image = tfds.features.Image(shape=shape, dtype=dtype, encoding_format="png")
    features = {"image": image, "label": label or tfds.features.ClassLabel(num_classes=4)}
    about = {"description": name, "features": tfds.features.FeaturesDict(features)}
    ours.ArrayBuilder(name, "1.0.0", about, parts, file_format="array_record").download_and_prepare()


GREY = Dataset(np.zeros((2, 4, 4), np.uint8), np.zeros(2, np.int64))
COLOUR = Dataset(np.zeros((2, 4, 4, 3), np.uint8), np.zeros(2, np.int64))
DEEP = Dataset(np.full((2, 4, 4), 700, np.uint16), np.zeros(2, np.int64))
BOTH = ("train", "test")
REFUSED = {
    r"has images of shape \(4, 4, 3\), uint8; expected one size, one channel": (COLOUR, BOTH, (4, 4, 3)),
    r"has images of shape \(None, None, 1\), uint8; expected one size": (GREY, BOTH, (None, None, 1)),
    r"has images of shape \(4, 4, 1\), uint16; expected .* uint8": (DEEP, BOTH, (4, 4, 1), np.uint16),
    r"has the splits \['train'\]; expected train, and test or validation": (GREY, ("train",), (4, 4, 1)),
    r"has the features \['image', 'label'\]; expected image, and label of a class": (
        GREY, BOTH, (4, 4, 1), np.uint8, tfds.features.Scalar(np.int64),
    ),
}  # fmt: skip


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_no_grey_image_classification_is_refused(data_dir, message):
    dataset, parts, *features = REFUSED[message]
    build("others", dict.fromkeys(parts, dataset), *features)
    with pytest.raises(ValueError, match=f"tfds:others: {message}"):
        load("tfds:others")


@pytest.mark.parametrize("other", ["tfrecord", "parquet"])
def test_another_format_is_refused(data_dir, tiny, other):
    """TFRecord needs TensorFlow, and TFDS loses records where it writes Parquet."""
    path = ours.prepare("mnist", tiny, class_names("mnist"))
    for file in path.glob("*array_record*"):
        file.rename(str(file).replace("array_record", other))
    for file in path.glob("*.json"):
        file.write_text(file.read_text().replace("array_record", other))
    with pytest.raises(ValueError, match=f"tfds:mnist: is prepared as {other} in .*; expected array_record"):
        load("tfds:mnist")


MISSING = {
    "tfds:mnist: is not prepared in .*; to prepare it: python -m jax_mnist prepare_tfds mnist$": "mnist",
    "tfds:mnist_sample: is not .* prepare_tfds mnist_sample$": "mnist_sample",
    "tfds:emnist/letters: is not .* if TFDS knows it and TensorFlow is installed: python -c": "emnist/letters",
    "tfds:no_such_thing: is not prepared in": "no_such_thing",
}


@pytest.mark.parametrize("message", MISSING)
@pytest.mark.parametrize("function", [load, class_names])
def test_not_prepared_gives_the_command(data_dir, function, message):
    with pytest.raises(FileNotFoundError, match=message):
        function(f"tfds:{MISSING[message]}")


ALL_OF_IT = """
import sys
import tensorflow_datasets as tfds
from jax_mnist import Dataset, Splits, class_names, load
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


@pytest.mark.parametrize("blocked", [False, True])
def test_tensorflow_is_never_imported(tmp_path, monkeypatch, blocked):
    """Blocked by a TensorFlow that fails to import: TFDS takes a None in sys.modules for one that is loaded."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    if blocked:
        (tmp_path / "tensorflow.py").write_text("raise RuntimeError('tensorflow was imported')")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", ALL_OF_IT], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout.splitlines()[-1:]) == (0, ["done"]), ended.stderr


@pytest.mark.parametrize(
    "place", ["while the records are generated", pytest.param("after the first split", marks=pytest.mark.slow)]
)
def test_a_kill_halfway_leaves_no_dataset(data_dir, sample, place):
    count = {"while the records are generated": 5000, "after the first split": len(sample.train)}[place]
    code = f"""
import os, signal
from PIL import Image
from jax_mnist.cli import prepare_tfds
from jax_mnist.data import tfds
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
    with pytest.raises(FileNotFoundError, match="is not prepared"):
        load("tfds:mnist_sample")
    assert prepare_tfds.main(["mnist_sample"]) == 0
    assert_same(load("tfds:mnist_sample"), sample)


def test_an_exception_halfway_leaves_nothing(data_dir, tiny):
    broken = Splits(tiny.train, Dataset(tiny.valid.images, np.full(len(tiny.valid), 99)))
    with pytest.raises(ValueError, match="99"):
        ours.prepare("mnist", broken, class_names("mnist"))
    assert [path for path in data_dir.rglob("*") if path.is_file()] == []
