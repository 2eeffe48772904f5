"""Runs that are killed, damaged or short of disk, and what comes out of them."""

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
    """A copy of the run: checkpoints 4 and 6, the second of the end."""
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


def test_the_newest_two_are_kept(unbroken):
    assert checkpoints_of(unbroken) == ["checkpoint-4.safetensors", "checkpoint-6.safetensors"]
    assert "resumed_from" not in json.loads((unbroken / "result.json").read_text())


def test_a_resumed_run_ends_as_the_unbroken_one(run, unbroken):
    (run / "checkpoint-6.safetensors").unlink()
    (run / ".checkpoint-6-half.safetensors").write_bytes(b"half")  # as a kill leaves it
    assert resumed(run) == 0
    assert model_of(run) == model_of(unbroken)
    assert history_of(run) == history_of(unbroken)
    assert checkpoints_of(run) == checkpoints_of(unbroken)
    noted = json.loads((run / "result.json").read_text())["resumed_from"]
    assert (noted["checkpoint"], noted["epoch"]) == ("checkpoint-4.safetensors", 4)


def test_a_run_that_had_ended_only_writes_its_results(run, unbroken):
    for name in ("model.safetensors", "history.csv", "result.json", "config.json"):
        (run / name).unlink()
    assert resumed(run) == 0
    assert (model_of(run), history_of(run)) == (model_of(unbroken), history_of(unbroken))


def test_without_a_checkpoint_it_starts(tmp_path, unbroken, capsys):
    assert resumed(tmp_path / "new") == 0
    assert model_of(tmp_path / "new") == model_of(unbroken)
    assert "no good checkpoint: starting at the beginning" in capsys.readouterr().out


def flip(data):
    place = random.Random(0).randrange(len(data))
    return data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]


def of_tomorrow(data):
    """A whole checkpoint of another format, with a checksum that is right."""
    data = data.replace(b'"format":"jax_mnist checkpoint 1"', b'"format":"of tomorrow"           ')
    digest = re.search(rb'"sha256":"(.{64})"', data)[1]
    return data.replace(digest, hashlib.sha256(data.replace(digest, b"0" * 64)).hexdigest().encode())


DAMAGE = {
    "is damaged": flip,
    "is damaged: its contents": lambda data: data[:-1],
    "is no checkpoint, or a damaged one": lambda data: b"",
    "or a damaged one": lambda data: b"no safetensors at all",
    "it has no checksum": lambda data: safetensors.numpy.save(safetensors.numpy.load(data)),
    "has the format 'of tomorrow'; expected 'jax_mnist checkpoint 1'": of_tomorrow,
}


@pytest.mark.parametrize("message", DAMAGE)
def test_a_damaged_checkpoint_is_refused_and_the_last_good_one_used(run, unbroken, capsys, message):
    newest = run / "checkpoint-6.safetensors"
    newest.write_bytes(DAMAGE[message](newest.read_bytes()))
    assert resumed(run) == 0
    output = capsys.readouterr().out
    assert message in output
    assert "checkpoint-4.safetensors: 4 of 6 epochs are done" in output
    assert model_of(run) == model_of(unbroken)


OTHER = {
    "model mlp, not linear": ["--model", "linear"],
    "hidden [30], not [20]": ["--hidden", "20"],
    "optimizer adam, not momentum": ["--optimizer", "momentum"],
    "learning_rate 0.001, not 0.1": ["--learning-rate", "0.1"],
    "hold_out 0, not 2000": ["--hold-out", "2000"],
    "seed 0, not 1": ["--seed", "1"],
    "schedule constant, not cosine": ["--schedule", "cosine"],
    "dataset mnist_sample, not mnist": ["--dataset", "mnist"],
    "has 6 epochs behind it, more than --epochs 5": ["--epochs", "5"],
}


@pytest.mark.parametrize("difference", OTHER)
def test_other_settings_are_refused_and_named(unbroken, capsys, difference):
    before = {path.name: path.read_bytes() for path in unbroken.iterdir()}
    assert resumed(unbroken, *OTHER[difference]) == 2
    assert difference in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in unbroken.iterdir()} == before


def test_more_epochs_are_the_longer_run(run, tmp_path):
    assert resumed(run, "--epochs", "8") == 0
    assert train.main([*RECIPE, "--epochs", "8", "--out", str(tmp_path / "long")]) == 0
    assert model_of(run) == model_of(tmp_path / "long")


def test_a_new_run_takes_the_place_of_the_old_ones_checkpoints(run):
    assert train.main([*RECIPE, "--epochs", "3", "--out", str(run)]) == 0
    assert checkpoints_of(run) == ["checkpoint-2.safetensors", "checkpoint-3.safetensors"]


def test_a_full_disk_loses_nothing(run, unbroken, capsys):
    """A limit on the size of files stands for it: the system refuses to write on in the middle of one."""
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))
    try:
        assert resumed(run, "--epochs", "8") == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    error = capsys.readouterr().err
    assert "cannot be written" in error
    assert "checkpoint-8.safetensors" in error
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_a_read_only_directory_is_refused_before_training(run, capsys):
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    run.chmod(0o500)
    user = os.geteuid()
    for directory in run.parents:  # let another user come this far
        if directory.stat().st_uid == user and directory.is_relative_to("/tmp"):
            directory.chmod(directory.stat().st_mode | 0o011)
    os.seteuid(user or 65534)  # root may write everywhere
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
    """What a reader finds: it raises for a file that is half written."""
    return [file for file in out.glob("checkpoint-*.safetensors") if safetensors.numpy.load_file(file)]


def kill_in(process, out, epoch, delay):
    """Kill it a moment after it has written that epoch or a later one; False where it has ended by itself."""
    while process.poll() is None:
        if any(int(file.stem[11:]) >= epoch for file in out.glob("checkpoint-*.safetensors")):
            time.sleep(delay)
            break
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    return process.wait() != 0


@pytest.mark.parametrize("kills", [2, pytest.param(30, marks=pytest.mark.slow)])
def test_killed_at_random_moments_and_resumed_it_ends_as_the_unbroken_run(tmp_path, kills):
    epochs = 30 if kills < 5 else 150
    recipe = ["--epochs", str(epochs), "--optimizer", "momentum", "--shift", "1", "--checkpoint-every", "1"]
    assert start(tmp_path / "unbroken", recipe).wait() == 0
    chance = random.Random(kills)
    runs = 0
    while kills:
        runs += 1
        out = tmp_path / str(runs)
        # At random epochs, and there at a random moment: while the next one trains, or a checkpoint is written.
        for epoch in sorted(chance.sample(range(1, epochs), min(kills, 5))):
            kills -= kill_in(start(out, recipe), out, epoch, chance.uniform(0, 0.05))
            assert whole_checkpoints(out)
        assert start(out, recipe).wait() == 0
        assert "resumed_from" in json.loads((out / "result.json").read_text())
        assert model_of(out) == model_of(tmp_path / "unbroken")
        assert history_of(out) == history_of(tmp_path / "unbroken")
        assert checkpoints_of(out) == [f"checkpoint-{epochs - 1}.safetensors", f"checkpoint-{epochs}.safetensors"]
