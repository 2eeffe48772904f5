from pathlib import Path

import jax
import numpy as np
import pytest

from jax_mnist import Dataset, class_names, hold_out, load
from jax_mnist.data.formats.idx import write_idx
from jax_mnist.data.registry import BUNDLED, FAMILY

SPELLINGS = ["{}-images-idx3-ubyte", "{}-images-idx3-ubyte.gz", "{}-images.idx3-ubyte", "{}-images.idx3-ubyte.gz"]


def write_directory(path, spelling=SPELLINGS[0], **changes):
    """Write four IDX files with three training and two test images; `changes` replaces arrays."""
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


def test_mnist_has_the_published_counts(mnist):
    counts = np.bincount(mnist.train.labels).tolist()
    assert counts == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(mnist.valid.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert mnist.train.labels[:8].tolist() == [5, 0, 4, 1, 9, 2, 1, 3]
    for part, count in zip(mnist, (60_000, 10_000), strict=True):
        assert (part.images.shape, part.images.dtype) == ((count, 28, 28), np.uint8)
        assert (part.labels.shape, part.labels.dtype) == ((count,), np.int32)


def test_sample_is_the_3s_and_7s_of_mnist_by_file_name(mnist, sample):
    for whole, part in zip(mnist, sample, strict=True):
        for digit, label in ((3, 1), (7, 0)):
            ours = part.images[part.labels == label]
            names = [f"{i}.png" for i in np.flatnonzero(whole.labels == digit)]
            indices = [int(name.removesuffix(".png")) for name in sorted(names)]
            np.testing.assert_array_equal(ours, whole.images[indices])


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_each_spelling_of_idx_file_names_loads(tmp_path, spelling):
    arrays = write_directory(tmp_path, spelling)
    train, valid = load(tmp_path)
    np.testing.assert_array_equal(train.images, arrays["train_images"])
    np.testing.assert_array_equal(valid.labels, arrays["t10k_labels"])
    assert train.labels.dtype == np.int32
    assert load(str(tmp_path)).valid.images.shape == (2, 28, 28)
    assert class_names(tmp_path) == tuple("0123456789")


BAD = {
    "train-images.* 3 images and 2 labels in .*train-labels-idx1-ubyte": {"train_labels": np.array([1, 2], np.uint8)},
    "train-images.* 0 images": {"train_images": np.zeros((0, 28, 28), np.uint8), "train_labels": np.zeros(0, np.uint8)},
    "t10k-labels.* must be 0 to 9, got 10 at index 1": {"t10k_labels": np.array([9, 10], np.uint8)},
    r"train-images.* must be 28x28 .*\(20, 28\)": {"train_images": np.zeros((3, 20, 28), np.uint8)},
}


@pytest.mark.parametrize("message", BAD)
def test_inconsistent_idx_files_are_refused_by_name(tmp_path, message):
    write_directory(tmp_path, **BAD[message])
    with pytest.raises(ValueError, match=message) as error:
        load(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_missing_idx_file_is_named_with_its_spellings(tmp_path):
    write_directory(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no t10k-labels-idx1-ubyte; .*t10k-labels\.idx1-ubyte\.gz"):
        load(tmp_path)


@pytest.mark.parametrize("function", [load, class_names])
def test_unknown_name_lists_the_known_names(function):
    with pytest.raises(FileNotFoundError, match=r"\(mnist_sample, mnist, fash.* got mnist_smaple"):
        function("mnist_smaple")


def test_bundled_files_are_verified_by_checksum(tmp_path, monkeypatch):
    """Other images replace the bundled files."""
    write_directory(tmp_path, SPELLINGS[1])
    monkeypatch.setitem(FAMILY, "mnist", FAMILY["mnist"]._replace(directories=(tmp_path,)))
    for name in ("mnist", "mnist_sample"):
        with pytest.raises(ValueError, match="sha256"):
            load(name)


def test_directory_of_mnist_idx_files_equals_mnist(tmp_path, mnist):
    """See test_export_folder.py for image folders and test_tfds.py for TFDS."""
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


def test_path_object_is_not_a_dataset_name():
    with pytest.raises(FileNotFoundError, match=r"directory of IDX files .* got mnist"):
        load(Path("mnist"))


def test_hold_out_partitions_the_dataset_in_order_by_key():
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
def test_hold_out_refuses_counts_that_leave_a_part_empty(count):
    dataset = Dataset(np.zeros((5, 2, 2), np.uint8), np.zeros(5, np.int32))
    with pytest.raises(ValueError, match=f"cannot hold out {count} of 5 images: .*1 to 4"):
        hold_out(jax.random.key(0), dataset, count)
