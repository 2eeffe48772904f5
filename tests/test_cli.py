import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image
from test_sources import write_directory

from jax_mnist import load
from jax_mnist.__main__ import main
from jax_mnist.cli import evaluate, export, predict, report, train
from jax_mnist.data.formats.idx import write_idx
from jax_mnist.metrics import class_probabilities

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "chapter"
    assert train.main(["--epochs", "4", "--out", str(out), "--platform", "cpu"]) == 0
    return out


@pytest.fixture(scope="module")
def ten(tmp_path_factory):
    """A quick run on a directory of IDX files with labels 0 to 9."""
    path = tmp_path_factory.mktemp("ten")
    digits = load("mnist")
    for part, data, count in (("train", digits.train, 3000), ("t10k", digits.valid, 500)):
        write_idx(path / f"{part}-images-idx3-ubyte", data.images[:count])
        write_idx(path / f"{part}-labels-idx1-ubyte", data.labels[:count].astype(np.uint8))
    out = path / "run"
    arguments = ["--dataset", str(path), "--epochs", "8", "--hidden", "32", "--optimizer", "adam", "--out", str(out)]
    assert main(["train", *arguments]) == 0
    return out


def test_a_run_is_all_there(run):
    names = {"config.json", "history.csv", "result.json", "model.safetensors", "curves.png", "predictions.png",
             "checkpoint-4.safetensors"}  # fmt: skip
    assert {path.name for path in run.iterdir()} == names
    for name in ("curves.png", "predictions.png"):
        with Image.open(run / name) as picture:
            assert min(picture.size) > 300


