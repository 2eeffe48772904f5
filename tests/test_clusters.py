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
EPOCHS = 12  # so many that a job can be stopped before the last one
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
    sinfo = ["sinfo", "--noheader", "--format=%t"]
    if not SLURM_CONF.exists() or subprocess.run(sinfo, env=ENVIRONMENT, capture_output=True).stdout != b"idle\n":
        pytest.skip("no Slurm: `.ci/slurm start`, as root, starts one")
    (script,) = re.findall(r"```bash\n(#!/bin/bash\n.*?)```", PAGE, re.DOTALL)
    path = tmp_path_factory.mktemp("slurm") / "train.sh"
    path.write_text(script)
    return path


@contextlib.contextmanager
def submitted(batch_script, run, *options):
    """Submit the batch script and yield the job's number; cancel the job when the block ends."""
    submit = ["sbatch", "--parsable", f"--export=ALL,RUN={run}", f"--output={log_of(run)}", str(batch_script)]
    job = called(*submit, *OPTIONS, *options).strip()
    try:
        yield job
    finally:
        called("scancel", job)


def log_of(run):
    return run.with_suffix(".log")


def wait_for(condition, run, seconds):
    """Return the first true value of the condition."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, log_of(run).read_text() if log_of(run).exists() else "the job did not start"
        time.sleep(0.01)
    return value


def wait_for_state(job, run, seconds, **expected):
    """Wait until the job's fields, as `scontrol show job` names them, have these values."""

    def has_them():
        shown = called("scontrol", "--oneliner", "show", "job", job)
        assert not re.search("JobState=(FAILED|CANCELLED|TIMEOUT|NODE_FAIL)", shown), shown + log_of(run).read_text()
        return {f"{name}={value}" for name, value in expected.items()} <= set(shown.split())

    wait_for(has_them, run, seconds)


def last_checkpoint(run):
    return max((int(path.stem.removeprefix("checkpoint-")) for path in run.glob("checkpoint-*")), default=0)


@pytest.fixture(scope="module")
def unbroken(batch_script, tmp_path_factory):
    run = tmp_path_factory.mktemp("unbroken") / "run"
    with submitted(batch_script, run) as job:
        wait_for_state(job, run, 120, JobState="COMPLETED")
    return run


def test_two_tasks_of_slurm_train_as_one_process(unbroken, one_process):
    assert_same_result(unbroken, one_process)
    assert "resumed_from" not in result(unbroken)


def test_slurm_job_that_is_requeued_and_loses_a_task_is_bit_identical(batch_script, unbroken, tmp_path):
    run = tmp_path / "run"
    with submitted(batch_script, run, "--checkpoint-every", "1") as job:
        # Slurm sends SIGTERM to the tasks and queues the job again, as it does for a preempted one.
        wait_for(lambda: last_checkpoint(run), run, 120)
        called("scontrol", "requeue", job)
        wait_for_state(job, run, 60, Restarts="1", JobState="RUNNING")
        (stopped,) = re.findall(
            r"stopped by SIGTERM: (\d+) of \d+ epochs are finished and saved", log_of(run).read_text()
        )
        assert last_checkpoint(run) == int(stopped) < EPOCHS

        # Without a task, the other ends, and the batch script requeues the job.
        wait_for(lambda: last_checkpoint(run) > int(stopped), run, 120)
        pids = [line.split() for line in called("scontrol", "listpids", f"{job}.0").splitlines()]
        (victim,) = [int(pid) for pid, _, _, _, task in pids if task == "1"]
        os.kill(victim, signal.SIGKILL)
        wait_for_state(job, run, 60, Restarts="2")
        assert log_of(run).read_text().count("error: another process has ended or cannot be reached") == 1
        wait_for_state(job, run, 120, JobState="COMPLETED")
    assert int(stopped) < result(run)["resumed_from"]["epoch"] < EPOCHS
    assert_same_bits(run, unbroken)
