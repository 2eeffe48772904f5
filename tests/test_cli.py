"""The commands that use a trained run: evaluate, predict, export; and the table of versions."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from jax_mnist import load
from jax_mnist.__main__ import main
from jax_mnist.cli import evaluate, export, predict, report, train
from jax_mnist.data.formats.idx import write_idx
from jax_mnist.metrics import class_probabilities

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "chapter"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "draw_run", lambda *_: None)
        assert train.main(["--epochs", "4", "--out", str(out), "--platform", "cpu"]) == 0
    return out


@pytest.fixture(scope="module")
def ten(tmp_path_factory):
    """Return a quick run on a directory of IDX files with labels 0 to 9."""
    path = tmp_path_factory.mktemp("ten")
    digits = load("mnist")
    for part, data, count in (("train", digits.train, 3000), ("t10k", digits.valid, 500)):
        write_idx(path / f"{part}-images-idx3-ubyte", data.images[:count])
        write_idx(path / f"{part}-labels-idx1-ubyte", data.labels[:count].astype(np.uint8))
    arguments = ["--dataset", str(path), "--epochs", "4", "--hidden", "32", "--out", str(path / "run")]
    assert main(["train", "mnist", "--model", "mlp", *arguments]) == 0
    return path / "run"


def test_evaluate_gives_the_loss_and_accuracy_of_the_training(run, capsys):
    assert evaluate.main([str(run)]) == 0
    result = json.loads((run / "result.json").read_text())
    output = capsys.readouterr().out
    for expected in ("2,038", f"{result['loss']:.4f}", f"{result['accuracy']:.4f}"):
        assert expected in output
    assert main(["evaluate", str(run), "--dataset", "mnist"]) == 2
    assert f"mnist must have the classes of {run}, ('7', '3'), got ('0', '1'" in capsys.readouterr().err


def test_evaluate_does_not_replace_lost_labels_by_held_out_images(ten, tmp_path, capsys):
    shutil.copytree(ten.parent, tmp_path / "ten")
    (tmp_path / "ten" / "t10k-labels-idx1-ubyte").unlink()
    file = tmp_path / "ten" / "run" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"dataset": str(tmp_path / "ten"), "hold_out": 100}))
    assert evaluate.main([str(file.parent)]) == 2
    assert "has no t10k-labels-idx1-ubyte" in capsys.readouterr().err


@pytest.mark.slow
def test_report_holds_the_figures_of_the_training(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert evaluate.main([str(run), "--report", "look/here"]) == 0
    assert "report: look/here/report.html" in capsys.readouterr().out
    figures, result = (json.loads(file.read_text()) for file in (Path("look/here/report.json"), run / "result.json"))
    names = ("accuracy", "loss", "correct", "count")
    assert {name: figures[name] for name in names} == {name: result[name] for name in names}
    assert "<h1>mlp on mnist_sample</h1>" in Path("look/here/report.html").read_text()


def test_report_without_its_history_is_refused(run, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "history.csv").unlink()
    assert evaluate.main([str(tmp_path / "run"), "--report", str(tmp_path / "look")]) == 2
    assert "history.csv: no such file" in capsys.readouterr().err
    assert not (tmp_path / "look").exists()


def test_predict_names_the_digit_and_its_probability(run, ten, tmp_path, monkeypatch, capsys, sample):
    monkeypatch.chdir(tmp_path)
    assert json.loads((ten / "result.json").read_text())["accuracy"] > 0.8
    for label, name in ((1, "three.png"), (0, "seven.png")):
        image = sample.valid.images[np.flatnonzero(sample.valid.labels == label)[10]]
        Image.fromarray(255 - image).resize((300, 400)).save(name)
    capsys.readouterr()
    for trained in (run, ten):
        assert predict.main([str(trained), "three.png", "seven.png"]) == 0
        rows = [line.split("│") for line in capsys.readouterr().out.splitlines() if ".png" in line]
        assert [row[-3].strip() for row in rows] == ["3", "7"]
        assert all(0.5 < float(row[-2]) <= 1 for row in rows)


def test_predict_answers_for_good_pictures_names_bad_ones_and_says_what_is_not_sure(ten, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    digits = load("mnist").valid
    names = [f"{i}.png" for i in range(60)]
    for image, name in zip(digits.images, names, strict=False):
        Image.fromarray(image).save(name)
    Image.new("L", (50, 50)).save("blank.png")
    assert predict.main([str(ten), *names[:30], "blank.png", "nowhere.png", *names[30:]]) == 2
    output, errors = capsys.readouterr()
    rows = [[cell.strip() for cell in line.split("│")[1:4]] for line in output.splitlines() if ".png" in line]
    assert [name for name, _, _ in rows] == names
    unsure = ["not sure" in answer for _, answer, _ in rows]
    assert unsure == [float(probability) < 0.5 for _, _, probability in rows]
    assert 0 < sum(unsure) < 30
    assert [line.partition(": ")[2].partition(":")[0] for line in errors.splitlines()] == ["blank.png", "nowhere.png"]


def test_predict_answers_for_every_file_name(run, tmp_path, monkeypatch, capsys, sample):
    monkeypatch.chdir(tmp_path)
    names = ["-dash.png", ":smile:.png", "[bold]x.png", "sp ace.png", "\u6570\u5b57.png", os.fsdecode(b"bad\xff.png")]
    for name in names:
        Image.fromarray(sample.valid.images[10]).save(Path(name))
    capsys.readouterr()
    assert predict.main([str(run), *(f"./{name}" for name in names)]) == 0
    rows = [line.split("\u2502")[1].strip() for line in capsys.readouterr().out.splitlines() if ".png" in line]
    assert rows == [*names[:-1], "bad?.png"]


def test_exported_file_predicts_as_the_run(run, tmp_path, monkeypatch, capsys, sample):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(sample.valid.images[10]).resize((300, 300)).save("digit.png")
    assert export.main([str(run), "digits.jaxexport"]) == 0
    assert "2 classes" in capsys.readouterr().out
    assert [predict.main([trained, "digit.png"]) for trained in (str(run), "digits.jaxexport")] == [0, 0]
    first, second = capsys.readouterr().out.split("picture")[1:]
    assert first.splitlines()[2] == second.splitlines()[2]
    (tmp_path / "digits.jaxexport").write_text("damaged")
    assert predict.main(["digits.jaxexport", "digit.png"]) == 2
    assert "error: digits.jaxexport: is not a readable exported model" in capsys.readouterr().err


def test_path_with_brackets_is_printed_as_it_is(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "[").mkdir()
    for command, name in (("export", "[/b] digits.jaxexport"), ("export_page", ":cat: [draft].html")):
        assert main([command, str(run), name]) == 0
        assert f"written to {name}" in capsys.readouterr().out


def test_probabilities_sum_to_one():
    for logits in (np.array([[2.0], [-1.0]], np.float32), np.array([[1.0, 2.0, 3.0]], np.float32)):
        probabilities = class_probabilities(jax.numpy.asarray(logits))
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(class_probabilities(jax.numpy.array([[0.0]])), [[0.5, 0.5]])


BAD = {
    "not a run directory: no config.json": ["evaluate", "."],
    "predict needs one or more pictures": ["predict", "RUN"],
    "nowhere.png: there is no such file": ["predict", "RUN", "nowhere.png"],
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_one_line_and_exit_code_2(run, tmp_path, monkeypatch, capsys, message):
    monkeypatch.chdir(tmp_path)
    assert main([str(run) if word == "RUN" else word for word in BAD[message]]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1


def test_without_a_command_versions_devices_and_commands_are_listed(capsys):
    assert main([]) == 0
    output = capsys.readouterr().out
    for expected in ("jaxlib", "flax", "optax", "tensorflow-datasets", jax.__version__, "device 0", "{train,"):
        assert expected in output
    assert report._version("no such package") == "not installed"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train", "sweep", "lr_find", "evaluate", "export", "predict"])
def test_scripts_are_the_commands(name):
    code = [sys.executable, "-W", "error", str(SCRIPTS / f"{name}.py"), "--help"]
    output = subprocess.run(code, capture_output=True, text=True, check=True).stdout
    assert "--platform" in output
    assert "None" not in output
