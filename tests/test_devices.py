"""`train` on several devices and in several processes, and what is left when one of them dies."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from jax_mnist.cli import train

TRAIN = [sys.executable, "-W", "error", str(Path(__file__).parents[1] / "scripts" / "train.py"), "--platform", "cpu"]


def result(out):
    return json.loads((out / "result.json").read_text())


def assert_same_end(found, expected):
    ours, theirs = load_file(found / "model.safetensors"), load_file(expected / "model.safetensors")
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        np.testing.assert_allclose(ours[name], array, rtol=0, atol=1e-5)
    assert abs(result(found)["correct"] - result(expected)["correct"]) <= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--devices", "0"], "--devices must be 1 or more, not 0"),
        (["--devices", "100000"], "--devices must be 1 to 64 in each process, not 100000"),
        (["--coordinator", "localhost:1"], "--coordinator HOST:PORT, --process-id I and --num-processes N go together"),
        (["--processes", "2", "--distributed"], "three ways to the same"),
        (["--processes", "2", "--max-seconds", "5"], "--max-seconds is the clock of one process"),
    ],
    ids=lambda value: value[0].lstrip("-") if isinstance(value, list) else "",
)
def test_what_does_not_fit_together_is_said(tmp_path, capsys, options, message):
    assert train.main([*options, "--out", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_devices_come_before_all_else(tmp_path, capsys):
    jax.devices()
    assert train.main(["--devices", "2", "--out", str(tmp_path / "run")]) == 2
    assert "--devices must come before JAX is used" in capsys.readouterr().err


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    out = tmp_path_factory.mktemp("alone")
    assert train.main(["--epochs", "12", "--platform", "cpu", "--out", str(out)]) == 0
    return out


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "devices"), [(1, 3), (2, 2)])
def test_the_command_ends_as_on_one_device(alone, tmp_path, processes, devices):
    options = ["--epochs", "12", "--devices", str(devices), "--processes", str(processes), "--out", str(tmp_path)]
    subprocess.run([*TRAIN, *options], check=True)
    assert (result(tmp_path)["devices"], result(tmp_path)["processes"]) == (processes * devices, processes)
    assert_same_end(tmp_path, alone)


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_training(pid):
    return b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the processes in /proc")
@pytest.mark.parametrize("victim", [0, 1])
def test_one_of_two_dies_and_one_goes_on_alone(alone, tmp_path, victim):
    options = ["--epochs", "12", "--checkpoint-every", "1"]
    parent = subprocess.Popen(
        [*TRAIN, *options, "--processes", "2", "--out", str(tmp_path)], stderr=subprocess.PIPE, text=True
    )
    while not list(tmp_path.glob("checkpoint-*")):
        assert parent.poll() is None
        time.sleep(0.05)
    killed = time.monotonic()
    os.kill([pid for pid in children(parent.pid) if is_training(pid)][victim], signal.SIGKILL)
    _, errors = parent.communicate(timeout=60)
    assert time.monotonic() - killed < 60
    assert parent.returncode == 2
    assert "--resume goes on from the last checkpoint" in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "result.json").exists()

    subprocess.run([*TRAIN, *options, "--resume", str(tmp_path)], check=True)
    assert 1 <= result(tmp_path)["resumed_from"]["epoch"] < 12
    assert_same_end(tmp_path, alone)
