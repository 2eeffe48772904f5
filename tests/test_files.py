import signal
import subprocess
import sys

import pytest

from jax_mnist.files import atomic_write


def test_the_old_contents_stay_until_the_new_are_whole(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with atomic_write(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_nothing_and_loses_nothing(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def fail():
        with atomic_write(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("place", ["no/such/directory/file.txt", "directory"])
def test_the_file_that_cannot_be_written_is_named(tmp_path, place):
    (tmp_path / "directory").mkdir()
    with pytest.raises(OSError, match="cannot be written") as raised, atomic_write(tmp_path / place) as temporary:
        temporary.write_text("new")
    assert raised.value.filename == str(tmp_path / place)
    assert [path.name for path in tmp_path.iterdir()] == ["directory"]


def test_a_killed_process_loses_nothing(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    code = f"""
import os, signal
from jax_mnist.files import atomic_write
with atomic_write({str(path)!r}) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert path.read_text() == "old"


def test_permissions_are_those_of_any_new_file(tmp_path):
    (tmp_path / "plain").write_text("")
    with atomic_write(tmp_path / "replaced") as temporary:
        temporary.write_text("")
    assert (tmp_path / "replaced").stat().st_mode == (tmp_path / "plain").stat().st_mode
