"""`train`: what it writes and prints, its options, its errors; and the command `lr_find`."""

import csv
import json
import os
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image
from test_sources import write_directory

from jax_mnist import evaluate, load_params, load_run
from jax_mnist.__main__ import main
from jax_mnist.cli import train
from jax_mnist.recipes import RECIPES, SUMMARIES, read_data

STOPPING = ["chapter-linear", "--epochs", "40", "--learning-rate", "40", "--hold-out", "2000", "--patience", "2"]


@pytest.fixture
def no_pictures(monkeypatch):
    monkeypatch.setattr(train, "draw_run", lambda *_: None)


def rows_of(out):
    return list(csv.DictReader((out / "history.csv").read_text().splitlines()))


def result_of(out):
    return json.loads((out / "result.json").read_text())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "chapter"
    assert train.main(["--epochs", "4", "--out", str(out), "--platform", "cpu", "--target-accuracy", "0.96"]) == 0
    return out


def test_run_writes_its_files(run):
    names = {"config.json", "history.csv", "result.json", "model.safetensors", "curves.png", "predictions.png",
             "checkpoint-4.safetensors"}  # fmt: skip
    assert {path.name for path in run.iterdir()} == names
    for name in ("curves.png", "predictions.png"):
        with Image.open(run / name) as picture:
            assert min(picture.size) > 300


def test_files_hold_the_recipe_the_history_the_result_and_the_model(run):
    config = json.loads((run / "config.json").read_text())
    recipe = RECIPES["chapter"]._replace(epochs=4)
    assert config.items() >= {**recipe._asdict(), "hidden": [30], "filters": [], "betas": [0.9, 0.999]}.items()
    assert config.items() >= {"seed": 0, "hold_out": 0, "classes": ["7", "3"], "train_count": 12_396}.items()
    rows = rows_of(run)
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    result = result_of(run)
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


@pytest.mark.usefixtures("no_pictures")
def test_preset_is_trained_and_shown_and_a_missed_target_is_exit_code_1(tmp_path, capsys):
    arguments = ["train", "chapter-linear", "--epochs", "2", "--out", str(tmp_path), "--target-accuracy", "0.999"]
    assert main([*arguments, "--hold-out", "2000"]) == 1
    output = capsys.readouterr().out
    assert "device: cpu" in output
    for heading in ("epoch", "train loss", "held-out loss", "accuracy", "seconds"):
        assert heading in output
    result = result_of(tmp_path)
    assert (result["train_count"], result["count"]) == (10_396, 2000)
    assert f"accuracy {result['accuracy']:.4f} on 2,000 images ({result['correct']:,} correct)" in output
    assert "target accuracy 0.999 missed" in output
    assert json.loads((tmp_path / "config.json").read_text())["model"] == "linear"


@pytest.mark.slow
@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("seed", [0, 1])
def test_same_seed_gives_the_same_model_and_another_seed_another(run, tmp_path, seed):
    assert main(["train", "--epochs", "4", "--seed", str(seed), "--out", str(tmp_path)]) == 0
    same = (tmp_path / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()
    assert same == (seed == 0)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "stopped"
    assert train.main([*STOPPING, "--out", str(out)]) == 0
    return out


def test_early_stopping_keeps_the_best_epoch(stopped):
    losses = [float(row["valid_loss"]) for row in rows_of(stopped)]
    result = result_of(stopped)
    assert result["epoch"] == np.argmin(losses) + 1 == len(losses) - 2 < 38
    assert re.search("validation loss.* 2 epochs", result["stopped"])
    trained, held_out = load_run(stopped), read_data("mnist_sample", 2000)[0].valid
    assert float(evaluate(trained.learner, trained.params, held_out).loss) == min(losses) == result["loss"]


@pytest.mark.slow
@pytest.mark.usefixtures("no_pictures")
def test_resumed_early_stopping_is_that_of_the_unbroken_run(stopped, tmp_path):
    arguments = [*STOPPING, "--resume", str(tmp_path)]
    assert train.main([*arguments, "--epochs", "2"]) == 0
    for _ in range(2):  # and once more when it has stopped
        assert train.main(arguments) == 0
        assert (tmp_path / "model.safetensors").read_bytes() == (stopped / "model.safetensors").read_bytes()
        assert [row["valid_loss"] for row in rows_of(tmp_path)] == [row["valid_loss"] for row in rows_of(stopped)]


@pytest.mark.slow
@pytest.mark.usefixtures("no_pictures")
def test_all_options_together_are_kept_and_evaluate_gives_the_same_loss(tmp_path, capsys):
    arguments = ["--epochs", "2", "--clip-norm", "1", "--ema", "0.9", "--shift", "1", "--rotation", "5", "--bfloat16",
                 "--matmul-precision", "highest", "--unroll", "2"]  # fmt: skip
    assert main(["train", *arguments, "--out", str(tmp_path)]) == 0
    config = json.loads((tmp_path / "config.json").read_text())
    assert config.items() >= {"clip_norm": 1.0, "ema": 0.9, "shift": 1, "rotation": 5.0, "bfloat16": True}.items()
    assert (config["matmul_precision"], config["unroll"]) == ("highest", 2)
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path)]) == 0
    assert f"{result_of(tmp_path)['loss']:.4f}" in capsys.readouterr().out
    params = load_params(tmp_path / "model.safetensors", load_run(tmp_path).params)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(params)} == {"float32"}


