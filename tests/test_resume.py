"""Resuming: runs that are interrupted or killed, and a directory that cannot be written."""

import csv
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from jax_mnist.cli import train

SCRIPT = Path(__file__).parents[1] / "scripts" / "train.py"
RUN = ["--epochs", "6", "--batch-size", "1024", "--optimizer", "adam", "--learning-rate", "0.001", "--ema", "0.9",
       "--shift", "1", "--platform", "cpu", "--checkpoint-every", "2"]  # fmt: skip


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "unbroken"
    assert train.main([*RUN, "--out", str(out)]) == 0
    return out


@pytest.fixture
def run(unbroken, tmp_path, monkeypatch):
    """Return a copy of the run, with checkpoints 4 and 6, the last epoch's."""
    monkeypatch.setattr(train, "draw_run", lambda *_: None)  # no test here looks at the pictures
    return Path(shutil.copytree(unbroken, tmp_path / "run"))


def model_of(path):
    return (path / "model.safetensors").read_bytes()


def history_of(path):
    rows = csv.DictReader((path / "history.csv").read_text().splitlines())
    return [{name: row[name] for name in ("epoch", "train_loss", "valid_loss", "accuracy")} for row in rows]


def checkpoints_of(path):
    return sorted(file.name for file in path.glob("*checkpoint*"))


def contents_of(path):
    return {file.name: file.read_bytes() for file in path.iterdir()}


def resumed(path, *more):
    return train.main([*RUN, "--resume", str(path), *more])


def test_resumed_run_is_bit_identical(run, unbroken, capsys):
    assert "resumed_from" not in json.loads((run / "result.json").read_text())
    (run / "checkpoint-6.safetensors").unlink()
    assert resumed(run) == 0
    assert "checkpoint-4.safetensors: 4 epochs finished" in capsys.readouterr().out
    assert model_of(run) == model_of(unbroken)
    assert history_of(run) == history_of(unbroken)
    assert checkpoints_of(run) == checkpoints_of(unbroken) == ["checkpoint-4.safetensors", "checkpoint-6.safetensors"]
    noted = json.loads((run / "result.json").read_text())["resumed_from"]
    assert (noted["checkpoint"], noted["epoch"]) == ("checkpoint-4.safetensors", 4)


@pytest.mark.slow
def test_finished_run_only_writes_its_results(run, unbroken):
    for name in ("model.safetensors", "history.csv", "result.json", "config.json"):
        (run / name).unlink()
    assert resumed(run) == 0
    assert (model_of(run), history_of(run)) == (model_of(unbroken), history_of(unbroken))


def test_different_settings_are_refused_and_nothing_is_written(run, capsys):
    before = contents_of(run)
    for options, message in ((["--learning-rate", "0.1"], r"learning_rate 0\.001, not 0\.1"),
                             (["--epochs", "5"], "already trained 6 epochs; --epochs is 5")):  # fmt: skip
        assert resumed(run, *options) == 2
        assert re.search(message, capsys.readouterr().err)
        assert contents_of(run) == before


def test_refusal_names_the_way_to_go_on_with_other_settings(run, capsys):
    assert resumed(run, "--learning-rate", "0.1") == 2
    assert f"; --init {run} with another --out starts a new run from its parameters" in capsys.readouterr().err


ONE_MORE = ["--epochs", "1", "--learning-rate", "1e-12", "--batch-size", "1024", "--platform", "cpu"]


def test_new_run_starts_from_the_parameters_of_another(run, tmp_path, capsys):
    out = ["--out", str(tmp_path / "new")]
    assert train.main([*ONE_MORE, "--init", str(run), *out]) == 0
    assert f"starting from {run}/model.safetensors" in capsys.readouterr().out
    last = [float(history_of(path)[-1]["valid_loss"]) for path in (run, tmp_path / "new")]
    assert last[0] == pytest.approx(last[1], rel=1e-6)
    # Resumed, it is known by the parameters that it started from.
    again = ["--resume", str(tmp_path / "new")]
    assert train.main([*ONE_MORE, *again]) == 2
    assert "init_sha256" in capsys.readouterr().err
    assert train.main([*ONE_MORE, *again, "--init", str(run)]) == 0


@pytest.mark.slow
def test_seeds_start_from_the_same_parameters(run, tmp_path):
    assert train.main([*ONE_MORE, "--seeds", "3", "--init", str(run), "--out", str(tmp_path / "new")]) == 0
    result = json.loads((tmp_path / "new" / "result.json").read_text())
    assert set(result["accuracies"]) == {float(history_of(run)[-1]["accuracy"])}


