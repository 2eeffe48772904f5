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
def test_what_is_written_is_read(tmp_path_factory, array, name):
    path = tmp_path_factory.mktemp("idx") / name
    write_idx(path, array)
    raw = path.read_bytes()
    assert (gzip.decompress(raw) if name.endswith(".gz") else raw) == contents(array)
    read = read_idx(path, array.ndim)
    np.testing.assert_array_equal(read, array)
    assert read.flags.writeable


def test_a_gzip_without_the_ending_is_read_too(tmp_path):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(gzip.compress(contents(IMAGES)))
    np.testing.assert_array_equal(read_idx(path, 3), IMAGES)


GOOD = contents(IMAGES)
BAD = {
    "wrong magic number 00000801": contents(IMAGES, 0x0801),
    "wrong magic number 00000803": GOOD,  # where labels are asked for
    r"wrong magic number \(empty file\)": b"",
    "wrong magic number 3c68746d": b"<html>503 Service Unavailable</html>",
    "cut short in its header": GOOD[:10],
    "= 24 bytes of data but holds 23": GOOD[:-1],
    "= 24 bytes of data but holds more": GOOD + b"\0",
    "more than the 671,088,640 that are read": struct.pack(">4I", 0x0803, 2**31, 28, 28),
}


@pytest.mark.parametrize("message", BAD)
@pytest.mark.parametrize("packed", [False, True])
def test_a_bad_file_is_named_with_what_was_expected(tmp_path, message, packed):
    path = tmp_path / ("bad.gz" if packed else "bad")
    path.write_bytes(gzip.compress(BAD[message]) if packed else BAD[message])
    dimensions = 1 if "00000803" in message else 3
    with pytest.raises(ValueError, match=message) as error:
        read_idx(path, dimensions)
    assert str(path) in str(error.value)


def damaged_crc(packed):
    return packed[:-8] + bytes(8)


def flipped_bit(packed):
    return packed[:30] + bytes([packed[30] ^ 1]) + packed[31:]


@pytest.mark.parametrize("damage", [lambda p: p[:-12], lambda p: p[:5], damaged_crc, flipped_bit])
def test_damaged_gzip(tmp_path, damage):
    path = tmp_path / "bad.gz"
    path.write_bytes(damage(gzip.compress(contents(np.random.default_rng(0).integers(0, 256, 5000, np.uint8)))))
    with pytest.raises(ValueError, match=r"bad\.gz: "):
        read_idx(path, 1)


def test_a_text_file_named_gz(tmp_path):
    path = tmp_path / "labels.gz"
    path.write_text("not today")
    with pytest.raises(ValueError, match="is not a gzip file, though its name ends in"):
        read_idx(path, 1)


def test_checksum(tmp_path):
    path = tmp_path / "labels"
    write_idx(path, np.array([1, 2, 3], np.uint8))
    with pytest.raises(ValueError, match=r"sha256 of the contents is [0-9a-f]{64}, expected 0000"):
        read_idx(path, 1, sha256="0000")


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no such file; expected an IDX file"):
        read_idx(tmp_path / "nothing", 1)


def test_only_uint8_is_written(tmp_path):
    with pytest.raises(ValueError, match="holds uint8, not int32"):
        write_idx(tmp_path / "labels", np.zeros(3, np.int32))
    assert list(tmp_path.iterdir()) == []
