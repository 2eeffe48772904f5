"""Options of `train` beyond the plain run: early stopping, limits, one thread; and the command `lr_find`."""

import csv
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from jax_mnist import evaluate, load_params
from jax_mnist.__main__ import main
from jax_mnist.cli import train
from jax_mnist.cli.recipes import read_data
from jax_mnist.cli.runs import load_run

STOPPING = ["--epochs", "40", "--learning-rate", "4", "--hold-out", "2000", "--patience", "2"]


def rows_of(out):
    return list(csv.DictReader((out / "history.csv").read_text().splitlines()))


def result_of(out):
    return json.loads((out / "result.json").read_text())


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "stopped"
    assert train.main([*STOPPING, "--out", str(out)]) == 0
    return out


def test_early_stopping_keeps_the_best_epoch(stopped, capsys):
    losses = [float(row["valid_loss"]) for row in rows_of(stopped)]
    result = result_of(stopped)
    assert result["epoch"] == np.argmin(losses) + 1 == len(losses) - 2 < 38
    assert re.search("validation loss.* 2 epochs", result["stopped"])
    trained, held_out = load_run(stopped), read_data("mnist_sample", 2000)[0].valid
    assert float(evaluate(trained.learner, trained.params, held_out).loss) == min(losses) == result["loss"]


def test_resumed_early_stopping_is_that_of_the_unbroken_run(stopped, tmp_path):
    arguments = [*STOPPING, "--resume", str(tmp_path)]
    assert train.main([*arguments, "--epochs", "2"]) == 0
    for _ in range(2):  # and once more when it has stopped
        assert train.main(arguments) == 0
        assert (tmp_path / "model.safetensors").read_bytes() == (stopped / "model.safetensors").read_bytes()
        assert [row["valid_loss"] for row in rows_of(tmp_path)] == [row["valid_loss"] for row in rows_of(stopped)]


def test_time_limit_stops_and_can_be_lifted(tmp_path):
    arguments = ["--model", "linear", "--epochs", "3", "--resume", str(tmp_path)]
    assert train.main([*arguments, "--max-seconds", "1e-9"]) == 0
    assert len(rows_of(tmp_path)) == 1
    assert "1e-09 s" in result_of(tmp_path)["stopped"]
    assert train.main(arguments) == 0
    assert len(rows_of(tmp_path)) == 3
    assert "stopped" not in result_of(tmp_path)


def test_all_options_together_are_kept_and_evaluate_gives_the_same_loss(tmp_path, capsys):
    arguments = ["--epochs", "2", "--clip-norm", "1", "--ema", "0.9", "--shift", "1", "--rotation", "5", "--bfloat16"]
    assert main(["train", *arguments, "--out", str(tmp_path)]) == 0
    config = json.loads((tmp_path / "config.json").read_text())
    assert config.items() >= {"clip_norm": 1.0, "ema": 0.9, "shift": 1, "rotation": 5.0, "bfloat16": True}.items()
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path)]) == 0
    assert f"{result_of(tmp_path)['loss']:.4f}" in capsys.readouterr().out
    like = load_run(tmp_path).params
    assert {str(leaf.dtype) for layer in load_params(tmp_path / "model.safetensors", like) for leaf in layer} == {
        "float32"
    }


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


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot set the CPU affinity")
def test_deterministic_sums_are_those_of_one_core():
    sums = {
        way: subprocess.run([sys.executable, "-c", ONE_THREAD, way], capture_output=True, text=True, check=True).stdout
        for way in ("deterministic", "one core")
    }
    # With jax 0.10.2 two cores give another sum; 0.10.0 gives this one on any number of cores.
    assert sums["deterministic"] == sums["one core"]


BAD = {  # a pattern that the error message must contain: options, values and a key word
    "--patience .*--hold-out": ["train", "--patience", "3"],
    "--patience .* 0": ["train", "--patience", "0", "--hold-out", "2000"],
    "--seeds .*--patience .*--max-seconds": ["train", "--seeds", "2", "--max-seconds", "3"],
    r"--max-seconds .* 0\.0": ["train", "--max-seconds", "0"],
    "--checkpoint-every .* 0": ["train", "--checkpoint-every", "0"],
    "--resume a .*--out b": ["train", "--resume", "a", "--out", "b"],
    r"--clip-norm .* -1\.0": ["train", "--clip-norm", "-1"],
    r"--ema .*\(0, 1\).* 1\.0": ["train", "--ema", "1"],
    r"--shift .*0\.\.27 .* 28": ["train", "--shift", "28"],
    r"--rotation .*\[0, 180\] .* -1\.0": ["train", "--rotation", "-1"],
    "--deterministic .*JAX": ["train", "--deterministic"],
    "lr_find .*--hold-out": ["lr_find"],
    "epochs.* 1 to 4.* 5": ["lr_find", "--hold-out", "2000", "--epochs", "5"],
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys, message):
    monkeypatch.chdir(tmp_path)
    assert main(BAD[message]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert error.count("\n") == 1


def test_lr_find_writes_and_prints_its_result(tmp_path, capsys):
    arguments = ["lr_find", "--model", "linear", "--hold-out", "2000", "--epochs", "1", "--out", str(tmp_path)]
    assert main(arguments) == 0
    found = json.loads((tmp_path / "lr_find.json").read_text())
    assert len(found["rates"]) == len(found["losses"]) == 100
    assert found["suggestion"] == pytest.approx(found["rates"][int(np.argmin(found["losses"]))] / 3)
    assert f"suggestion: --learning-rate {found['suggestion']:.2g}: a third of" in capsys.readouterr().out
    with Image.open(tmp_path / "lr_find.png") as picture:
        assert min(picture.size) > 300
