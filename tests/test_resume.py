"""Resuming: runs that are killed, checkpoints that are damaged, and a full disk."""

import csv
import hashlib
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.numpy

from jax_mnist.cli import train

SCRIPT = Path(__file__).parents[1] / "scripts" / "train.py"
RECIPE = ["--epochs", "6", "--batch-size", "1024", "--optimizer", "adam", "--ema", "0.9", "--shift", "1",
          "--platform", "cpu", "--checkpoint-every", "2"]  # fmt: skip


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "unbroken"
    assert train.main([*RECIPE, "--out", str(out)]) == 0
    return out


@pytest.fixture
def run(unbroken, tmp_path):
    """Return a copy of the run, with checkpoints 4 and 6, the last epoch's."""
    return Path(shutil.copytree(unbroken, tmp_path / "run"))


def model_of(path):
    return (path / "model.safetensors").read_bytes()


def history_of(path):
    rows = csv.DictReader((path / "history.csv").read_text().splitlines())
    return [{name: row[name] for name in ("epoch", "train_loss", "valid_loss", "accuracy")} for row in rows]


def checkpoints_of(path):
    return sorted(file.name for file in path.glob("*checkpoint*"))


def resumed(path, *more):
    return train.main([*RECIPE, "--resume", str(path), *more])


def test_two_newest_checkpoints_are_kept(unbroken):
    assert checkpoints_of(unbroken) == ["checkpoint-4.safetensors", "checkpoint-6.safetensors"]
    assert "resumed_from" not in json.loads((unbroken / "result.json").read_text())


def test_resumed_run_is_bit_identical(run, unbroken):
    (run / "checkpoint-6.safetensors").unlink()
    (run / ".checkpoint-6-half.safetensors").write_bytes(b"half")  # as a killed process leaves it
    assert resumed(run) == 0
    assert model_of(run) == model_of(unbroken)
    assert history_of(run) == history_of(unbroken)
    assert checkpoints_of(run) == checkpoints_of(unbroken)
    noted = json.loads((run / "result.json").read_text())["resumed_from"]
    assert (noted["checkpoint"], noted["epoch"]) == ("checkpoint-4.safetensors", 4)


def test_finished_run_only_writes_its_results(run, unbroken):
    for name in ("model.safetensors", "history.csv", "result.json", "config.json"):
        (run / name).unlink()
    assert resumed(run) == 0
    assert (model_of(run), history_of(run)) == (model_of(unbroken), history_of(unbroken))


def test_without_a_checkpoint_the_run_starts_from_the_beginning(tmp_path, unbroken, capsys):
    assert resumed(tmp_path / "new") == 0
    assert model_of(tmp_path / "new") == model_of(unbroken)
    assert "checkpoint: starting" in capsys.readouterr().out


def flip(data):
    offset = random.Random(0).randrange(len(data))
    return data[:offset] + bytes([data[offset] ^ 4]) + data[offset + 1 :]


def of_tomorrow(data):
    """Return a complete checkpoint of an unknown format, with its correct checksum."""
    data = data.replace(b'"format":"jax_mnist checkpoint 2"', b'"format":"of tomorrow"           ')
    digest = re.search(rb'"sha256":"(.{64})"', data)[1]
    return data.replace(digest, hashlib.sha256(data.replace(digest, b"0" * 64)).hexdigest().encode())


DAMAGE = {  # a pattern that the output must contain
    r"checkpoint-6\.safetensors.* damaged": flip,
    r"checkpoint-6\.safetensors.*checksum": lambda data: data[:-1],
    r"(no|not a) checkpoint": lambda data: b"",
    r"(no|not a) checkpoint.*": lambda data: b"no safetensors at all",
    r"no checksum": lambda data: safetensors.numpy.save(safetensors.numpy.load(data)),
    r"'jax_mnist checkpoint 2'.*'of tomorrow'": of_tomorrow,
}


