"""npz and CSV files, and the files that are not read."""

import gzip
import io
import pickle
import zipfile

import jax
import numpy as np
import pytest
from PIL import Image

from jax_mnist import class_names, hold_out, load, load_run, make_batch
from jax_mnist.__main__ import main
from jax_mnist.data import load_train
from jax_mnist.data.formats.idx import write_idx
from jax_mnist.metrics import predicted_labels


@pytest.fixture(scope="module")
def digits(mnist):
    return mnist.train[:30], mnist.valid[:20]


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.images, other.images)
        np.testing.assert_array_equal(one.labels, other.labels)
        assert (one.images.dtype, one.labels.dtype) == (np.uint8, np.int32)


KAGGLE = ["label", *(f"pixel{i}" for i in range(784))]


def write_csv(
    path, dataset, header=(), columns=(), delimiter=",", labelled=True, label_last=False, pixels=None, trailing=False
):
    """Write a row for each image; `columns` come first, such as an index."""
    rows = [delimiter.join(header)] if header else []
    images = dataset.images if pixels is None else pixels
    for i, (image, label) in enumerate(zip(images, dataset.labels, strict=True)):
        values = [*([i] if columns else []), *([label] if labelled else []), *image.ravel().tolist()]
        rows.append(delimiter.join(map(str, [*values[1:], values[0]] if label_last else values)))
    text = "".join(f"{row}{delimiter if trailing else ''}\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)


CSV = {
    "without header": {},
    "Kaggle's header": {"header": KAGGLE},
    "header of rows and columns": {"header": ["label", *(f"{r}x{c}" for r in range(28) for c in range(28))]},
    "pandas with its index": {"header": ["", *KAGGLE], "columns": [""]},
    "OpenML, the class last": {"header": [*KAGGLE[1:], "class"], "label_last": True},
    "a German Excel": {"header": KAGGLE, "delimiter": ";"},
    "a delimiter at the end of every line": {"trailing": True},
    "the names of a DataFrame that has none": {"header": ["", *map(str, range(785))], "columns": [""]},
    "the same without the index": {"header": [*map(str, range(785))]},
    "quoted names and a byte order mark": {"header": ['\ufeff"label"', *(f'"{name}"' for name in KAGGLE[1:])]},
}


@pytest.mark.parametrize("kind", CSV)
@pytest.mark.parametrize("names", [("mnist_train.csv", "mnist_test.csv"), ("train.csv.gz", "Test.csv")], ids=str)
def test_csv_with_the_test_file_beside_it(tmp_path, digits, kind, names):
    for name, part in zip(names, digits, strict=True):
        write_csv(tmp_path / name, part, **CSV[kind])
    assert_same(load(tmp_path / names[0]), digits)
    assert_same(load(tmp_path), digits)
    assert class_names(tmp_path / names[0]) == tuple("0123456789")


def test_csv_of_floats_in_0_to_1_and_of_dark_on_light(tmp_path, digits):
    train = digits[0]
    write_csv(tmp_path / "floats.csv", train, pixels=train.images / np.float32(255))
    assert_same([load_train(tmp_path / "floats.csv")], [train])
    write_csv(tmp_path / "dark.csv", train, pixels=255 - train.images)
    with pytest.warns(UserWarning, match=r"dark\.csv: 30 images inverted"):
        assert_same([load_train(tmp_path / "dark.csv")], [train])


def test_csv_whose_pixels_are_sorted_by_name_as_text(tmp_path, digits):
    order = sorted(range(784), key=str)
    write_csv(
        tmp_path / "train.csv",
        digits[0],
        header=["label", *(f"pixel{i}" for i in order)],
        pixels=digits[0].images.reshape(-1, 784)[:, order],
    )
    assert_same([load_train(tmp_path)], digits[:1])


def test_csv_that_begins_with_a_value_that_is_missing_keeps_its_first_image(tmp_path, digits):
    write_csv(tmp_path / "digits.csv", digits[0])
    text = (tmp_path / "digits.csv").read_text()
    for missing in ("", "NA"):
        (tmp_path / "digits.csv").write_text(text.replace(",0,", f",{missing},", 1))
        assert_refused(tmp_path / "digits.csv", f"numbers from line 1 to 30 .*'{missing}'")


def test_csv_whose_labels_are_not_found_is_refused(tmp_path, digits):
    path = tmp_path / "digits.csv"
    write_csv(path, digits[0], label_last=True)
    message = "labels must be in the first column, .* got 0 in the first column of most of the 30 images"
    assert_refused(path, message)
    images = digits[0].images.copy()
    images[:3, 0, 0] = (181, 1, 4)
    write_csv(path, digits[0], pixels=images, label_last=True)
    assert_refused(path, message)
    write_csv(path, digits[0], header=[*KAGGLE[1:], "what"], label_last=True)
    assert_refused(path, r"labels must be called label or class .* got pixel0, pixel1, \.\.\., what; rename it")


def test_csv_whose_names_are_the_first_image_is_refused(tmp_path, digits):
    path = tmp_path / "digits.csv"
    write_csv(path, digits[0])
    first, rest = path.read_text().split("\n", 1)
    names = first.split(",")
    seen = [names[:i].count(name) for i, name in enumerate(names)]
    renamed = ",".join(f"{name}.{count}" if count else name for name, count in zip(names, seen, strict=True))
    path.write_text(f"{renamed}\n{rest}")
    assert_refused(path, "must have the names of columns, or an image, got 0, 0.1, .* header=None")


def test_csv_with_more_classes_than_digits(tmp_path, digits):
    train = digits[0]
    train = type(train)(train.images, train.labels + 16)
    write_csv(tmp_path / "letters.csv", train)
    assert class_names(tmp_path / "letters.csv") == tuple(map(str, range(26)))
    assert_same([load_train(tmp_path / "letters.csv")], [train])


def test_csv_of_emnist_is_upright_and_has_its_classes(tmp_path, digits):
    for name, part in zip(("train", "test"), digits, strict=True):
        part = type(part)(part.images, part.labels + 1)
        write_csv(tmp_path / f"emnist-letters-{name}.csv", part, pixels=part.images.transpose(0, 2, 1))
    assert_same(load(tmp_path / "emnist-letters-train.csv"), digits)
    assert class_names(tmp_path)[:3] == ("a", "b", "c")


def test_csv_without_validation_images_is_held_out_from(tmp_path, digits):
    write_csv(tmp_path / "train.csv", digits[0], header=KAGGLE)
    write_csv(tmp_path / "test.csv", digits[1], header=KAGGLE[1:], labelled=False)
    with pytest.raises(FileNotFoundError, match=r"train\.csv: has no labeled test file.* give --hold-out N"):
        load(tmp_path)
    assert len(hold_out(jax.random.key(0), load_train(tmp_path), 5).train) == 25
    with pytest.raises(ValueError, match=r"test\.csv: must have a column of labels.*predict RUN"):
        load_train(tmp_path / "test.csv")


def test_csv_that_is_not_used_is_named(tmp_path, digits):
    for name in ("train", "val", "test"):
        write_csv(tmp_path / f"{name}.csv", digits[0])
    with pytest.warns(UserWarning, match=r"test\.csv is not used"):
        load(tmp_path)


ROW = ",".join(["5"] + ["0"] * 784)
BAD_CSV = {
    "must have 784 columns of pixels.* got 65 columns": ",".join(["5"] * 65),
    "must have 784 columns of pixels.* got 1 column": "hello\n",
    r"must have 784 columns": "",
    "every line must have 785 columns, got 3 in line 2": f"{ROW}\n1,2,3\n{ROW}",
    "line 2 must not be empty": f"{ROW}\n\n{ROW}",
    "not a readable CSV of numbers from line 1 to 2 .*'x'": f"{ROW}\n{ROW[:-1]}x",
    r"pixels must be all in 0\.\.255 or all in \[0, 1\], got 0\.\.256": f"{ROW[:-1]}256",
    r"pixels must be .* got -1\.\.0": f"{ROW[:-1]}-1",
    r"pixels must be .* got nan\.\.nan": f"{ROW[:-1]}nan",
    "labels must be whole numbers from 0 to 255, got 2.5 at index 0": f"2.5{ROW[1:]}",
    "labels must be .* got -1 at index 1": f"{ROW}\n-1{ROW[1:]}",
    "line 1 has more than 65,536 bytes": "0" * 70_000,
    "must have at least one image, got none": ",".join(KAGGLE),
    "must be a CSV in UTF-8, got UTF-16": ROW.encode("utf-16"),
}


def assert_refused(path, message):
    with pytest.raises(ValueError, match=message) as error:
        load_train(path)
    assert str(error.value).startswith(str(path))


@pytest.mark.parametrize("message", BAD_CSV)
def test_malformed_csv_is_refused_by_name(tmp_path, message):
    path = tmp_path / "digits.csv"
    contents = BAD_CSV[message]
    path.write_bytes(contents if isinstance(contents, bytes) else contents.encode())
    assert_refused(path, message)


NPZ = {
    "Keras": lambda images, labels: (images, labels),
    "rows": lambda images, labels: (images.reshape(-1, 784), labels.astype(np.int64)),
    "one channel": lambda images, labels: (images[..., None], labels[:, None]),
    "floats in [0, 1]": lambda images, labels: (images / 255, labels.astype(np.float32)),
    "floats in 0..255": lambda images, labels: (images.astype(np.float32), labels),
    "one channel first": lambda images, labels: (images[:, None], labels),
    "columns first": lambda images, labels: (np.asfortranarray(images), labels),
    "dark on light": lambda images, labels: (255 - images, labels),
}


@pytest.mark.parametrize("kind", NPZ)
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(tmp_path, digits, kind, save):
    (x_train, y_train), (x_test, y_test) = (NPZ[kind](part.images, part.labels.astype(np.uint8)) for part in digits)
    save(tmp_path / "mnist.npz", x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    notes = []
    assert_same(load(tmp_path / "mnist.npz", report=notes.append), digits)
    assert notes == ([f"{tmp_path / 'mnist.npz'}: 50 images inverted"] if kind == "dark on light" else [])
    assert class_names(tmp_path) == tuple("0123456789")


def test_npz_of_medmnist_names_and_without_validation_images(tmp_path, digits):
    train, valid = digits
    arrays = {"train_images": train.images, "train_labels": train.labels}
    np.savez(
        tmp_path / "a.npz", **arrays, val_images=valid.images, val_labels=valid.labels, test_images=0, test_labels=0
    )
    with pytest.warns(UserWarning, match="test_images is not used"):
        assert_same(load(tmp_path / "a.npz"), digits)
    np.savez(tmp_path / "c.npz", x_train=train.images, y_train=train.labels, x_valid=valid.images, y_valid=valid.labels)
    assert_same(load(tmp_path / "c.npz"), digits)
    np.savez(tmp_path / "b.npz", **arrays)
    with pytest.raises(FileNotFoundError, match=r"b\.npz: has no validation images.* give --hold-out N"):
        load(tmp_path / "b.npz")
    assert_same([load_train(tmp_path / "b.npz")], [train])


class Opened:
    """Unpickling it fails the test."""

    def __reduce__(self):
        return pytest.fail, ("the pickle was opened",)


def npz(**members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, contents in members.items():
            archive.writestr(f"{name}.npy", contents)
    return file.getvalue()


def npy(array, **options):
    file = io.BytesIO()
    np.lib.format.write_array(file, array, **options)
    return file.getvalue()


IMAGES, LABELS = npy(np.zeros((2, 28, 28), np.uint8)), npy(np.zeros(2, np.uint8))
BAD_NPZ = {
    "x_train.npy must hold numbers, got Python objects, a pickle": npz(
        x_train=npy(np.array([Opened()], object)), y_train=LABELS
    ),
    "x_train.npy must hold numbers, got <U3": npz(x_train=npy(np.array(["abc"])), y_train=LABELS),
    "must have the arrays x_train and y_train, got arr_0": npz(arr_0=IMAGES),
    "not a readable npz file .*not a zip file": pickle.dumps(Opened()),
    r"x_train must be \[n, 28, 28\] or \[n, 784\], got \[2, 32, 32, 3\]": npz(
        x_train=npy(np.zeros((2, 32, 32, 3), np.uint8)), y_train=LABELS
    ),
    r"labels must be \[n\] whole numbers, got \[2, 10\]; take the argmax of one-hot labels": npz(
        x_train=IMAGES, y_train=npy(np.zeros((2, 10)))
    ),
    "one image per label, got 2 and 3": npz(x_train=IMAGES, y_train=npy(np.zeros(3, int))),
    "must have at least one image, got none": npz(
        x_train=npy(np.zeros((0, 28, 28), np.uint8)), y_train=npy(np.zeros(0, int))
    ),
    "declares .* and has others": npz(x_train=IMAGES[:-5], y_train=LABELS),
    r"pixels must be .* got -1\.\.1": npz(x_train=npy(np.linspace(-1, 1, 1568).reshape(2, 784)), y_train=LABELS),
}


@pytest.mark.parametrize("message", BAD_NPZ)
def test_malformed_npz_is_refused_by_name_and_no_pickle_is_opened(tmp_path, message):
    path = tmp_path / "mnist.npz"
    path.write_bytes(BAD_NPZ[message])
    assert_refused(path, message)


OTHERS = {
    "train.parquet": (b"PAR1", "Parquet file; read it with pandas.read_parquet"),
    "mnist.mat": (b"MATLAB 5.0", "MATLAB file; read it with scipy.io.loadmat"),
    "mnist.pkl": (pickle.dumps(Opened()), "pickle, which can run any code and is not opened"),
    "mnist.pkl.gz": (gzip.compress(pickle.dumps(Opened())), "pickle, which can run any code"),
    "mnist.dat": (pickle.dumps(Opened()), "pickle"),
    "training.pt": (b"PK\3\4", r"PyTorch; read it with torch\.load"),
    "archive.zip": (b"PK\3\4", "archive; unpack it and give the directory"),
    "archive.tar.gz": (gzip.compress(bytes(257) + b"ustar"), "archive; unpack it"),
    "mnist.h5": (b"\x89HDF\r\n", "HDF5 file; read it with h5py"),
    "images.npy": (b"\x93NUMPY", "one NumPy array; np.savez"),
    "train-images-idx3-ubyte": (b"\0\0\x08\x03", "one of the four IDX files.* give the directory"),
    "train-labels-idx1-ubyte.gz": (gzip.compress(b"\0\0\x08\x01"), "one of the four IDX files"),
    "mnist-train.tfrecord-00000-of-00001": (b"", "TensorFlow Datasets; give tfds:NAME"),
    "digit.png": (b"\x89PNG", "one picture; .* `predict RUN PICTURE`"),
    "sheet.xlsx": (b"PK\3\4", "spreadsheet; save it as CSV"),
    "notes.txt": (b"hello", r"not a dataset that is read; expected an \.npz, \.csv"),
    "empty": (b"", "not a dataset that is read"),
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("function", [load, class_names])
def test_other_files_are_named_with_what_to_do(tmp_path, name, function):
    contents, message = OTHERS[name]
    (tmp_path / name).write_bytes(contents)
    with pytest.raises(ValueError, match=f"{name}: is .*{message}") as error:
        function(tmp_path / name)
    assert "\n" not in str(error.value)


def test_directories_of_others_are_named_with_what_to_do(tmp_path):
    def refused(message):
        with pytest.raises(ValueError, match=message):
            load(tmp_path)

    Image.new("L", (28, 28)).save(tmp_path / "7.png")
    refused(r"a directory of pictures \(1\), but not of two or more class folders; put those of each class")
    (tmp_path / "images").mkdir()
    (tmp_path / "7.png").rename(tmp_path / "images" / "7.png")
    refused(r"a directory of pictures \(1\), but not of two or more class folders; put those of each class")
    (tmp_path / "images" / "7.png").rename(tmp_path / "7.png")
    (tmp_path / "mnist.pkl").write_bytes(b"")
    (tmp_path / "7.png").unlink()
    refused(r"mnist\.pkl is a pickle")
    (tmp_path / "mnist.pkl").unlink()
    (tmp_path / "MNIST" / "processed").mkdir(parents=True)
    (tmp_path / "MNIST" / "training.pt").write_bytes(b"")
    refused(r"MNIST/training\.pt is a file of PyTorch")
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / "train-00000-of-00001.parquet").write_bytes(b"PAR1")
    refused(r"Hugging Face dataset; read it with datasets\.")


def test_parts_of_a_hugging_face_dataset_are_no_image_folder(tmp_path):
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "data-00000-of-00001.arrow").write_bytes(b"ARROW1")
        (tmp_path / part / "state.json").write_text("{}")
    (tmp_path / "dataset_dict.json").write_text("{}")
    with pytest.raises(ValueError, match=r"Hugging Face dataset; read it with datasets\.load_from_disk"):
        load(tmp_path)


def test_datasets_in_a_folder_called_train_are_read(tmp_path, digits):
    (tmp_path / "train").mkdir()
    write_csv(tmp_path / "train" / "train.csv", digits[0], header=KAGGLE)
    assert_same([load_train(tmp_path)], digits[:1])


def test_command_prints_one_line_for_a_file_that_is_not_read(tmp_path, capsys):
    (tmp_path / "mnist.pkl").write_bytes(b"\x80\4")
    assert main(["train", "--dataset", str(tmp_path / "mnist.pkl"), "--out", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.fixture(scope="module")
def trained(tmp_path_factory, digits):
    """A run trained on thirty digits, and its export."""
    path = tmp_path_factory.mktemp("trained")
    write_csv(path / "train.csv", digits[0], header=KAGGLE)
    options = ["mnist", "--model", "linear", "--hidden", "--epochs", "1", "--hold-out", "5", "--seeds", "1"]
    assert main(["train", *options, "--dataset", str(path), "--out", str(path / "run")]) == 0
    assert main(["export", str(path / "run"), str(path / "model.jaxexport")]) == 0
    return path


@pytest.mark.parametrize("model", ["run", "model.jaxexport"])
def test_submission_has_the_models_answer_for_each_row_of_a_csv(trained, tmp_path, mnist, model, capsys):
    test = mnist.valid[:1100]
    write_csv(tmp_path / "test.csv.gz", test, header=KAGGLE[1:], labelled=False)
    paths = [str(trained / model), str(tmp_path / "test.csv.gz"), "--submission", str(tmp_path / "submission.csv")]
    assert main(["predict", *paths]) == 0
    assert "labels of 1,100 images written to" in capsys.readouterr().out
    header, *rows = (tmp_path / "submission.csv").read_text().splitlines()
    run = load_run(trained / "run")
    expected = predicted_labels(run.learner.model.apply(run.params, make_batch(test.images, test.labels).x))
    assert header == "ImageId,Label"
    assert rows == [f"{i},{label}" for i, label in enumerate(expected.tolist(), 1)]


def test_submission_does_not_replace_the_images(trained, tmp_path, digits, capsys):
    write_csv(tmp_path / "test.csv", digits[1], labelled=False)
    before = (tmp_path / "test.csv").read_bytes()
    path = str(tmp_path / "test.csv")
    assert main(["predict", str(trained / "run"), path, "--submission", path]) == 2
    assert "--submission must not be the CSV of images" in capsys.readouterr().err
    assert (tmp_path / "test.csv").read_bytes() == before


@pytest.mark.parametrize("arguments", [["test.csv"], ["digit.png", "--submission", "out.csv"], ["a.csv", "b.csv"]])
def test_submission_is_refused_for_anything_but_a_csv(arguments, capsys):
    assert main(["predict", "RUN", *arguments]) == 2
    assert "--submission FILE and one CSV of images go together" in capsys.readouterr().err


def test_directory_of_idx_files_is_preferred_to_an_npz_beside_them(tmp_path, digits):
    for part, dataset in zip(("train", "t10k"), digits, strict=True):
        write_idx(tmp_path / f"{part}-images-idx3-ubyte", dataset.images)
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte", dataset.labels.astype(np.uint8))
    np.savez(tmp_path / "other.npz", x=1)
    assert_same(load(tmp_path), digits)
