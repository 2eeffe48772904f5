"""EMNIST and QMNIST by their own file names, and directories as other libraries leave them."""

import gzip
import struct

import numpy as np
import pytest

from jax_mnist import class_names, load
from jax_mnist.data import load_train
from jax_mnist.data.formats.idx import read_idx, write_idx

EMNIST = {
    "balanced": "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt",
    "byclass": "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz",
    "bymerge": "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt",
    "digits": "0123456789",
    "letters": "abcdefghijklmnopqrstuvwxyz",
    "mnist": "0123456789",
}


def images_of(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 28, 28), np.uint8)


def write_emnist(path, name, suffix=""):
    path.mkdir(parents=True, exist_ok=True)
    first = int(name == "letters")
    last = first + len(EMNIST[name]) - 1
    for part, count in (("train", 5), ("test", 3)):
        labels = np.array([first, last, first, first, first][:count], np.uint8)
        write_idx(path / f"emnist-{name}-{part}-images-idx3-ubyte{suffix}", images_of(count).transpose(0, 2, 1))
        write_idx(path / f"emnist-{name}-{part}-labels-idx1-ubyte{suffix}", labels)


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("name", EMNIST)
def test_emnist_is_upright_and_has_its_classes(tmp_path, name, suffix):
    write_emnist(tmp_path, name, suffix)
    train, valid = load(tmp_path)
    np.testing.assert_array_equal(train.images, images_of(5))
    np.testing.assert_array_equal(valid.images, images_of(3))
    assert train.labels.tolist() == [0, len(EMNIST[name]) - 1, 0, 0, 0]
    assert class_names(tmp_path) == tuple(EMNIST[name])


def test_more_images_than_are_transposed_at_once(tmp_path):
    images = images_of(4100)
    write_idx(tmp_path / "emnist-digits-train-images-idx3-ubyte", images.transpose(0, 2, 1))
    write_idx(tmp_path / "emnist-digits-train-labels-idx1-ubyte", np.zeros(4100, np.uint8))
    np.testing.assert_array_equal(load_train(tmp_path).images, images)


def test_one_of_several_sets_is_chosen_by_its_name(tmp_path):
    for name in ("letters", "digits"):
        write_emnist(tmp_path / "EMNIST" / "raw", name)
    raw = tmp_path / "EMNIST" / "raw"
    with pytest.raises(ValueError, match=f"2 datasets; give one of {raw}/emnist-digits, {raw}/emnist-letters"):
        load(tmp_path)
    assert class_names(raw / "emnist-letters") == tuple(EMNIST["letters"])
    assert len(load(raw / "emnist-letters").train) == 5


def test_sets_in_several_directories_are_named_by_these(tmp_path):
    for name in ("FashionMNIST", "MNIST"):
        write_mnist(tmp_path / name / "raw")
    with pytest.raises(ValueError, match=f"2 datasets; give one of {tmp_path}/FashionMNIST/raw, {tmp_path}/MNIST/raw$"):
        load(tmp_path)


def test_labels_of_emnist_letters_start_at_1(tmp_path):
    write_emnist(tmp_path, "letters")
    write_idx(tmp_path / "emnist-letters-train-labels-idx1-ubyte", np.array([1, 0, 1, 1, 1], np.uint8))
    with pytest.raises(ValueError, match="labels-idx1-ubyte: labels must be 1 to 26, got 0 at index 1"):
        load(tmp_path)


def write_qmnist_labels(path, labels, columns=8):
    table = np.zeros((len(labels), columns), ">i4")
    table[:, 0], table[:, 1:] = labels, 2600
    path.write_bytes(gzip.compress(struct.pack(">3I", 0x0C02, *table.shape) + table.tobytes()))


def write_qmnist(path, columns=8):
    for part, labels in (("train", [5, 0, 4]), ("test", [7, 2])):
        write_idx(path / f"qmnist-{part}-images-idx3-ubyte.gz", images_of(len(labels)))
        write_qmnist_labels(path / f"qmnist-{part}-labels-idx2-int.gz", labels, columns)


def test_qmnist_has_the_class_in_the_first_of_8_columns(tmp_path):
    write_qmnist(tmp_path)
    train, valid = load(tmp_path)
    np.testing.assert_array_equal(train.images, images_of(3))
    assert (train.labels.tolist(), valid.labels.tolist()) == ([5, 0, 4], [7, 2])
    assert train.labels.dtype == np.int32
    assert class_names(tmp_path) == tuple("0123456789")
    write_qmnist(tmp_path, columns=7)
    with pytest.raises(ValueError, match=r"labels-idx2-int\.gz: labels must have 8 columns, got 7"):
        load(tmp_path)


def test_int32_idx_is_read_in_the_byte_order_of_the_machine(tmp_path):
    write_qmnist_labels(tmp_path / "labels", [1, 300])
    labels = read_idx(tmp_path / "labels", 2, dtype=np.int32)
    assert (labels[:, 0].tolist(), labels.dtype) == ([1, 300], np.dtype(np.int32))
    with pytest.raises(ValueError, match=r"IDX file of uint8 with 2 dimension.* must be 00000802, got 00000c02"):
        read_idx(tmp_path / "labels", 2)


def write_mnist(path):
    path.mkdir(parents=True)
    for part, count in (("train", 3), ("t10k", 2)):
        write_idx(path / f"{part}-images-idx3-ubyte", images_of(count))
        write_idx(path / f"{part}-labels-idx1-ubyte", np.arange(count, dtype=np.uint8))


@pytest.mark.parametrize("below", ["MNIST/raw", "MNIST", "raw"])
def test_root_of_torchvision_is_read(tmp_path, below):
    write_mnist(tmp_path / below)
    (tmp_path / "MNIST" / "processed").mkdir(parents=True, exist_ok=True)
    (tmp_path / "__MACOSX").mkdir()
    np.testing.assert_array_equal(load(tmp_path).train.images, images_of(3))


def test_idx_files_without_a_test_set_are_held_out_from(tmp_path):
    write_mnist(tmp_path / "mine")
    for file in tmp_path.glob("mine/t10k*"):
        file.unlink()
    with pytest.raises(FileNotFoundError, match=r"mine: has no t10k-images-idx3-ubyte and .* give --hold-out N"):
        load(tmp_path)
    assert len(load_train(tmp_path)) == 3


def test_each_idx_file_in_a_folder_of_its_name_is_read(tmp_path):
    write_mnist(tmp_path / "flat")
    for file in sorted((tmp_path / "flat").iterdir()):
        folder = tmp_path / "archive" / file.name
        folder.mkdir(parents=True)
        file.rename(folder / file.name.replace("-idx", ".idx"))
    train, valid = load(tmp_path)
    np.testing.assert_array_equal(train.images, images_of(3))
    assert (train.labels.tolist(), valid.labels.tolist()) == ([0, 1, 2], [0, 1])
