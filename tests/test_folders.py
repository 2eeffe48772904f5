"""Image folders: the layouts, pictures and files beside them that people have."""

import json
import os
import shutil
import warnings

import jax
import numpy as np
import pytest
from PIL import Image

from jax_mnist import Splits, class_names, hold_out, load, read_photo
from jax_mnist.__main__ import main
from jax_mnist.data import load_train
from jax_mnist.data import prepare as preparation
from jax_mnist.data.formats.idx import write_idx


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    directory = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("JAX_MNIST_CACHE", str(directory))
    return directory


def write_folder(path, classes=("3", "7"), parts=("train", "valid"), names=("10.png", "2.png", "10000.png")):
    """Write three images per class; the first pixels of each are its part, its class and its file number."""
    for i, part in enumerate(parts):
        for name in classes:
            folder = path / part / name
            folder.mkdir(parents=True)
            for file in names:
                image = picture(i, classes.index(name), int(file.split(".")[0]) % 250)
                Image.fromarray(image).save(folder / file, lossless=True)


def picture(*values):
    image = np.zeros((28, 28), np.uint8)
    image[0, : len(values)] = values
    return image


def notes_of(path, load=load, **options):
    notes = []
    loaded = load(path, report=notes.append, **options)
    assert len(notes) <= 1
    return loaded, "".join(notes)


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


LAYOUTS = [
    ("train", "valid"),
    ("training", "testing"),
    ("train", "test"),
    ("train", "val"),
    ("train", "validation"),
    ("Train", "Test"),
    ("TRAINING", "Validation"),
    ("mnist_png/training", "mnist_png/testing"),
    ("archive/digits/train", "archive/digits/test"),
    ("train/train", "valid/valid"),
    (".", "test"),
]


@pytest.mark.parametrize("parts", LAYOUTS, ids=" ".join)
def test_layouts_that_people_use(tmp_path, parts):
    write_folder(tmp_path, classes=("b", "a", "c"), parts=parts)
    (train, valid), notes = notes_of(tmp_path)
    assert class_names(tmp_path) == ("a", "b", "c")
    assert train.labels.tolist() == valid.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert (train.images[:, 0, 0].max(), valid.images[:, 0, 0].min()) == (0, 1)
    assert notes == ""


def test_part_that_is_not_used_is_named(tmp_path):
    write_folder(tmp_path, parts=("train", "val", "test"))
    (_, valid), notes = notes_of(tmp_path)
    assert valid.images[:, 0, 0].tolist() == [1] * 6
    assert notes.endswith(f"{tmp_path / 'test'} (6 .png files) is not used")
    with pytest.warns(UserWarning, match="is not used") as caught:
        load(tmp_path)
    assert len(caught) == 1


@pytest.mark.parametrize("parts", [("train",), (".",)])
def test_folder_without_validation_images_is_held_out_from(tmp_path, parts, monkeypatch, capsys):
    write_folder(tmp_path, parts=parts)
    with pytest.raises(FileNotFoundError, match=r"has no folder valid, .* or test; .* give --hold-out N") as error:
        load(tmp_path)
    assert str(tmp_path) in str(error.value)
    train, valid = hold_out(jax.random.key(0), load_train(tmp_path), 2)
    assert (len(train), len(valid)) == (4, 2)
    options = ["train", "chapter-linear", "--dataset", str(tmp_path), "--epochs", "1", "--out", str(tmp_path / ".run")]
    assert main(options) == 2
    assert "give --hold-out" in capsys.readouterr().err
    assert main([*options, "--hold-out", "2"]) == 0
    result = json.loads((tmp_path / ".run" / "result.json").read_text())
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / ".run")]) == 0
    printed = capsys.readouterr().out
    assert "or test; evaluating the images that the run held out" in printed
    row = [cell.strip() for cell in printed.splitlines()[-2].split("│")]
    assert row[2:5] == ["2", f"{result['loss']:.4f}", f"{result['accuracy']:.4f}"]
    shutil.copy(tmp_path / parts[0] / "3/2.png", tmp_path / parts[0] / "3/3.png")  # then others would be held out
    assert main(["evaluate", str(tmp_path / ".run")]) == 2
    assert "was trained on, 4 and 2 held out, got 7" in capsys.readouterr().err
    shutil.copytree(tmp_path / parts[0] / "3", tmp_path / "other" / "3")
    shutil.copytree(tmp_path / parts[0] / "7", tmp_path / "other" / "7")
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / ".run"), "--dataset", str(tmp_path / "other")]) == 2
    errors = capsys.readouterr().err
    assert "or test; evaluate needs validation or test images" in errors
    assert "--hold-out" not in errors


