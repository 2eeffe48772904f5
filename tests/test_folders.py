import numpy as np
import pytest
from PIL import Image

from jax_mnist import class_names, load


def write_folder(path, classes=("3", "7"), parts=("train", "valid"), names=("10.png", "2.png", "10000.png")):
    """Write three images per class; the first pixels of each are its part, its class and its file number."""
    for i, part in enumerate(parts):
        for name in classes:
            folder = path / part / name
            folder.mkdir(parents=True)
            for file in names:
                Image.fromarray(picture(i, classes.index(name), int(file.split(".")[0]) % 250)).save(folder / file)


def picture(*values):
    image = np.zeros((28, 28), np.uint8)
    image[0, : len(values)] = values
    return image


def test_folder_of_3s_and_7s_has_the_chapters_labels_and_order(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "labels.csv").write_text("name,label\n")
    train, valid = load(tmp_path)
    assert train.labels.tolist() == [1, 1, 1, 0, 0, 0]
    assert train.labels.dtype == np.int32
    assert class_names(tmp_path) == ("7", "3")
    assert train.images[:, 0, 1].tolist() == [0, 0, 0, 1, 1, 1]
    assert train.images[:3, 0, 2].tolist() == [10, 10000 % 250, 2]
    assert valid.images[:, 0, 0].tolist() == [1] * 6


@pytest.mark.parametrize("parts", [("train", "valid"), ("training", "testing"), ("train", "test")])
def test_other_folders_are_labelled_by_sorted_class_name(tmp_path, parts):
    write_folder(tmp_path, classes=("b", "a", "c"), parts=parts)
    assert class_names(tmp_path) == ("a", "b", "c")
    assert load(tmp_path).train.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_rgb_png_of_greys_is_read(tmp_path):
    write_folder(tmp_path)
    file = tmp_path / "train" / "3" / "2.png"
    Image.open(file).convert("RGB").save(file)
    np.testing.assert_array_equal(load(tmp_path).train.images[2], picture(0, 0, 2))


def spoil_size(path):
    Image.new("L", (28, 29)).save(path / "valid/7/10.png")


def spoil_mode(path):
    Image.new("I;16", (28, 28)).save(path / "valid/7/10.png")


def spoil_text(path):
    (path / "valid/7/10.png").write_text("not a picture")


def spoil_truncated(path):
    file = path / "valid/7/10.png"
    file.write_bytes(file.read_bytes()[:-20])


def spoil_empty_class(path):
    for file in (path / "valid/7").iterdir():
        file.unlink()


def spoil_unknown_class(path):
    (path / "valid/8").mkdir()


SPOILT = {
    r"valid/7/10\.png: .*28x28 .*28x29": spoil_size,
    r"valid/7/10\.png: .*8-bit gray .*I;16": spoil_mode,
    r"valid/7/10\.png: .*not a readable PNG \(UnidentifiedImageError: cannot identify": spoil_text,
    r"valid/7/10\.png: .*not a readable PNG": spoil_truncated,
    "valid/7: must contain PNG images": spoil_empty_class,
    r"valid: classes must be among \['3', '7'\].* got \['8'\]": spoil_unknown_class,
}


@pytest.mark.parametrize("message", SPOILT)
def test_damaged_folder_is_refused_by_name(tmp_path, message):
    write_folder(tmp_path)
    SPOILT[message](tmp_path)
    with pytest.raises(ValueError, match=message):
        load(tmp_path)


def test_missing_parts_and_classes_are_refused_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match="has no train-images-idx3-ubyte"):
        load(tmp_path)
    (tmp_path / "train").mkdir()
    with pytest.raises(ValueError, match="train: must contain one folder per class"):
        load(tmp_path)
    write_folder(tmp_path, parts=("train",))
    with pytest.raises(FileNotFoundError, match="has no folder valid or testing or test"):
        load(tmp_path)
