import time
from pathlib import Path

import jax
import numpy as np
import pytest

from jax_mnist import Dataset, class_names, hold_out, load
from jax_mnist.data.formats.idx import write_idx
from jax_mnist.data.registry import BUNDLED, FAMILY

SPELLINGS = ["{}-images-idx3-ubyte", "{}-images-idx3-ubyte.gz", "{}-images.idx3-ubyte", "{}-images.idx3-ubyte.gz"]


def write_directory(path, spelling=SPELLINGS[0], **changes):
    """Four IDX files with three training and two test images, or with what is in `changes`."""
    path.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    arrays = {
        "train_images": rng.integers(0, 256, (3, 28, 28), np.uint8),
        "train_labels": np.array([3, 7, 9], np.uint8),
        "t10k_images": rng.integers(0, 256, (2, 28, 28), np.uint8),
        "t10k_labels": np.array([0, 1], np.uint8),
    } | changes
    for part in ("train", "t10k"):
        images_name = spelling.format(part)
        write_idx(path / images_name, arrays[f"{part}_images"])
        write_idx(path / images_name.replace("images", "labels").replace("idx3", "idx1"), arrays[f"{part}_labels"])
    return arrays


def test_mnist_has_its_known_counts(mnist):
    counts = np.bincount(mnist.train.labels).tolist()
    assert counts == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(mnist.valid.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert mnist.train.labels[:8].tolist() == [5, 0, 4, 1, 9, 2, 1, 3]
    for part, count in zip(mnist, (60_000, 10_000), strict=True):
        assert (part.images.shape, part.images.dtype) == ((count, 28, 28), np.uint8)
        assert (part.labels.shape, part.labels.dtype) == ((count,), np.int32)


def test_mnist_loads_in_half_a_second_of_its_own_time():
    def seconds():
        start = time.process_time()
        load("mnist")
        return time.process_time() - start

    assert min(seconds() for _ in range(5)) < 0.5


def test_sample_is_part_of_mnist(mnist, sample):
    for whole, part in zip(mnist, sample, strict=True):
        for digit, label in ((3, 1), (7, 0)):
            ours = part.images[part.labels == label]
            names = [f"{i}.png" for i in np.flatnonzero(whole.labels == digit)]
            places = [int(name.removesuffix(".png")) for name in sorted(names)]
            np.testing.assert_array_equal(ours, whole.images[places])


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_idx_directory_in_each_spelling(tmp_path, spelling):
    arrays = write_directory(tmp_path, spelling)
    train, valid = load(tmp_path)
    np.testing.assert_array_equal(train.images, arrays["train_images"])
    np.testing.assert_array_equal(valid.labels, arrays["t10k_labels"])
    assert train.labels.dtype == np.int32
    assert load(str(tmp_path)).valid.images.shape == (2, 28, 28)
    assert class_names(tmp_path) == tuple("0123456789")


BAD = {
    "3 images, but .*train-labels-idx1-ubyte has 2 labels": {"train_labels": np.array([1, 2], np.uint8)},
    "0 images, but": {"train_images": np.zeros((0, 28, 28), np.uint8), "train_labels": np.zeros(0, np.uint8)},
    "label 10 at place 1 is out of range; expected 0 to 9": {"t10k_labels": np.array([9, 10], np.uint8)},
    r"images of \(20, 28\) pixels; expected 28x28": {"train_images": np.zeros((3, 20, 28), np.uint8)},
}


@pytest.mark.parametrize("message", BAD)
def test_a_bad_directory_names_the_file(tmp_path, message):
    write_directory(tmp_path, **BAD[message])
    with pytest.raises(ValueError, match=message) as error:
        load(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_a_missing_file_is_named_with_its_spellings(tmp_path):
    write_directory(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match=r"t10k-labels-idx1-ubyte; looked for .*t10k-labels\.idx1-ubyte\.gz"):
        load(tmp_path)


@pytest.mark.parametrize("function", [load, class_names])
def test_an_unknown_name_lists_the_known(function):
    with pytest.raises(FileNotFoundError, match=r"mnist_smaple: neither a dataset's name \(mnist_sample, mnist, fash"):
        function("mnist_smaple")


def test_the_bundled_files_are_checked(tmp_path, monkeypatch):
    """Images of another day, in the bundled files' place."""
    write_directory(tmp_path, SPELLINGS[1])
    monkeypatch.setitem(FAMILY, "mnist", FAMILY["mnist"]._replace(directories=(tmp_path,)))
    for name in ("mnist", "mnist_sample"):
        with pytest.raises(ValueError, match="sha256 of the contents"):
            load(name)


def test_a_directory_of_mnists_files_is_mnist(tmp_path, mnist):
    """As folders and TFDS are, in test_export_folder.py and test_tfds.py."""
    write_directory(
        tmp_path,
        train_images=mnist.train.images,
        train_labels=mnist.train.labels.astype(np.uint8),
        t10k_images=mnist.valid.images,
        t10k_labels=mnist.valid.labels.astype(np.uint8),
    )
    for directory in (tmp_path, BUNDLED):
        for part, expected in zip(load(directory), mnist, strict=True):
            np.testing.assert_array_equal(part.images, expected.images)
            np.testing.assert_array_equal(part.labels, expected.labels)


def test_a_path_is_no_name():
    with pytest.raises(FileNotFoundError, match="mnist: neither a dataset's name"):
        load(Path("mnist"))


def test_hold_out_splits_without_loss():
    dataset = Dataset(np.arange(100, dtype=np.uint8)[:, None, None], np.arange(100, dtype=np.int32))
    train, valid = hold_out(jax.random.key(0), dataset, 30)
    assert (len(train), len(valid)) == (70, 30)
    assert sorted([*train.labels, *valid.labels]) == list(range(100))
    for part in (train, valid):
        np.testing.assert_array_equal(part.images[:, 0, 0], part.labels)
        assert (np.diff(part.labels) > 0).all()
    assert valid.labels.tolist() == hold_out(jax.random.key(0), dataset, 30).valid.labels.tolist()
    assert valid.labels.tolist() != hold_out(jax.random.key(1), dataset, 30).valid.labels.tolist()


@pytest.mark.parametrize("count", [0, -1, 5, 6])
def test_hold_out_leaves_neither_part_empty(count):
    dataset = Dataset(np.zeros((5, 2, 2), np.uint8), np.zeros(5, np.int32))
    with pytest.raises(ValueError, match=f"cannot hold out {count} of 5 images: choose 1 to 4"):
        hold_out(jax.random.key(0), dataset, count)
