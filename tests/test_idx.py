import gzip
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from jax_mnist.data.formats.idx import read_idx, write_idx

IMAGES = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)


def contents(array, magic=None):
    magic = 0x0800 + array.ndim if magic is None else magic
    return struct.pack(f">{array.ndim + 1}I", magic, *array.shape) + array.tobytes()


@given(arrays.arrays(np.uint8, arrays.array_shapes(min_dims=1, max_dims=3)), st.sampled_from(["idx", "idx.gz"]))
def test_write_then_read_gives_the_same_array(tmp_path_factory, array, name):
    path = tmp_path_factory.mktemp("idx") / name
    write_idx(path, array)
    raw = path.read_bytes()
    assert (gzip.decompress(raw) if name.endswith(".gz") else raw) == contents(array)
    read = read_idx(path, array.ndim)
    np.testing.assert_array_equal(read, array)
    assert read.flags.writeable


def test_gzip_without_the_suffix_is_read(tmp_path):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(gzip.compress(contents(IMAGES)))
    np.testing.assert_array_equal(read_idx(path, 3), IMAGES)


GOOD = contents(IMAGES)
BAD = {
    "magic number .*00000803, got 00000801": contents(IMAGES, 0x0801),
    "magic number .*00000801, got 00000803": GOOD,  # read as labels
    "magic number .*empty file": b"",
    "magic number .*3c68746d": b"<html>503 Service Unavailable</html>",
    "header is truncated.*16 bytes, got 10": GOOD[:10],
    "24 bytes .*has 23": GOOD[:-1],
    "24 bytes .*has more": GOOD + b"\0",
    "limit of 671,088,640": struct.pack(">4I", 0x0803, 2**31, 28, 28),
}


@pytest.mark.parametrize("message", BAD)
@pytest.mark.parametrize("gzipped", [False, True])
def test_malformed_file_is_refused_by_name(tmp_path, message, gzipped):
    path = tmp_path / ("bad.gz" if gzipped else "bad")
    path.write_bytes(gzip.compress(BAD[message]) if gzipped else BAD[message])
    dimensions = 1 if message.endswith("got 00000803") else 3
    with pytest.raises(ValueError, match=message) as error:
        read_idx(path, dimensions)
    assert str(path) in str(error.value)


def damaged_crc(packed):
    return packed[:-8] + bytes(8)


def flipped_bit(packed):
    return packed[:30] + bytes([packed[30] ^ 1]) + packed[31:]


@pytest.mark.parametrize("damage", [lambda p: p[:-12], lambda p: p[:5], damaged_crc, flipped_bit])
def test_damaged_gzip_is_refused_by_name(tmp_path, damage):
    path = tmp_path / "bad.gz"
    path.write_bytes(damage(gzip.compress(contents(np.random.default_rng(0).integers(0, 256, 5000, np.uint8)))))
    with pytest.raises(ValueError, match=r"bad\.gz: "):
        read_idx(path, 1)


def test_text_file_named_gz_is_refused(tmp_path):
    path = tmp_path / "labels.gz"
    path.write_text("not today")
    with pytest.raises(ValueError, match=r"labels\.gz: is not a gzip file"):
        read_idx(path, 1)


def test_wrong_checksum_is_refused(tmp_path):
    path = tmp_path / "labels"
    write_idx(path, np.array([1, 2, 3], np.uint8))
    with pytest.raises(ValueError, match=r"sha256 of the contents must be 0000, got [0-9a-f]{64}"):
        read_idx(path, 1, sha256="0000")


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing: there is no such file; .*IDX"):
        read_idx(tmp_path / "nothing", 1)


def test_other_dtypes_are_not_written(tmp_path):
    with pytest.raises(ValueError, match=r"labels: .*uint8, got int32"):
        write_idx(tmp_path / "labels", np.zeros(3, np.int32))
    assert list(tmp_path.iterdir()) == []