def test_one_class_cannot_be_trained(tmp_path, capsys):
    write_folder(tmp_path, classes=("3",))
    assert main(["train", "chapter-linear", "--dataset", str(tmp_path), "--out", str(tmp_path / ".run")]) == 2
    assert "--dataset must have two classes or more, got 1" in capsys.readouterr().err


def test_two_datasets_in_a_directory_are_named(tmp_path):
    write_folder(tmp_path / "digits")
    write_folder(tmp_path / "letters")
    with pytest.raises(ValueError, match=f"holds 2 datasets; give one of {tmp_path}/digits, "):
        load(tmp_path)


HIDDEN = [
    "train/3/._10.png", "train/3/.DS_Store", "train/3/Thumbs.db", "train/7/desktop.ini", "train/.DS_Store",
    "train/__MACOSX/3/1.png", "__MACOSX/train/3/._1.png", "valid/@eaDir/1.png", "train/3/@eaDir/10.png",
    "valid/.ipynb_checkpoints/1.png", ".git/1.png", "Thumbs.db", "train/3/Thumbs.db:encryptable", "train/3/Icon\r",
    "train/3/~$10.png", "train/#recycle/1.png", "valid/lost+found/1", "train/System Volume Information/1",
]  # fmt: skip


def test_hidden_and_system_files_are_skipped(tmp_path):
    write_folder(tmp_path)
    for name in HIDDEN:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"\0\5\x16\7")  # how a ._ file begins
    (train, valid), notes = notes_of(tmp_path)
    assert (len(train), len(valid), notes) == (6, 6, "")
    assert class_names(tmp_path) == ("7", "3")


def test_every_picture_is_read_and_every_other_file_is_told(tmp_path):
    names = ["1.png", "2.PNG", "3.bmp", "4.Gif", "5.tiff", "6.TIF", "7.webp", "8.pgm"]
    write_folder(tmp_path, names=names)
    image = Image.fromarray(picture(0, 0, 99))
    image.save(tmp_path / "train/3/9.jpg", format="PNG")  # the name is wrong, the picture is right
    (tmp_path / "train/3/more").mkdir()
    image.save(tmp_path / "train/3/more/1.JPEG", quality=100)
    (tmp_path / "train/7/readme.txt").write_text("mine")
    image.save(tmp_path / "train/loose.png")
    image.save(tmp_path / "beside.png")
    (train, valid), notes = notes_of(tmp_path)
    assert train.labels.tolist() == [1] * 10 + [0] * 8
    assert train.images[:8, 0, 2].tolist() == valid.images[:8, 0, 2].tolist() == list(range(1, 9))
    assert train.images[8, 0, 2] == 99
    assert notes == f"{tmp_path}: 2 .png files, 1 .txt file in the class folders or beside them left out"


def test_unlabeled_test_folder_is_not_used_for_validation(tmp_path):
    write_folder(tmp_path / "digits", parts=("train",))
    write_folder(tmp_path, classes=("test",), parts=("digits",))
    with pytest.raises(
        FileNotFoundError, match=r"digits/test: has no folder per class, .* 3 \.png files; .* --hold-out N"
    ):
        load(tmp_path)
    assert len(load_train(tmp_path)) == 6


def test_one_folder_of_pictures_is_not_taken_for_classes(tmp_path):
    """As in the archive of a known copy of MNIST in JPEG."""
    write_folder(tmp_path, classes=("testSet",), parts=("testSet",))
    write_folder(tmp_path, parts=("trainingSet/trainingSet",))
    notes = []
    assert len(load_train(tmp_path, report=notes.append)) == 6
    assert notes[0].endswith(f"{tmp_path / 'testSet'} (3 .png files) is not used")
    shutil.rmtree(tmp_path / "trainingSet")
    with pytest.raises(FileNotFoundError, match=r"no train/ or class folders with pictures.* it has 3 \.png files"):
        load(tmp_path)


