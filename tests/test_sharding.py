"""On several devices, in one process and in more, training gives what it gives on one."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from jax_mnist import Dataset, data_mesh, epoch_indices, shard_dataset, take_batch

HERE = Path(__file__).parent


def start(*arguments, devices):
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices), "JAX_PLATFORMS": "cpu"}
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
    """Losses to 1e-5, the same images right but for one, and in float64 parameters to 1e-10."""
    np.testing.assert_allclose(found["losses"], expected["losses"], rtol=1e-5)
    assert abs(found["right"] - expected["right"]) <= 1
    assert found["count"] == expected["count"]
    assert found["whole"]
    if precision == "float64":
        np.testing.assert_allclose(found["params"], expected["params"], rtol=0, atol=1e-10)


@pytest.fixture(scope="module", params=["float32", "float64"])
def in_one_process(request):
    names = "chapter,dense,convolutions,many"
    return request.param, results(start(request.param, "1,2,4,8", names, devices=8))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["chapter", "dense", "convolutions"])
def test_many_devices_train_as_one(in_one_process, name):
    precision, (one, *more) = in_one_process
    assert [result["devices"] for result in more] == [2, 4, 8]
    for result in more:
        assert_same(result[name], one[name], precision)


@pytest.mark.slow
def test_statistics_of_a_batch_are_those_over_all_devices():
    """In float32 alone: Flax keeps them so whatever the precision of the rest."""
    one, *more = results(start("float32", "1,2,4,8", "statistics", devices=8))
    for result in more:
        assert_same(result["statistics"], one["statistics"], "float32")
        np.testing.assert_allclose(result["statistics"]["params"], one["statistics"]["params"], rtol=0, atol=1e-3)


@pytest.mark.slow
def test_fit_many_spreads_its_members(in_one_process):
    _, (one, *more) = in_one_process
    for result in more:
        np.testing.assert_allclose(result["many"]["losses"], one["many"]["losses"], rtol=1e-5)
        np.testing.assert_allclose(result["many"]["right"], one["many"]["right"], atol=1)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_many_processes_train_as_one(in_one_process, count):
    precision, (one, *_) = in_one_process
    found = in_processes(count, precision, "chapter,convolutions,many", devices=4 // count)
    assert found["devices"] == 4
    for name in ("chapter", "convolutions"):
        assert_same(found[name], one[name], precision)
    np.testing.assert_allclose(found["many"]["losses"], one["many"]["losses"], rtol=1e-5)


@pytest.mark.slow
def test_every_image_is_seen_once_an_epoch_across_processes():
    for found in (in_processes(2, "float32", "seen", devices=2), *results(start("float32", "3", "seen", devices=3))):
        assert found["seen"] == list(range(1003))


def test_one_device_gets_the_batches_of_no_mesh():
    rng = np.random.default_rng(0)
    dataset = Dataset(rng.integers(0, 256, (101, 28, 28), np.uint8), np.arange(101, dtype=np.int32))
    split = shard_dataset(dataset, data_mesh())
    assert len(split) == 101
    take = jax.jit(take_batch)
    for indices, mask in zip(*epoch_indices(jax.random.key(0), 3, 101, 16), strict=True):
        for found, expected in zip(take(split, indices, mask), take(dataset, indices, mask), strict=True):
            np.testing.assert_array_equal(found, expected)


def test_a_mesh_needs_a_device():
    with pytest.raises(ValueError, match="one device or more"):
        data_mesh([])