@pytest.mark.parametrize("has_older_model", [False, True])
@pytest.mark.slow
def test_of_a_run_that_has_not_ended_the_newest_checkpoint_is_taken(run, tmp_path, capsys, has_older_model):
    if has_older_model:  # of an earlier run in the same directory
        os.utime(run / "model.safetensors", (0, 0))
    else:
        (run / "model.safetensors").unlink()
    last = safetensors.numpy.load_file(run / "checkpoint-6.safetensors")["last.params.0.weights"]
    for init in (run, run / "checkpoint-6.safetensors"):
        assert train.main([*ONE_MORE, "--init", str(init), "--out", str(tmp_path / "new")]) == 0
        assert f"starting from {run}/checkpoint-6.safetensors" in capsys.readouterr().out
        saved = safetensors.numpy.load_file(tmp_path / "new" / "model.safetensors")["0.weights"]
        np.testing.assert_allclose(saved, last, atol=1e-7)
    data = bytearray((run / "checkpoint-6.safetensors").read_bytes())
    data[-9] ^= 1
    (run / "checkpoint-6.safetensors").write_bytes(data)
    assert train.main([*ONE_MORE, "--init", str(run), "--out", str(tmp_path / "new")]) == 2
    assert "checkpoint-6.safetensors: is damaged (checksum mismatch)" in capsys.readouterr().err


def test_parameters_to_start_from_that_do_not_fit_are_refused(run, tmp_path, capsys):
    before = contents_of(run)
    for options, message in (([run, "--hidden", "20"], r"model\.safetensors: 0\.weights must be .*\[784, 20\]"),
                             ([tmp_path / "none"], r"none/model\.safetensors: there is no such file"),
                             ([run, "--out", run], r"--init .* must not be in .*give another --out")):  # fmt: skip
        assert train.main([*ONE_MORE, "--out", str(tmp_path / "new"), "--init", *map(str, options)]) == 2
        assert re.search(message, capsys.readouterr().err)
    assert contents_of(run) == before


@pytest.mark.slow
def test_run_resumed_with_more_epochs_is_the_longer_run(run, tmp_path, unbroken, capsys):
    assert resumed(run, "--epochs", "8") == 0
    assert train.main([*RUN, "--epochs", "8", "--resume", str(tmp_path / "long")]) == 0
    assert "no valid checkpoint: starting from the beginning" in capsys.readouterr().out
    assert model_of(run) == model_of(tmp_path / "long")
    assert history_of(run)[:6] == history_of(unbroken)


def test_read_only_directory_is_refused_before_training(run, capsys):
    before = contents_of(run)
    run.chmod(0o500)
    user = os.geteuid()
    for directory in run.parents:  # let another user reach the run
        if directory.stat().st_uid == user and directory.is_relative_to("/tmp"):
            directory.chmod(directory.stat().st_mode | 0o011)
    os.seteuid(user or 65534)  # root may write anywhere
    try:
        assert resumed(run) == 2
    finally:
        os.seteuid(user)
        run.chmod(0o700)
    error = capsys.readouterr().err
    assert "Permission denied" in error
    assert str(run) in error
    assert contents_of(run) == before


def start(out, options):
    code = [sys.executable, str(SCRIPT), *options, "--platform", "cpu", "--resume", str(out)]
    with out.with_suffix(".log").open("a") as log:
        return subprocess.Popen(code, stdout=log, stderr=log)


def whole_checkpoints(out):
    """Return the checkpoints after reading each; a half-written one raises."""
    return [file for file in out.glob("checkpoint-*.safetensors") if safetensors.numpy.load_file(file)]


def kill_in(process, out, epoch, delay):
    """Kill it a moment after it has written that epoch or a later one; return False if it ended by itself."""
    while process.poll() is None:
        if any(int(file.stem[11:]) >= epoch for file in out.glob("checkpoint-*.safetensors")):
            time.sleep(delay)
            break
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    return process.wait() != 0


@pytest.mark.slow
@pytest.mark.parametrize("kills", [2, pytest.param(30, marks=pytest.mark.soak)])
def test_run_killed_at_random_moments_and_resumed_is_bit_identical(tmp_path, kills):
    epochs = 30 if kills < 5 else 150
    options = ["--epochs", str(epochs), "--optimizer", "momentum", "--learning-rate", "0.01", "--shift", "1",
               "--checkpoint-every", "1"]  # fmt: skip
    assert start(tmp_path / "unbroken", options).wait() == 0
    chance = random.Random(kills)
    runs = 0
    while kills:
        runs += 1
        out = tmp_path / str(runs)
        # Kill at random epochs, each at a random moment: while the next one trains or a checkpoint is written.
        for epoch in sorted(chance.sample(range(1, epochs), min(kills, 5))):
            kills -= kill_in(start(out, options), out, epoch, chance.uniform(0, 0.05))
            assert whole_checkpoints(out)
        assert start(out, options).wait() == 0
        assert "resumed_from" in json.loads((out / "result.json").read_text())
        assert model_of(out) == model_of(tmp_path / "unbroken")
        assert history_of(out) == history_of(tmp_path / "unbroken")
        assert checkpoints_of(out) == [f"checkpoint-{epochs - 1}.safetensors", f"checkpoint-{epochs}.safetensors"]