def help_of(*words):
    code = [sys.executable, "-W", "error", "-m", "jax_mnist", *words, "--help"]
    environment = os.environ | {"COLUMNS": "110"}
    return subprocess.run(code, capture_output=True, text=True, check=True, env=environment).stdout


def test_help_fits_two_screens_and_names_each_preset_with_its_accuracy_and_time():
    text = help_of("train")
    assert len(text.splitlines()) <= 2 * 48
    words = " ".join(text.replace("│", " ").split())
    for name, summary in SUMMARIES.items():
        assert f"{name} {summary}" in words
    assert "Warning" not in text


@pytest.mark.slow
def test_help_of_a_preset_shows_its_values():
    words = " ".join(help_of("train", "mnist-cnn-augmented").replace("│", " ").split())
    for option, value in {"epochs INT": 12, "learning-rate FLOAT": 0.007, "betas FLOAT FLOAT": "0.7 0.9",
                          "filters [INT [INT ...]]": "24 64 96", "shift INT": 2, "seed INT": 0}.items():  # fmt: skip
        assert re.search(re.escape(f"--{option}") + r"[^(]*" + re.escape(f"(default: {value})"), words), option


ONE_THREAD = """
import os, sys
if sys.argv[1] == "one core":
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import jax
from jax_mnist.cli.console import use_one_thread
if sys.argv[1] == "deterministic":
    use_one_thread()
print(jax.numpy.sum(jax.random.normal(jax.random.key(0), (32, 60000))).tobytes().hex())
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot set the CPU affinity")
def test_deterministic_sums_are_those_of_one_core():
    sums = {
        way: subprocess.run([sys.executable, "-c", ONE_THREAD, way], capture_output=True, text=True, check=True).stdout
        for way in ("deterministic", "one core")
    }
    # With jax 0.10.2 two cores give another sum; 0.10.0 gives this one on any number of cores.
    assert sums["deterministic"] == sums["one core"]


BAD = {  # a pattern that the error message must contain: options, values and what is expected
    "must be a name": ["train", "--dataset", "nothing"],
    "--epochs must be 1 or more, got 0": ["train", "--epochs", "0"],
    "--target-accuracy must be in .* such as 0.98, got 98.0": ["train", "--target-accuracy", "98"],
    "cannot hold out 12396": ["train", "--hold-out", "12396"],
    "JAX finds no device for --platform gpu": ["train", "--platform", "gpu"],
    "--patience needs --hold-out": ["train", "--patience", "3"],
    "--patience must be 1 or more, got 0": ["train", "--patience", "0", "--hold-out", "2000"],
    "--patience and --seeds are mutually exclusive": ["train", "--seeds=2", "--patience=3", "--hold-out=2000"],
    "--seeds must be 1 or more, got 0": ["train", "--seeds", "0"],
    "--seed must be in 0..2147483647, got 9223372036854775808": ["train", "--seed", "9223372036854775808"],
    "--checkpoint-every must be 1 or more, got 0": ["train", "--checkpoint-every", "0"],
    "--resume a writes to that directory: leave out --out b": ["train", "--resume", "a", "--out", "b"],
    "--deterministic must be set before JAX is used": ["train", "--deterministic"],
    "lr_find needs --hold-out": ["lr_find"],
    "epochs.* 1 to 4.* 5": ["lr_find", "--hold-out", "2000", "--trial-epochs", "5"],
}


@pytest.mark.parametrize("message", BAD)
@pytest.mark.skipif(jax.default_backend() != "cpu", reason="one of them asks for a GPU, which must not be there")
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys, message):
    monkeypatch.chdir(tmp_path)
    assert main(BAD[message]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert re.search(message, error)
    assert error.count("\n") == 1


def test_bad_data_is_found_before_training_and_an_earlier_run_is_kept(run, tmp_path, capsys):
    write_directory(tmp_path, train_labels=np.array([1, 2], np.uint8))
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    assert main(["train", "--dataset", str(tmp_path), "--out", str(run)]) == 2
    assert "3 images and 2 labels" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


@pytest.mark.slow
def test_module_is_a_command():
    code = [sys.executable, "-W", "error", "-m", "jax_mnist", "train", "--platform", "tpu", "--epochs", "1"]
    ended = subprocess.run(code, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("error: JAX finds no device for --platform tpu")


@pytest.mark.slow
def test_lr_find_writes_and_prints_its_result(tmp_path, capsys):
    arguments = ["lr_find", "chapter-linear", "--hold-out", "2000", "--trial-epochs", "1", "--out", str(tmp_path)]
    assert main(arguments) == 0
    found = json.loads((tmp_path / "lr_find.json").read_text())
    assert len(found["rates"]) == len(found["losses"]) == 100
    assert found["suggestion"] == pytest.approx(found["rates"][int(np.argmin(found["losses"]))] / 3)
    assert f"suggestion: --learning-rate {found['suggestion']:.2g}: a third of" in capsys.readouterr().out
    with Image.open(tmp_path / "lr_find.png") as picture:
        assert min(picture.size) > 300