def test_folders_beside_the_one_that_is_read_are_named(tmp_path):
    """Such as class folders of which one has its pictures in folders, one for each writer."""
    write_folder(tmp_path / "3", classes=("ann", "bob"), parts=("",))
    write_folder(tmp_path, classes=("7",), parts=("",))
    notes = []
    assert len(load_train(tmp_path, report=notes.append)) == 6
    assert notes == [f"{tmp_path / '3'}: {tmp_path / '7'} (3 .png files) is not used"]


def test_part_whose_name_differs_in_case_only_is_named(tmp_path):
    write_folder(tmp_path, parts=("Train", "valid"))
    write_folder(tmp_path, parts=("train",))
    (train, _), notes = notes_of(tmp_path)
    assert len(train) == 6
    assert notes.endswith(f"{tmp_path / 'train'} (6 .png files) is not used")


def test_linked_folder_is_read_once(tmp_path):
    write_folder(tmp_path / "digits")
    write_folder(tmp_path / "more", classes=("8",), parts=("own",), names=("1.png",))
    (tmp_path / "digits/train/3/more").symlink_to(tmp_path / "more/own/8")
    (tmp_path / "digits/train/3/loop").symlink_to(tmp_path / "digits/train/3")
    (train, _), notes = notes_of(tmp_path / "digits")
    assert (train.labels.tolist(), notes) == ([1] * 4 + [0] * 3, "")


@pytest.mark.parametrize("dark_on_light", [1.0, 0.5, 0.1])
def test_dark_on_light_pictures_are_inverted(tmp_path, sample, dark_on_light):
    expected = sample.valid[::40]
    is_dark = np.random.default_rng(0).random(len(expected)) < dark_on_light
    images = np.where(is_dark[:, None, None], 255 - expected.images, expected.images)
    write_images(tmp_path, images, expected.labels)
    (train, valid), notes = notes_of(tmp_path)
    for part in (train, valid):
        np.testing.assert_array_equal(part.images, expected.images)
        np.testing.assert_array_equal(part.labels, expected.labels)
    assert f"{2 * is_dark.sum()} pictures of 28x28 inverted" in notes
    untouched = load(tmp_path, prepare=False)
    np.testing.assert_array_equal(untouched.train.images, images)


def write_images(path, images, labels, suffix=".png", change=Image.fromarray):
    for part in ("train", "valid"):
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            file = path / part / "73"[label] / f"{i:04}{suffix}"
            file.parent.mkdir(parents=True, exist_ok=True)
            change(image).save(file)


MODES = {
    "RGB": lambda image: image.convert("RGB"),
    "palette": lambda image: image.convert("P"),
    "LA": lambda image: image.convert("LA"),
    "RGBA": lambda image: image.convert("RGBA"),
    "white on transparent": lambda image: transparent(image, 255),
    "black on transparent": lambda image: transparent(image, 0),
    "16 bit": lambda image: Image.fromarray(np.asarray(image).astype(np.uint16) * 257),
    "12 bit": lambda image: Image.fromarray(np.round(np.asarray(image) * (4095 / 255)).astype(np.uint16)),
    "1 bit": lambda image: image.point(lambda value: 255 * (value > 127)).convert("1"),
}


def transparent(image, grey):
    layers = Image.new("L", image.size, grey)
    layers.putalpha(image)
    return layers


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_of_28x28_is_read(tmp_path, sample, mode):
    images, labels = sample.valid[::100].images, sample.valid[::100].labels
    write_images(tmp_path, images, labels, change=lambda image: MODES[mode](Image.fromarray(image)))
    (train, _), _ = notes_of(tmp_path)
    np.testing.assert_array_equal(train.images, 255 * np.uint8(images > 127) if mode == "1 bit" else images)


