"""The `datasets` command."""

import subprocess
import sys

import pytest

from jax_mnist import class_names
from jax_mnist.__main__ import main
from jax_mnist.data.formats import tfds
from jax_mnist.data.registry import BUNDLED, FAMILY


@pytest.fixture
def rows(tmp_path, monkeypatch, tiny, capsys):
    """The printed rows by name, with Fashion-MNIST in the cache and MNIST prepared for TFDS."""
    monkeypatch.setenv("JAX_MNIST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr("tensorflow_datasets.core.constants.DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.setitem(FAMILY, "fashion_mnist", FAMILY["fashion_mnist"]._replace(directories=()))
    (tmp_path / "cache" / "fashion_mnist").mkdir(parents=True)
    for part in ("train", "t10k"):
        for kind in ("images-idx3", "labels-idx1"):
            (tmp_path / "cache" / "fashion_mnist" / f"{part}-{kind}-ubyte.gz").write_bytes(bytes(1000))
    tfds.prepare("mnist", tiny, class_names("mnist"))
    capsys.readouterr()
    assert main(["datasets"]) == 0
    lines = [line.split("│") for line in capsys.readouterr().out.splitlines() if "│" in line]
    return {cells[1].strip(): [cell.strip() for cell in cells[2:-1]] for cells in lines}


def test_table_shows_state_size_and_path(rows, tmp_path):
    assert rows["mnist"] == rows["mnist_sample"] == ["bundled", "11.6 MB", str(BUNDLED)]
    assert rows["fashion_mnist"] == ["cached", "4.0 kB", str(tmp_path / "cache" / "fashion_mnist")]
    assert rows["kmnist"][0] == "missing"
    assert str(tmp_path / "cache" / "kmnist") in rows["kmnist"][2]
    assert rows["tfds:mnist"][0] == "prepared"
    assert rows["tfds:mnist"][2] == str(tmp_path / "tfds" / "mnist" / "3.0.1")
    assert rows["tfds:kmnist"][0] == "missing"
    names = ["mnist_sample", *FAMILY]
    assert list(rows) == [*names, *(f"tfds:{name}" for name in names)]


def test_command_runs_as_a_module():
    output = subprocess.run(
        [sys.executable, "-W", "error", "-m", "jax_mnist", "datasets"], capture_output=True, text=True, check=True
    ).stdout
    assert "bundled" in output
    assert "tfds:mnist" in output
