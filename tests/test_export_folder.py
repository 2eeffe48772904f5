"""Export of the bundled digits as fastai's MNIST_SAMPLE folder, and atomic creation of directories."""

import csv
import stat

import numpy as np
import pytest
from PIL import Image

from jax_mnist import class_names, load
from jax_mnist.cli.export_folder import main
from jax_mnist.data.formats.image_folder import write_folder
from jax_mnist.files import new_directory
from jax_mnist.types import Dataset, Splits


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    directory = tmp_path_factory.mktemp("export") / "mnist_sample"
    assert main([str(directory)]) == 0
    return directory


@pytest.mark.slow
def test_reading_back_gives_the_same_arrays_in_the_same_order(exported):
    for ours, read in zip(load("mnist_sample"), load(exported), strict=True):
        np.testing.assert_array_equal(ours.images, read.images)
        np.testing.assert_array_equal(ours.labels, read.labels)
    assert class_names(exported) == class_names("mnist_sample")


@pytest.mark.slow
def test_files_and_counts_are_the_chapters(exported):
    counts = {f"{folder.parent.name}/{folder.name}": len(list(folder.iterdir())) for folder in exported.glob("*/*")}
    assert counts == {"train/3": 6131, "train/7": 6265, "valid/3": 1010, "valid/7": 1028}
    first = sorted(file.name for file in (exported / "train/3").iterdir())[:10]
    assert first == [f"{i}.png" for i in (10, 10000, 10011, 10031, 10034, 10042, 10052, 1007, 10074, 10091)]


@pytest.mark.parametrize(("part", "digit"), [(0, 3), (1, 7)])
@pytest.mark.slow
def test_file_name_is_the_index_in_mnist(exported, part, digit):
    mnist = load("mnist")[part]
    files = sorted((exported / ("train", "valid")[part] / str(digit)).iterdir())[::100]
    for file in files:
        with Image.open(file) as image:
            assert (image.mode, image.size) == ("L", (28, 28))
            np.testing.assert_array_equal(np.asarray(image), mnist.images[int(file.stem)])
        assert mnist.labels[int(file.stem)] == digit


@pytest.mark.slow
def test_labels_csv_is_that_of_fastai(exported):
    with (exported / "labels.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[:2] == [["name", "label"], ["train/3/10.png", "0"]]
    assert len(rows) == 1 + 12396 + 2038
    assert all((exported / name).is_file() and label == str(int("/7/" in name)) for name, label in rows[1:])


def test_other_classes_are_written_and_read(tmp_path):
    images = np.arange(3 * 784, dtype=np.uint32).astype(np.uint8).reshape(3, 28, 28)
    dataset = Dataset(images, np.array([0, 0, 1], np.int32))
    write_folder(tmp_path / "shirts", Splits(dataset, dataset), ("coat", "dress"), (np.array([1, 2, 0]),) * 2)
    np.testing.assert_array_equal(load(tmp_path / "shirts").valid.images, images)
    assert "valid/dress/0.png,1" in (tmp_path / "shirts/labels.csv").read_text()


def test_existing_file_or_non_empty_directory_is_refused_and_unchanged(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    for path in (tmp_path, tmp_path / "mine.txt"):
        assert main([str(path)]) == 2
        error = capsys.readouterr().err
        assert error == f"error: {path}: already exists and is not an empty directory; nothing was written\n"
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


def test_failed_export_leaves_no_files(tmp_path):
    dataset = Dataset(np.zeros((2, 28, 28), np.uint8), np.array([0, 5], np.int32))
    with pytest.raises(IndexError):
        write_folder(tmp_path / "digits", Splits(dataset, dataset), ("3",), (np.arange(2),) * 2)
    with pytest.raises(ValueError, match="zip"):
        write_folder(tmp_path / "digits", Splits(dataset, dataset), tuple("012345"), (np.arange(2), np.arange(3)))
    assert list(tmp_path.iterdir()) == []


def test_new_directory_replaces_an_empty_one_with_the_usual_permissions(tmp_path):
    (tmp_path / "usual").mkdir()
    (tmp_path / "new").mkdir()
    for target in ("new", "deep/er"):
        with new_directory(tmp_path / target) as temporary:
            (temporary / "file").touch()
        assert [file.name for file in (tmp_path / target).iterdir()] == ["file"]
        modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in (target, "usual")]
        assert modes[0] == modes[1]