TIFF_MODES = {
    "CMYK": lambda image: Image.fromarray(image).convert("RGB").convert("CMYK"),
    "LAB": lambda image: Image.merge("LAB", [Image.fromarray(image), *[Image.new("L", (28, 28), 128)] * 2]),
    "float in [0, 1]": lambda image: Image.fromarray(image / np.float32(255)),
    "float in 0..255": lambda image: Image.fromarray(image.astype(np.float32)),
    "float in [-1, 1]": lambda image: Image.fromarray(image / np.float32(127.5) - 1),
    "32 bit": lambda image: Image.fromarray(image.astype(np.int32)),
}


@pytest.mark.parametrize("mode", TIFF_MODES)
def test_every_mode_of_28x28_in_a_tiff_is_read(tmp_path, sample, mode):
    images, labels = sample.valid[::200].images, sample.valid[::200].labels
    write_images(tmp_path, images, labels, suffix=".tif", change=TIFF_MODES[mode])
    np.testing.assert_allclose(load(tmp_path).train.images.astype(int), images, atol=2)


def test_exif_orientation_of_28x28_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3  # rotated by 180 degrees
    image = picture(200, 100)
    write_images(tmp_path, [image], [1])
    Image.fromarray(image[::-1, ::-1]).save(tmp_path / "train/3/0000.png", exif=exif)
    np.testing.assert_array_equal(load(tmp_path).train.images, [image])


def enlarged(image, size=(100, 100)):
    return Image.fromarray(255 - image).resize(size, Image.Resampling.BICUBIC).convert("RGBA")


def test_other_sizes_are_prepared_like_photos(tmp_path, sample):
    expected = sample.valid[::300]
    write_images(tmp_path, expected.images, expected.labels, change=enlarged)
    Image.fromarray(expected.images[0]).save(tmp_path / "train/3/small.png")
    progress = []
    (train, valid), notes = notes_of(tmp_path, progress=lambda files, total: progress.append(total) or files)
    files = sorted(tmp_path.glob("valid/3/*")) + sorted(tmp_path.glob("valid/7/*"))
    np.testing.assert_array_equal(valid.images, [read_photo(file) for file in files])
    np.testing.assert_array_equal(train.images[(train.labels == 1).sum() - 1], expected.images[0])
    assert progress == [14]
    assert notes == f"{tmp_path}: 14 pictures prepared: 14 inverted"
    with pytest.raises(ValueError, match=r"train/3/0000\.png: image must be 28x28 pixels, got 100x100"):
        load(tmp_path, prepare=False)


def test_commands_prepare_unless_told_not_to(tmp_path, sample, capsys):
    few = sample.valid[::300]
    write_images(tmp_path / "own", few.images, few.labels, change=enlarged)
    run = str(tmp_path / "run")
    options = ["train", "chapter-linear", "--dataset", str(tmp_path / "own"), "--epochs", "1", "--out", run]
    assert main([*options, "--no-prepare"]) == 2
    assert "0000.png: image must be 28x28 pixels, got 100x100" in capsys.readouterr().err
    assert main(options) == 0
    assert main(["evaluate", run]) == 0
    note = f"note: {tmp_path / 'own'}: 14 pictures prepared: 14 inverted"
    assert capsys.readouterr().out.count(note) == 2
    write_images(tmp_path / "inverted", 255 - few.images, few.labels)
    options[3] = str(tmp_path / "inverted")
    assert main([*options, "--no-prepare"]) == 0
    assert main(["evaluate", run]) == 0  # as the run was trained
    assert "note: " not in capsys.readouterr().out