@pytest.mark.parametrize("message", DAMAGE)
def test_damaged_checkpoint_is_refused_and_the_previous_one_used(run, unbroken, capsys, message):
    newest = run / "checkpoint-6.safetensors"
    newest.write_bytes(DAMAGE[message](newest.read_bytes()))
    assert resumed(run) == 0
    output = capsys.readouterr().out
    assert re.search(message, output)
    assert "checkpoint-4.safetensors: 4 of 6 epochs are done" in output
    assert model_of(run) == model_of(unbroken)


OTHER = {  # a pattern that the error message must contain
    "model mlp, .*linear": ["--model", "linear"],
    r"hidden \[30\], .*\[20\]": ["--hidden", "20"],
    "optimizer adam, .*momentum": ["--optimizer", "momentum"],
    r"learning_rate 0\.001, .*0\.1": ["--learning-rate", "0.1"],
    "hold_out 0, .*2000": ["--hold-out", "2000"],
    "seed 0, .*1": ["--seed", "1"],
    "schedule constant, .*cosine": ["--schedule", "cosine"],
    "dataset mnist_sample, .*mnist": ["--dataset", "mnist"],
    "6 epochs.*--epochs .*5": ["--epochs", "5"],
}


@pytest.mark.parametrize("difference", OTHER)
def test_different_settings_are_refused_and_named(unbroken, capsys, difference):
    before = {path.name: path.read_bytes() for path in unbroken.iterdir()}
    assert resumed(unbroken, *OTHER[difference]) == 2
    assert re.search(difference, capsys.readouterr().err)
    assert {path.name: path.read_bytes() for path in unbroken.iterdir()} == before


def test_run_resumed_with_more_epochs_is_the_longer_run(run, tmp_path):
    assert resumed(run, "--epochs", "8") == 0
    assert train.main([*RECIPE, "--epochs", "8", "--out", str(tmp_path / "long")]) == 0
    assert model_of(run) == model_of(tmp_path / "long")


def test_new_run_deletes_the_checkpoints_of_the_old_one(run):
    assert train.main([*RECIPE, "--epochs", "3", "--out", str(run)]) == 0
    assert checkpoints_of(run) == ["checkpoint-2.safetensors", "checkpoint-3.safetensors"]


def test_full_disk_loses_nothing(run, unbroken, capsys):
    """A limit on the file size simulates it: the system refuses to write in the middle of a file."""
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))
    try:
        assert resumed(run, "--epochs", "8") == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    error = capsys.readouterr().err
    assert re.search("cannot (be written|write)", error)
    assert "checkpoint-8.safetensors" in error
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_read_only_directory_is_refused_before_training(run, capsys):
    before = {path.name: path.read_bytes() for path in run.iterdir()}
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
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def start(out, recipe):
    code = [sys.executable, str(SCRIPT), *recipe, "--platform", "cpu", "--resume", str(out)]
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


@pytest.mark.parametrize("kills", [2, pytest.param(30, marks=pytest.mark.slow)])
def test_run_killed_at_random_moments_and_resumed_is_bit_identical(tmp_path, kills):
    epochs = 30 if kills < 5 else 150
    recipe = ["--epochs", str(epochs), "--optimizer", "momentum", "--shift", "1", "--checkpoint-every", "1"]
    assert start(tmp_path / "unbroken", recipe).wait() == 0
    chance = random.Random(kills)
    runs = 0
    while kills:
        runs += 1
        out = tmp_path / str(runs)
        # Kill at random epochs, each at a random moment: while the next one trains or a checkpoint is written.
        for epoch in sorted(chance.sample(range(1, epochs), min(kills, 5))):
            kills -= kill_in(start(out, recipe), out, epoch, chance.uniform(0, 0.05))
            assert whole_checkpoints(out)
        assert start(out, recipe).wait() == 0
        assert "resumed_from" in json.loads((out / "result.json").read_text())
        assert model_of(out) == model_of(tmp_path / "unbroken")
        assert history_of(out) == history_of(tmp_path / "unbroken")
        assert checkpoints_of(out) == [f"checkpoint-{epochs - 1}.safetensors", f"checkpoint-{epochs}.safetensors"]