def test_what_is_written_is_what_was_asked_and_came_out(run):
    config = json.loads((run / "config.json").read_text())
    expected = {"dataset": "mnist_sample", "model": "mlp", "hidden": [30], "epochs": 4, "batch_size": 256}
    assert config.items() >= (expected | {"learning_rate": 0.1, "optimizer": "sgd", "seed": 0}).items()
    assert config["classes"] == ["7", "3"]
    rows = list(csv.DictReader((run / "history.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    result = json.loads((run / "result.json").read_text())
    assert (result["count"], result["train_count"]) == (2038, 12_396)
    assert result["accuracy"] == float(rows[-1]["accuracy"]) == pytest.approx(result["correct"] / 2038, abs=1e-7)
    assert result["loss"] == float(rows[-1]["valid_loss"])
    assert result["accuracy"] > 0.96
    assert set(result["seconds"]) == {"data", "compilation", "training", "evaluation"}
    assert all(seconds > 0 for seconds in result["seconds"].values())
    tensors = safetensors.numpy.load_file(run / "model.safetensors")
    assert {name: t.shape for name, t in tensors.items()} == {
        "0.weights": (784, 30), "0.bias": (30,), "1.weights": (30, 1), "1.bias": (1,),
    }  # fmt: skip


def test_it_prints_device_table_and_result(tmp_path, capsys):
    assert train.main(["--model", "linear", "--epochs", "2", "--out", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert "device: cpu" in output
    for heading in ("epoch", "train loss", "valid loss", "accuracy", "seconds"):
        assert heading in output
    result = json.loads((tmp_path / "result.json").read_text())
    assert f"accuracy {result['accuracy']:.4f} on 2,038 images ({result['correct']:,} right)" in output


def test_target_accuracy_is_the_exit_code(tmp_path, capsys):
    arguments = ["--model", "linear", "--epochs", "1", "--out", str(tmp_path)]
    assert train.main([*arguments, "--target-accuracy", "0.9"]) == 0
    assert train.main([*arguments, "--target-accuracy", "0.999"]) == 1
    assert "target accuracy 0.999 missed" in capsys.readouterr().out


def test_hold_out_validates_on_training_images(tmp_path):
    arguments = ["--model", "linear", "--epochs", "1", "--out", str(tmp_path), "--hold-out", "2000"]
    assert train.main(arguments) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["train_count"], result["count"]) == (10_396, 2000)


def test_same_seed_same_model_other_seed_another(run, tmp_path):
    for seed in (0, 1):
        assert main(["train", "--epochs", "4", "--seed", str(seed), "--out", str(tmp_path)]) == 0
        same = (tmp_path / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()
        assert same == (seed == 0)


def test_evaluate_says_what_training_said(run, capsys):
    assert evaluate.main([str(run)]) == 0
    result = json.loads((run / "result.json").read_text())
    output = capsys.readouterr().out
    for expected in ("2,038", f"{result['loss']:.4f}", f"{result['accuracy']:.4f}"):
        assert expected in output
    assert main(["evaluate", str(run), "--dataset", "mnist"]) == 2
    assert "was trained to tell ('7', '3')" in capsys.readouterr().err


def test_evaluate_reports_what_it_says(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert evaluate.main([str(run), "--report", "look/here"]) == 0
    assert "report: look/here/report.html" in capsys.readouterr().out
    figures, result = (json.loads(file.read_text()) for file in (Path("look/here/report.json"), run / "result.json"))
    assert {name: figures[name] for name in ("accuracy", "loss", "correct", "count")} == {
        name: result[name] for name in ("accuracy", "loss", "correct", "count")
    }
    assert "<h1>mlp on mnist_sample</h1>" in Path("look/here/report.html").read_text()


@pytest.mark.parametrize(("damage", "message"), [
    (lambda file: file.unlink(), "there is no such file"),
    (lambda file: file.write_text("epoch\nmany"), "is no history of a run"),
], ids=["gone", "damaged"])  # fmt: skip
def test_a_report_without_its_history_is_refused(run, tmp_path, capsys, damage, message):
    shutil.copytree(run, tmp_path / "run")
    damage(tmp_path / "run" / "history.csv")
    assert evaluate.main([str(tmp_path / "run"), "--report", str(tmp_path / "look")]) == 2
    assert f"history.csv: {message}" in capsys.readouterr().err


def test_predict_names_the_digit_and_its_probability(run, ten, tmp_path, monkeypatch, capsys, sample):
    monkeypatch.chdir(tmp_path)
    for label, name in ((1, "three.png"), (0, "seven.png")):
        image = sample.valid.images[np.flatnonzero(sample.valid.labels == label)[10]]
        Image.fromarray(255 - image).resize((300, 400)).save(name)
    for trained in (run, ten):
        assert predict.main([str(trained), "three.png", "seven.png"]) == 0
        rows = [line.split("│") for line in capsys.readouterr().out.splitlines() if ".png" in line]
        assert [row[-3].strip() for row in rows] == ["3", "7"]
        assert all(0.5 < float(row[-2]) <= 1 for row in rows)


def test_the_exported_file_predicts_as_the_run(run, tmp_path, monkeypatch, capsys, sample):
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


def test_probabilities_sum_to_one():
    for logits in (np.array([[2.0], [-1.0]], np.float32), np.array([[1.0, 2.0, 3.0]], np.float32)):
        shares = class_probabilities(jax.numpy.asarray(logits))
        np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(class_probabilities(jax.numpy.array([[0.0]])), [[0.5, 0.5]])


def test_ten_digits_default_to_flax(ten):
    config = json.loads((ten / "config.json").read_text())
    assert (config["model"], config["batch_size"], config["learning_rate"]) == ("flax_mlp", 64, 0.001)
    assert json.loads((ten / "result.json").read_text())["accuracy"] > 0.8


BAD = {
    "must be a name": ["train", "--dataset", "nothing"],
    "--epochs must be 1 or more, not 0": ["train", "--epochs", "0"],
    "--batch-size must be 1 or more, not -1": ["train", "--batch-size", "-1"],
    "--learning-rate must be a positive number, not nan": ["train", "--learning-rate", "nan"],
    "a linear model has no hidden layers": ["train", "--model", "linear", "--hidden", "3"],
    "--target-accuracy must be in [0, 1], such as 0.98, not 98.0": ["train", "--target-accuracy", "98"],
    "two or more positive integers": ["train", "--hidden", "0"],
    "cannot hold out 12396": ["train", "--hold-out", "12396"],
    "JAX finds no such device here": ["train", "--platform", "gpu"],
    "is no run, it has no config.json": ["evaluate", "."],
    "no picture was named": ["predict", "RUN"],
    "nowhere.png: there is no such file": ["predict", "RUN", "nowhere.png"],
}


@pytest.mark.parametrize("message", BAD)
@pytest.mark.skipif(jax.default_backend() != "cpu", reason="one of them asks for the GPU that is not there")
def test_bad_input_is_one_line_and_exit_code_2(run, tmp_path, monkeypatch, capsys, message):
    monkeypatch.chdir(tmp_path)
    assert main([str(run) if word == "RUN" else word for word in BAD[message]]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1


def test_a_damaged_run_is_named(tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"model": "mlp"}')
    assert main(["evaluate", str(tmp_path)]) == 2
    assert "config.json: is no configuration of a run (KeyError: 'classes')" in capsys.readouterr().err


def test_bad_data_is_found_before_training(tmp_path, capsys):
    write_directory(tmp_path, train_labels=np.array([1, 2], np.uint8))
    assert main(["train", "--dataset", str(tmp_path), "--out", str(tmp_path / "run")]) == 2
    assert "3 images and 2 labels" in capsys.readouterr().err


def test_a_failed_run_keeps_the_one_that_was_there(tmp_path):
    assert train.main(["--model", "linear", "--epochs", "1", "--out", str(tmp_path)]) == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert train.main(["--epochs", "0", "--out", str(tmp_path)]) == 2
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_report_names_versions_and_devices(capsys):
    assert main([]) == 0
    output = capsys.readouterr().out
    for expected in ("jaxlib", "flax", "optax", "tensorflow-datasets", jax.__version__, "device 0"):
        assert expected in output
    assert report._version("no such package") == "not installed"


@pytest.mark.parametrize("name", ["train", "sweep", "lr_find", "evaluate", "export", "predict"])
def test_scripts_are_the_commands(name):
    code = [sys.executable, "-W", "error", str(SCRIPTS / f"{name}.py"), "--help"]
    output = subprocess.run(code, capture_output=True, text=True, check=True).stdout
    assert "--platform" in output
    assert "None" not in output


def test_module_is_a_command():
    code = [sys.executable, "-W", "error", "-m", "jax_mnist", "train", "--platform", "tpu", "--epochs", "1"]
    ended = subprocess.run(code, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("error: --platform tpu: JAX finds no such device here")