@pytest.mark.slow
def test_predict_reads_pictures_as_the_run_was_trained(tmp_path, sample, capsys):
    few = sample.valid[::100]
    write_images(tmp_path / "inverted", 255 - few.images, few.labels)
    run = str(tmp_path / "run")
    options = ["--dataset", str(tmp_path / "inverted"), "--epochs", "30", "--learning-rate", "0.01", "--out", run]
    assert main(["train", "chapter-linear", *options, "--no-prepare"]) == 0
    correct = json.loads((tmp_path / "run" / "result.json").read_text())["correct"]
    assert correct > 0.8 * len(few)
    capsys.readouterr()
    files = sorted((tmp_path / "inverted" / "valid").glob("*/*"))
    assert main(["predict", run, *map(str, files)]) == 0
    rows = [line.split("│") for line in capsys.readouterr().out.splitlines() if "│" in line]
    answers = [row[2].split()[0] for row in rows if row[2].strip()]  # without "(not sure)"
    assert sum(answer == file.parent.name for answer, file in zip(answers, files, strict=True)) == correct
    enlarged(few.images[0], (90, 90)).save(tmp_path / "large.png")
    assert main(["predict", run, str(tmp_path / "large.png")]) == 2
    assert capsys.readouterr().err.endswith(
        "large.png: image must be 28x28 pixels, got 90x90; the run was trained with --no-prepare\n"
    )


def test_pictures_that_cannot_be_prepared_are_all_named(tmp_path):
    for name in ("1.png", "2.png", "3.png"):
        for part in ("train", "valid"):
            (tmp_path / part / "3").mkdir(parents=True, exist_ok=True)
            Image.new("L", (50, 50)).save(tmp_path / part / "3" / name)
    with pytest.raises(ValueError, match=r"3/1\.png: shows no digit.* \(and 5 more: .*train/3/2\.png, "):
        load(tmp_path)


def test_prepared_pictures_are_kept_until_they_change(tmp_path, sample, monkeypatch, cache):
    monkeypatch.setattr(preparation, "_CACHE_FROM", 0)
    expected = sample.valid[::300]
    write_images(tmp_path, expected.images, expected.labels, change=enlarged)
    prepared = []
    photo = preparation.prepare_photo
    monkeypatch.setattr(preparation, "prepare_photo", lambda file: prepared.append(file) or photo(file))
    first, notes = notes_of(tmp_path)
    assert (len(prepared), len(list(cache.rglob("*.npz")))) == (14, 1)
    again, notes_again = notes_of(tmp_path)
    assert (len(prepared), notes_again) == (14, notes)
    np.testing.assert_array_equal(again.train.images, first.train.images)
    enlarged(expected.images[-1], (90, 90)).save(tmp_path / "train/3/0000.png")
    notes_of(tmp_path)
    assert len(prepared) == 15
    monkeypatch.setattr(preparation.photos, "__file__", preparation.__file__)  # other code prepares them anew
    notes_of(tmp_path)
    assert len(prepared) == 29
    for file in cache.rglob("*.npz"):
        file.write_bytes(b"damaged")
    again, _ = notes_of(tmp_path)
    np.testing.assert_array_equal(again.valid.images, first.valid.images)


def spoil_text(path):
    (path / "valid/7/10.png").write_text("not a picture")


def spoil_truncated(path):
    file = path / "valid/7/10.png"
    file.write_bytes(file.read_bytes()[:-20])


def spoil_heic(path):
    (path / "valid/7/9.HEIC").write_bytes(b"\0\0\0\x18ftypheic")


def spoil_heic_called_jpg(path):
    (path / "valid/7/9.jpg").write_bytes(b"\0\0\0\x18ftypheic")


def spoil_dangling_link(path):
    (path / "valid/7/9.jpg").symlink_to(path / "nowhere.jpg")


def spoil_empty(path):
    (path / "valid/7/9.jpg").write_bytes(b"")


def spoil_no_pictures(path):
    shutil.rmtree(path / "valid/7")
    (path / "valid/7").mkdir()
    for name in ("1.txt", "2.txt"):
        (path / "valid/7" / name).write_text("seven")


def spoil_unknown_class(path):
    (path / "valid/8").mkdir()


SPOILT = {
    r"valid/7/10\.png: .*not a readable picture \(UnidentifiedImageError: cannot identify": spoil_text,
    r"valid/7/10\.png: .*not a readable picture": spoil_truncated,
    r"valid/7/9\.HEIC: is a HEIC picture.* save it as JPEG or PNG": spoil_heic,
    r"valid/7/9\.jpg: is a HEIC picture.* save it as JPEG or PNG": spoil_heic_called_jpg,
    r"valid/7/9\.jpg: is an empty file": spoil_empty,
    r"valid/7/9\.jpg: cannot be read \(No such file": spoil_dangling_link,
    r"valid/7: must contain pictures.* got 2 \.txt files": spoil_no_pictures,
    r"valid: classes must be among \['3', '7'\].* got \['8'\]": spoil_unknown_class,
}


