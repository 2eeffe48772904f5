"""`train --distributed` in two processes of Slurm and of Open MPI; the commands are those of docs/distributed.md.

The tests of Slurm use only the cluster that `.ci/slurm start` makes, never another one that this machine belongs to.
"""

import contextlib
import csv
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

ROOT = Path(__file__).parents[1]
SLURM_CONF = Path("/run/jax_mnist-slurm/slurm.conf")
PAGE = (ROOT / "docs/distributed.md").read_text(encoding="utf-8")
EPOCHS = 6
OPTIONS = ["--platform", "cpu", "--epochs", str(EPOCHS)]
ENVIRONMENT = os.environ | {
    "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    "PYTHONWARNINGS": "error",
    "JAX_ENABLE_X64": "1",
    "SLURM_CONF": str(SLURM_CONF),
    # Open MPI starts no more processes than there are cores, and none as root, unless told to.
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
}

pytestmark = pytest.mark.slow


def called(*command):
    process = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


def result(run):
    return json.loads((run / "result.json").read_text())


def history(run):
    rows = csv.DictReader((run / "history.csv").read_text().splitlines())
    return [{name: row[name] for name in ("epoch", "train_loss", "valid_loss", "accuracy")} for row in rows]


def assert_same_result(found, expected):
    ours, theirs = load_file(found / "model.safetensors"), load_file(expected / "model.safetensors")
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        assert array.dtype == np.float64
        np.testing.assert_allclose(ours[name], array, rtol=0, atol=1e-10)
    assert result(found)["processes"] == 2
    assert result(found)["loss"] == pytest.approx(result(expected)["loss"], rel=1e-5)
    assert abs(result(found)["correct"] - result(expected)["correct"]) <= 1


def assert_same_bits(found, expected):
    assert (found / "model.safetensors").read_bytes() == (expected / "model.safetensors").read_bytes()
    assert history(found) == history(expected)


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    out = tmp_path_factory.mktemp("one_process")
    called("python", "scripts/train.py", *OPTIONS, "--out", str(out))
    return out


def test_two_processes_of_open_mpi_train_as_one(one_process, tmp_path):
    if shutil.which("mpirun") is None:
        pytest.skip("no mpirun")
    if int(re.search(r"\d+", called("mpirun", "--version"))[0]) > 4:
        pytest.skip("JAX does not recognize Open MPI 5")
    (command,) = re.findall(r"^ +(mpirun -np 2 python .*)$", PAGE, re.MULTILINE)
    called(*shlex.split(command), *OPTIONS, "--out", str(tmp_path))
    assert_same_result(tmp_path, one_process)


@pytest.fixture(scope="module")
def batch_script(tmp_path_factory):
    if shutil.which("sinfo") is None or not SLURM_CONF.exists():
        pytest.skip("Slurm is not running: `.ci/slurm start`, as root, starts it")
    assert called("sinfo", "--noheader", "--format=%t").split() == ["idle"]
    (script,) = re.findall(r"```bash\n(#!/bin/bash\n.*?)```", PAGE, re.DOTALL)
    path = tmp_path_factory.mktemp("slurm") / "train.sh"
    path.write_text(script)
    return str(path)


@contextlib.contextmanager
def submitted(batch_script, run, *options):
    """Submit the batch script, and cancel the job when the block ends."""
    ENVIRONMENT["RUN"] = str(run)
    log = f"--output={run.with_suffix('.log')}"
    job = called("sbatch", "--parsable", log, batch_script, *OPTIONS, *options).strip()
    try:
        yield job
    finally:
        called("scancel", job)


def wait_until(condition, job, run, seconds):
    """Wait until the job's fields, as `scontrol show job` names them, meet a condition."""
    deadline = time.monotonic() + seconds
    while True:
        shown = called("scontrol", "--oneliner", "show", "job", job)
        fields = dict(field.split("=", 1) for field in shown.split() if "=" in field)
        if condition(fields):
            return
        log = run.with_suffix(".log")
        assert time.monotonic() < deadline, shown + (log.read_text() if log.exists() else "")
        assert fields["JobState"] not in ("FAILED", "TIMEOUT", "CANCELLED"), shown + log.read_text()
        time.sleep(0.1)


def is_completed(fields):
    return fields["JobState"] == "COMPLETED"


@pytest.fixture(scope="module")
def unbroken(batch_script, tmp_path_factory):
    run = tmp_path_factory.mktemp("unbroken") / "run"
    with submitted(batch_script, run) as job:
        wait_until(is_completed, job, run, seconds=120)
    return run


def test_two_tasks_of_slurm_train_as_one_process(unbroken, one_process):
    assert_same_result(unbroken, one_process)
    assert "resumed_from" not in result(unbroken)


def test_killed_task_ends_the_other_and_the_requeued_job_is_bit_identical(batch_script, unbroken, tmp_path):
    run = tmp_path / "run"
    with submitted(batch_script, run, "--checkpoint-every", "1") as job:
        wait_until(lambda fields: list(run.glob("checkpoint-*")), job, run, seconds=120)
        pids = [line.split() for line in called("scontrol", "listpids", f"{job}.0").splitlines()]
        (victim,) = [int(pid) for pid, _, _, _, task in pids if task == "1"]
        os.kill(victim, signal.SIGKILL)
        # The batch script requeues the job when both tasks have ended.
        wait_until(lambda fields: fields["Restarts"] == "1", job, run, seconds=60)
        assert "error: another process has ended or cannot be reached" in run.with_suffix(".log").read_text()
        wait_until(is_completed, job, run, seconds=120)
    assert 1 <= result(run)["resumed_from"]["epoch"] < EPOCHS
    assert_same_bits(run, unbroken)
