"""TensorBoard event files: records of a length, its checksum, an event and its checksum."""

import csv
import struct
import sys

import pytest
from tensorboardX.crc32c import crc32c
from tensorboardX.proto.event_pb2 import Event

from jax_mnist.cli import train


def scalars(directory):
    (file,) = directory.glob("events.out.tfevents.*")
    data, found = file.read_bytes(), {}
    while data:
        (length,) = struct.unpack_from("<Q", data)
        (checksum,) = struct.unpack_from("<I", data, 12 + length)
        payload, data = data[12 : 12 + length], data[16 + length :]
        crc = crc32c(payload)
        assert checksum == ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
        event = Event.FromString(payload)
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


@pytest.mark.slow
def test_event_files_hold_the_history_of_a_resumed_run(tmp_path):
    arguments = ["chapter-linear", "--tensorboard", "--resume", str(tmp_path)]
    for epochs in ("2", "3"):
        assert train.main([*arguments, "--epochs", epochs]) == 0
        rows = list(csv.DictReader((tmp_path / "history.csv").read_text().splitlines()))
        for name in ("train_loss", "valid_loss", "accuracy"):
            expected = [(int(row["epoch"]), pytest.approx(float(row[name]), rel=1e-6)) for row in rows]
            assert scalars(tmp_path / "tensorboard")[name] == expected
            assert len(expected) == int(epochs)
    assert "tensorflow" not in sys.modules


def test_without_tensorboardx_the_error_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    assert train.main(["chapter-linear", "--epochs", "1", "--tensorboard", "--out", str(tmp_path)]) == 2
    assert 'pip install "jax_mnist[tensorboard]"' in capsys.readouterr().err