@pytest.mark.parametrize("message", SPOILT)
def test_damaged_folder_is_refused_by_name(tmp_path, message):
    write_folder(tmp_path)
    SPOILT[message](tmp_path)
    with pytest.raises(ValueError, match=message):
        load(tmp_path)


def test_unreadable_folder_raises(tmp_path, monkeypatch):
    write_folder(tmp_path)
    (tmp_path / "train/3/more").mkdir()
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("more"):  # as root, every folder may be read
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match="train/3/more"):
        load(tmp_path)


def test_missing_classes_are_refused_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match="has no train-images-idx3-ubyte"):
        load(tmp_path)
    (tmp_path / "train").mkdir()
    (tmp_path / "valid").mkdir()
    with pytest.raises(ValueError, match=r"train: must contain one folder per class.* got no files"):
        load(tmp_path)
    Image.fromarray(picture(1)).save(tmp_path / "train/1.png")
    with pytest.raises(ValueError, match=r"train: must contain one folder per class.* got 1 \.png file"):
        load(tmp_path)


def test_folder_of_28x28_needs_neither_warning_nor_preparation(tmp_path):
    write_folder(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(load(tmp_path).train) == 6


def write_own_pictures(path, dataset):
    """Write digits as people have them: black on white, enlarged, PNG and JPEG, with the files that systems add."""
    for i, (image, label) in enumerate(zip(dataset.images, dataset.labels, strict=True)):
        file = path / str(label) / (f"{i}.png" if i % 3 else f"{i}.JPG")
        file.parent.mkdir(parents=True, exist_ok=True)
        drawn = enlarged(image, (280, 280))
        drawn.save(file, compress_level=1) if i % 3 else drawn.convert("RGB").save(file)
        (file.parent / f"._{file.name}").write_bytes(b"\0\5\x16\7")
        (file.parent / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")


@pytest.mark.slow
def test_own_pictures_train_to_what_the_same_digits_in_idx_train_to(tmp_path, mnist, capsys):
    digits = Splits(mnist.train[:450], mnist.valid[:150])
    for part, name, idx in zip(digits, ("train", "val"), ("train", "t10k"), strict=True):
        write_own_pictures(tmp_path / "pictures" / name, part)
        write_own_pictures(tmp_path / "pictures" / "__MACOSX" / name, part[:1])
        (tmp_path / "idx").mkdir(exist_ok=True)
        write_idx(tmp_path / "idx" / f"{idx}-images-idx3-ubyte", part.images)
        write_idx(tmp_path / "idx" / f"{idx}-labels-idx1-ubyte", part.labels.astype(np.uint8))

    def result_of(name):
        options = ["--dataset", str(tmp_path / name), "--out", str(tmp_path / name / ".run")]
        # With all images in a batch, their order, which differs between the two, does not matter.
        assert main(["train", "chapter-linear", *options, "--epochs", "100", "--batch-size", "450"]) == 0
        printed.append(capsys.readouterr().out)
        return json.loads((tmp_path / name / ".run" / "result.json").read_text())

    printed = []
    own, idx = result_of("pictures"), result_of("idx")
    assert "note: " + str(tmp_path / "pictures: 600 pictures prepared: 600 inverted") in printed[0]
    assert (own["train_count"], own["count"]) == (450, 150)
    assert own["accuracy"] > idx["accuracy"] - 0.01  # over 12 seeds 0.019 +- 0.006 higher, 0.007 at least
    files = sorted((tmp_path / "pictures" / "val").glob("[0-9]/[0-9]*"))
    assert main(["predict", str(tmp_path / "pictures" / ".run"), *map(str, files)]) == 0
    rows = [line.split("│") for line in capsys.readouterr().out.splitlines() if "│" in line]
    answers = [row[2].split()[0] for row in rows if row[2].strip()]  # without "(not sure)"
    assert sum(answer == file.parent.name for answer, file in zip(answers, files, strict=True)) == own["correct"]
