"""Training on several devices, in one process and in several, gives the results of one device."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from compilations import FAST_COMPILATION

from jax_mnist import Dataset, data_mesh
from jax_mnist.data import epoch_indices, take_batch

HERE = Path(__file__).parent


def start(*arguments, devices, flags=FAST_COMPILATION):
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(HERE.parent / "scripts"), os.environ.get("PYTHONPATH", "")]),
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": " ".join([os.environ.get("XLA_FLAGS", ""), *flags]),
    }
    command = [sys.executable, "-W", "error", str(HERE / "on_devices.py"), *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def results(process):
    printed, errors = process.communicate(timeout=500)
    assert process.returncode == 0, errors
    return [json.loads(line) for line in printed.splitlines() if line.startswith("{")]


def in_processes(count, precision, names, devices=1):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        coordinator = f"localhost:{free.getsockname()[1]}"
    arguments = precision, count * devices, names, coordinator, count
    processes = [start(*arguments, number, devices=devices) for number in range(count)]
    first, *_ = [results(process) for process in processes]
    return first[0]


def assert_same(found, expected, precision):
    """Compare losses to 1e-5, right answers to one image, and in float64 the parameters to 1e-10."""
    np.testing.assert_allclose(found["losses"], expected["losses"], rtol=1e-5)
    assert abs(found["right"] - expected["right"]) <= 1
    assert found["count"] == expected["count"]
    assert found["replicated"]
    if precision == "float64":
        np.testing.assert_allclose(found["params"], expected["params"], rtol=0, atol=1e-10)


# The devices and trainings of each precision. A difference that float32 shows to 1e-5, float64 shows to 1e-10.
RUNS = {
    "float32": ("1,4", "chapter,convolutions,many"),
    "float64": ("1,2,4,8", "chapter,dense,augmented,convolutions,many"),
}


@pytest.fixture(scope="module", params=RUNS)
def in_one_process(request):
    return request.param, results(start(request.param, *RUNS[request.param], devices=8))


@pytest.mark.slow
def test_many_devices_train_as_one(in_one_process):
    precision, (one, *more) = in_one_process
    assert [result["devices"] for result in more] == ([4] if precision == "float32" else [2, 4, 8])
    for result in more:
        for name in one.keys() - {"devices", "many"}:
            print(name, "on", result["devices"], "devices")
            assert_same(result[name], one[name], precision)


@pytest.mark.slow
def test_batch_statistics_are_those_over_all_devices():
    """Only in float32: Flax keeps the statistics in it whatever the precision of the rest."""
    one, *more = results(start("float32", "1,2,4,8", "statistics", devices=8))
    for result in more:
        assert_same(result["statistics"], one["statistics"], "float32")
        np.testing.assert_allclose(result["statistics"]["params"], one["statistics"]["params"], rtol=0, atol=1e-3)


@pytest.mark.slow
def test_fit_many_distributes_its_members(in_one_process):
    _, (one, *more) = in_one_process
    for result in more:
        np.testing.assert_allclose(result["many"]["losses"], one["many"]["losses"], rtol=1e-5)
        np.testing.assert_allclose(result["many"]["right"], one["many"]["right"], atol=1)


@pytest.mark.slow
def test_many_processes_train_as_one(in_one_process):
    precision, (one, *_) = in_one_process
    count = 2 if precision == "float32" else 4
    found = in_processes(count, precision, "chapter,convolutions,many", devices=4 // count)
    assert found["devices"] == 4
    for name in ("chapter", "convolutions"):
        assert_same(found[name], one[name], precision)
    np.testing.assert_allclose(found["many"]["losses"], one["many"]["losses"], rtol=1e-5)


@pytest.mark.slow
def test_an_epoch_takes_every_image_once_across_processes():
    for found in (in_processes(2, "float32", "seen", devices=2), *results(start("float32", "3", "seen", devices=3))):
        assert found["seen"] == list(range(1003))


# The all-reduces in a step of the epoch's program: of the gradients and the loss as a tuple, and what comes to that.
ALL_REDUCES = {
    "chapter": 1,
    "dense": 1,
    "augmented": 1,
    "convolutions": 1,
    "statistics": 3,  # the batch's mean and variance as a tuple, and their gradients
    "line_search": 3,  # two loops evaluate the loss and its gradient along the line
}


@pytest.fixture(scope="module")
def programs_on_eight():
    (found,) = results(start("float32", "8", "programs", devices=8, flags=[]))
    return found["programs"]


@pytest.mark.parametrize("name", ALL_REDUCES)
@pytest.mark.slow
def test_a_step_has_one_all_reduce_and_an_eighth_of_the_batch(programs_on_eight, name):
    program = programs_on_eight[name]
    lines = [line for group in program["collectives"].values() for line in group]
    assert len(lines) == ALL_REDUCES[name]
    assert all(" all-reduce(" in line for line in lines)
    # One loop is the scan over the batches; a line search has loops of its own inside it.
    assert len(program["collectives"]) == (3 if name == "line_search" else 1)
    rows = [int(size) for line in program["products"] for size in re.findall(r"= f32\[(\d+),", line)]
    share = -(-program["batch_size"] // 8)
    assert share in rows  # the forward products [b, i] @ [i, o]
    assert not {program["batch_size"], 8 * share} & {*rows}


def test_one_device_takes_the_batches_of_no_mesh():
    rng = np.random.default_rng(0)
    dataset = Dataset(rng.integers(0, 256, (101, 28, 28), np.uint8), np.arange(101, dtype=np.int32))
    epochs = [epoch_indices(jax.random.key(0), 3, 101, 16, mesh=mesh) for mesh in (data_mesh(), None)]
    for ours, expected in zip(zip(*epochs[0], strict=True), zip(*epochs[1], strict=True), strict=True):
        for found, wanted in zip(take_batch(dataset, *ours), take_batch(dataset, *expected), strict=True):
            np.testing.assert_array_equal(found, wanted)


def test_a_mesh_needs_a_device():
    with pytest.raises(ValueError, match="at least 1 device"):
        data_mesh([])
