"""`train` on several devices and in several processes, and what happens when one of them dies."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from launcher import started
from safetensors.numpy import load_file

from jax_mnist.cli import train

TRAIN = [sys.executable, "-W", "error", str(Path(__file__).parents[1] / "scripts" / "train.py"), "--platform", "cpu"]
# Epochs so long that a process can be killed before the last one ends.
OPTIONS = ["--epochs", "4", "--hidden", "600"]


def result(out):
    return json.loads((out / "result.json").read_text())


def assert_same_result(found, expected):
    ours, theirs = load_file(found / "model.safetensors"), load_file(expected / "model.safetensors")
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        np.testing.assert_allclose(ours[name], array, rtol=0, atol=1e-5)
    assert abs(result(found)["correct"] - result(expected)["correct"]) <= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--devices", "0"], "--devices must be 1 or more, got 0"),
        (["--devices", "100000"], "--devices must be in 1..64 per process, got 100000"),
        (["--coordinator", "localhost:1"], "--process-id I and --num-processes N must be given together"),
        (
            ["--coordinator", "localhost", "--process-id", "0", "--num-processes", "2"],
            "--coordinator must be HOST:PORT, such as localhost:1234, got localhost",
        ),
        (["--num-processes", "0"], "--num-processes must be 1 or more, got 0"),
        (
            ["--coordinator", "localhost:1", "--process-id", "2", "--num-processes", "2"],
            "--process-id must be in 0..1, got 2",
        ),
        (
            ["--coordinator", "localhost:1", "--process-id", "0", "--num-processes", "2", "--distributed"],
            "--coordinator and --distributed are mutually exclusive",
        ),
    ],
    ids=["no devices", "too many devices", "incomplete", "no port", "no processes", "no such process", "two ways"],
)
def test_options_that_do_not_go_together_are_refused(tmp_path, capsys, options, message):
    assert train.main([*options, "--out", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_distributed_outside_a_job_names_the_option(tmp_path):
    ended = subprocess.run([*TRAIN, "--distributed", "--out", tmp_path / "run"], capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].startswith("error: --distributed must run in a job of Slurm, Open MPI")
    assert "Traceback" not in ended.stderr


def test_devices_must_be_set_before_jax_is_used(tmp_path, capsys):
    jax.devices()
    assert train.main(["--devices", "2", "--out", str(tmp_path / "run")]) == 2
    assert "--devices must be set before JAX is used" in capsys.readouterr().err


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    out = tmp_path_factory.mktemp("alone")
    assert train.main([*OPTIONS, "--platform", "cpu", "--out", str(out)]) == 0
    return out


@pytest.mark.slow
def test_run_of_two_processes_is_that_of_one(alone, tmp_path):
    with started([*TRAIN, *OPTIONS, "--devices", "2", "--out", str(tmp_path)], 2) as processes:
        ended = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], ended
    assert (result(tmp_path)["devices"], result(tmp_path)["processes"]) == (4, 2)
    assert_same_result(tmp_path, alone)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_other_process_ends_when_one_is_killed_and_the_run_resumes(alone, tmp_path, victim):
    options = [*OPTIONS, "--checkpoint-every", "1"]
    with started([*TRAIN, *options, "--out", str(tmp_path)], 2) as processes:
        while not list(tmp_path.glob("checkpoint-*")):
            assert all(process.poll() is None for process in processes)
            time.sleep(0.05)
        processes[victim].send_signal(signal.SIGKILL)
        survivor = processes[1 - victim]
        _, errors = survivor.communicate(timeout=60)  # seconds after the kill
    assert survivor.returncode == 2
    error = errors.splitlines()[-1]  # JAX's own log may come before it
    assert error.startswith("error: another process has ended or cannot be reached")
    assert "--resume continues from the last checkpoint" in error
    assert "Traceback" not in errors
    assert not (tmp_path / "result.json").exists()

    subprocess.run([*TRAIN, *options, "--resume", str(tmp_path)], check=True)
    assert 1 <= result(tmp_path)["resumed_from"]["epoch"] < 4
    assert_same_result(tmp_path, alone)
