"""Fuzzing of the parsers: each returns a result or an error that names the file, in little memory."""

import contextlib
import gzip
import io
import random
import signal
import struct
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from marks import slow
from PIL import Image

from jax_mnist import (
    EpochRecord,
    class_names,
    export_model,
    init_params,
    linear,
    load,
    load_exported,
    load_params,
    read_photo,
    save_params,
)
from jax_mnist.data import load_train
from jax_mnist.data.formats.idx import read_idx
from jax_mnist.data.load import SIDE
from jax_mnist.training import checkpoints, load_checkpoint, save_checkpoint

GIB = 2**30
SECONDS = 30
DIGIT = np.zeros((SIDE, SIDE), np.uint8)
DIGIT[4:24, 12:16] = 255
PARAMS = init_params(jax.random.key(0), (6, 4, 1))


def unchanged(contents: bytes) -> bytes:
    return contents


class Parser(NamedTuple):
    """A file name, `parse(path) -> is the result valid?`, and `make() -> [(contents to mutate, seal)]`.

    A seal is applied after the mutation. It recomputes checksums, so that the code behind them is reached too.
    """

    name: str
    parse: Callable[[Path], bool]
    make: Callable[[], list[tuple[bytes, Callable[[bytes], bytes]]]]


def written(write: Callable[[Path], Any], name: str = "file") -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        write(Path(directory) / name)
        return (Path(directory) / name).read_bytes()


def picture(kind: str, image: np.ndarray | Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, format=kind, **options)
    return file.getvalue()


def with_png_checksums(png: bytes) -> bytes:
    sealed, offset = png[:8], 8
    while offset + 12 <= len(png):
        (size,) = struct.unpack(">I", png[offset : offset + 4])
        body = png[offset + 4 : offset + 8 + size]
        sealed += png[offset : offset + 4] + body + struct.pack(">I", zlib.crc32(body))
        offset += 12 + size
    return sealed + png[offset:]


def make_idx():
    contents = struct.pack(">4I", 0x0803, 3, SIDE, SIDE) + np.stack([DIGIT] * 3).tobytes()
    return [(contents, unchanged), (contents, gzip.compress), (gzip.compress(contents), unchanged)]


def parse_idx(path):
    images = read_idx(path, 3)
    return images.ndim == 3 and images.dtype == np.uint8


def make_params():
    return [(written(lambda path: save_params(path, PARAMS)), unchanged)]


def parse_params(path):
    loaded = load_params(path, PARAMS)
    return [(a.shape, a.dtype) for a in jax.tree.leaves(loaded)] == [
        (a.shape, a.dtype) for a in jax.tree.leaves(PARAMS)
    ]


def with_checksum(contents: bytes) -> bytes:
    span = checkpoints._checksum_span(contents)
    if span is None:
        return contents
    return contents[: span[0]] + checkpoints._checksum(contents, span).encode() + contents[span[1] :]


def make_checkpoint():
    state, records = {"params": PARAMS, "key": jax.random.key(0)}, [EpochRecord(1, 0.5, 0.4, 0.9, 0.1, 0.1)]
    whole = written(lambda path: save_checkpoint(path, state, records, {"seed": 0}))
    return [(whole, unchanged), (whole, with_checksum)]


def parse_checkpoint(path):
    found = load_checkpoint(path, {"params": PARAMS, "key": jax.random.key(1)}, {"seed": 0})
    return len(jax.tree.leaves(found.state)) == 5 and all(isinstance(record, EpochRecord) for record in found.records)


def make_png():
    palette, colour = Image.fromarray(DIGIT).convert("P"), Image.fromarray(DIGIT).convert("RGB")
    pngs = [picture("PNG", image) for image in (DIGIT, palette, colour, Image.new("I;16", (SIDE, SIDE)))]
    return [(png, seal) for png in pngs for seal in (unchanged, with_png_checksums)]


def parse_folder(path):
    """Load an otherwise valid folder in which `path` is one image."""
    for part in ("train", "valid"):
        file = path.parent / part / "3" / "1.png"
        if not file.exists():
            file.parent.mkdir(parents=True)
            Image.fromarray(DIGIT).save(file)
    (path.parent / "train" / "3" / "2.png").unlink(missing_ok=True)
    path.rename(path.parent / "train" / "3" / "2.png")
    train, valid = load(path.parent)
    return train.images.shape == (2, SIDE, SIDE) and len(valid) == 1


def make_csv():
    row = ",".join(map(str, DIGIT.ravel().tolist()))
    plain = f"5,{row}\n1,{row}\n".encode()
    named = ",".join(["label", *(f"pixel{i}" for i in range(SIDE**2))]).encode() + b"\n" + plain
    floats = f"5,{row.replace('255', '1.0')}\n".encode()
    return [*((text, seal) for text in (plain, named, floats) for seal in (unchanged, gzip.compress))]


def make_npz():
    arrays = {"x_train": np.stack([DIGIT] * 3), "y_train": np.arange(3)}
    members = {f"{name}.npy": written(lambda path, a=a: np.save(path, a), "a.npy") for name, a in arrays.items()}

    def seal(name):
        return lambda contents: zip_of(members | {name: contents})

    return [(zip_of(members), unchanged), *((contents, seal(name)) for name, contents in members.items())]


def zip_of(members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression, compresslevel=1) as archive:
        for name, contents in members.items():
            archive.writestr(name, contents)
    return file.getvalue()


def parse_table(path):
    train, classes = load_train(path, report=len), class_names(path)
    return train.images.shape == (len(train), SIDE, SIDE) and 0 <= train.labels.min() <= train.labels.max() < len(
        classes
    )


def make_photo():
    large = Image.fromarray(255 - DIGIT).resize((90, 120))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a photographed digit"  # rotated by 90 degrees
    jpegs = [picture("JPEG", image, exif=exif) for image in (large, large.convert("RGB"))]
    layers = [picture("PNG", large.convert(mode), exif=exif) for mode in ("L", "LA", "RGBA", "I;16", "1")]
    return [(jpeg, unchanged) for jpeg in jpegs] + [(png, with_png_checksums) for png in layers]


def parse_photo(path):
    image = read_photo(path)
    return image.shape == (SIDE, SIDE) and image.dtype == np.uint8


def make_exported():
    params = linear().init(jax.random.key(0))
    whole = written(lambda path: export_model(path, linear(), params, ("7", "3")))
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        program, about = archive.read("program"), archive.read("about.json")

    return [
        (whole, unchanged),
        (about, lambda contents: zip_of({"program": program, "about.json": contents}, zipfile.ZIP_STORED)),
        (program, lambda contents: zip_of({"program": contents, "about.json": about}, zipfile.ZIP_STORED)),
    ]


def parse_exported(path):
    exported = load_exported(path)
    return len(exported.classes) == 2 and all(isinstance(side, int) for side in exported.image_shape)


PARSERS = {
    "idx": Parser("images", parse_idx, make_idx),
    "parameters": Parser("model.safetensors", parse_params, make_params),
    "checkpoint": Parser("checkpoint-1.safetensors", parse_checkpoint, make_checkpoint),
    "csv": Parser("digits.csv", parse_table, make_csv),
    "npz": Parser("digits.npz", parse_table, make_npz),
    "folder": Parser("image.png", parse_folder, make_png),
    "photo": Parser("photo.png", parse_photo, make_photo),
    "exported": Parser("model.jaxexport", parse_exported, make_exported),
}

NUMBERS = [
    b"\0",
    b"\xff",
    b"\x80\0\0\0",
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\xff",
    b"\0\0\0\x80",
    b"\xff" * 8,
    b"\0" * 8,
]
WORDS = [
    b"F64",
    b"BF16",
    b"F8_E4M3",
    b"null",
    b"[]",
    b"{}",
    b"-1",
    b"1e99",
    b"99999999999",
    b'"',
    b"zTXt",
    b"iCCP",
    b"eXIf",
]


def mutated(rng: random.Random, good: bytes) -> bytes:
    """Overwrite, insert, delete, duplicate or flip some bytes, or truncate; one to five times."""
    contents = good
    for _ in range(rng.choice((1, 1, 2, 3, 5))):
        end = len(contents)
        at = rng.choice([rng.randint(0, min(end, 64)), rng.randint(0, end), rng.randint(max(end - 64, 0), end)])
        some = rng.choice([rng.choice(NUMBERS), rng.choice(WORDS), rng.randbytes(rng.randint(1, 8))])
        length = rng.randint(1, 32)
        contents = rng.choice([
            contents[:at] + some + contents[at + len(some) :],
            contents[:at] + some + contents[at:],
            contents[:at] + contents[at + length :],
            contents[: at + length] + contents[at:],
            contents[:at] + bytes(b ^ 1 << length % 8 for b in contents[at:][:1]) + contents[at + 1 :],
            contents[:at],
        ])  # fmt: skip
    return contents


class Hang(BaseException):
    """Parsing exceeded the time limit."""


@contextlib.contextmanager
def time_limit():
    """Raise Hang if the block takes more than SECONDS."""

    def stop(*_):
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcome(parser: Parser, contents: bytes, directory: Path) -> str:
    """Return "read" or "refused"; exceptions other than ours propagate."""
    with time_limit(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as for a user; Pillow warns about many files that it can read
        path = directory / parser.name
        path.unlink(missing_ok=True)  # truncating it would wait for the disk
        path.write_bytes(contents)
        try:
            assert parser.parse(path)
        except (ValueError, FileNotFoundError) as error:
            if not str(error).startswith(str(directory)):
                raise AssertionError("the message names no file") from error
            return "refused"
        return "read"


@contextlib.contextmanager
def memory_limit(max_bytes: int = GIB):
    """Assert that the peak memory of the process grows by less than `max_bytes` in the block."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    except OSError:
        pytest.skip("peak memory can only be read on Linux")
    before = peak()
    yield
    assert peak() - before < max_bytes


def peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM")))


@pytest.mark.no_cover  # it doubles the time, and other tests reach the same lines
@pytest.mark.parametrize("count", [100, slow(10_000)])
@pytest.mark.parametrize("name", PARSERS)
def test_mutated_file_is_read_or_refused(name, count, tmp_path):
    parser = PARSERS[name]
    seeds = parser.make()
    outcomes = {"read": 0, "refused": 0}

    with memory_limit():
        for seed in range(count):
            rng = random.Random(seed)
            good, seal = rng.choice(seeds)
            try:
                outcomes[outcome(parser, seal(mutated(rng, good)), tmp_path)] += 1
            except BaseException as error:
                error.add_note(f"for {name} and random.Random({seed})")
                raise
    print(f"\n{name}: {outcomes}")
    assert outcomes["refused"] > count // 4


@pytest.mark.parametrize("name", PARSERS)
def test_files_are_valid_before_mutation(name, tmp_path):
    for good, seal in PARSERS[name].make():
        assert outcome(PARSERS[name], seal(good), tmp_path) == "read"


def png_chunks(*chunks: tuple[bytes, bytes]) -> bytes:
    """Return a PNG of 28x28 grey pixels with the given chunks before its pixels."""
    good = picture("PNG", DIGIT)
    extra = b"".join(struct.pack(">I", len(data)) + kind + data + bytes(4) for kind, data in chunks)
    return with_png_checksums(good[:33] + extra + good[33:])


def png_of(width: int, height: int) -> bytes:
    good = picture("PNG", DIGIT)
    return with_png_checksums(good[:16] + struct.pack(">II", width, height) + good[24:])


def tensor_of(*shape: int) -> bytes:
    end = 4 * int(np.prod(shape, dtype=object))
    header = f'{{"0.bias":{{"dtype":"F32","shape":{list(shape)},"data_offsets":[0,{end}]}}}}'.encode()
    return struct.pack("<Q", len(header)) + header


LARGE = {
    "idx of 2^31 images": ("idx", lambda: struct.pack(">4I", 0x0803, 2**31, 28, 28)),
    "idx of 2^31 images, gzipped": ("idx", lambda: gzip.compress(struct.pack(">4I", 0x0803, 2**31, 28, 28))),
    "idx that declares the size limit, truncated": ("idx", lambda: struct.pack(">4I", 0x0803, 640, 2**10, 2**10)),
    "idx that unpacks to 2 GiB": ("idx", lambda: gzip_of_zeros(2, struct.pack(">4I", 0x0803, 28, 28, 28))),
    "a header of 2^63 bytes": ("parameters", lambda: struct.pack("<Q", 2**63) + b"{}"),
    "a tensor of 2^31 rows": ("parameters", lambda: tensor_of(2**31, 784)),
    "png of 2^31 x 28": ("folder", lambda: png_of(2**31 - 1, 28)),
    "png of 20,000 x 20,000 in a folder": ("folder", lambda: png_of(20_000, 20_000)),
    "png whose text unpacks to 1 GiB": ("folder", lambda: png_chunks((b"zTXt", b"a\0\0" + deflated_zeros(1)))),
    "photo of 20,000 x 20,000": ("photo", lambda: png_of(20_000, 20_000)),
    "photo of 9,000 x 9,000": ("photo", lambda: png_of(9_000, 9_000)),
    "photo whose text unpacks to 1 GiB": ("photo", lambda: png_chunks((b"iTXt", b"a\0\1\0\0\0" + deflated_zeros(1)))),
    "csv of one line of 2 GiB, gzipped": ("csv", lambda: gzip_of_zeros(2, b"5,")),
    "npz of 2^31 images": ("npz", lambda: zip_of({"x_train.npy": npy_of(2**31, 784), "y_train.npy": npy_of(2**31)})),
    "npz that declares the size limit, truncated": (
        "npz", lambda: zip_of({"x_train.npy": npy_of(640 * 2**20), "y_train.npy": b""})
    ),
    "npz whose array unpacks to 1 GiB": (
        "npz", lambda: zip_of({"x_train.npy": npy_of(2, 28, 28) + bytes(GIB), "y_train.npy": b""})
    ),
    "npz whose header unpacks to 1 GiB": (
        "npz", lambda: zip_of({"x_train.npy": b"\x93NUMPY\2\0\0\0\0\x40" + bytes(GIB), "y_train.npy": b""})
    ),
    "a program that unpacks to 1 GiB": ("exported", lambda: zip_of({"program": bytes(GIB), "about.json": b"{}"})),
}  # fmt: skip


def npy_of(*shape: int) -> bytes:
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {(*shape,)}}}\n".encode()
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header


def deflated_zeros(gib: int) -> bytes:
    """Return zeros compressed once and repeated; their checksum is wrong, but no reader should get that far."""
    packer = zlib.compressobj(1)
    start = packer.compress(bytes(2**26)) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(2**26)) + packer.flush(zlib.Z_FULL_FLUSH)
    return start + block * (16 * gib - 1) + packer.flush()


def gzip_of_zeros(gib: int, start: bytes) -> bytes:
    """Return a gzip file of two members: `start`, then zeros."""
    header = b"\x1f\x8b\x08" + bytes(7)
    return gzip.compress(start) + header + deflated_zeros(gib)[2:-4] + bytes(8)


SECONDS_TO_MAKE = {
    "a program that unpacks to 1 GiB",
    "npz whose array unpacks to 1 GiB",
    "npz whose header unpacks to 1 GiB",
}


@pytest.mark.parametrize("case", [slow(case) if case in SECONDS_TO_MAKE else case for case in LARGE])
def test_file_that_declares_a_huge_size_is_refused_in_little_memory(case, tmp_path):
    name, make = LARGE[case]
    contents = make()
    with memory_limit(2**28):
        assert outcome(PARSERS[name], contents, tmp_path) == "refused"


@pytest.mark.slow
def test_largest_accepted_photo_takes_less_than_a_gib(tmp_path):
    contents = picture("PNG", Image.new("RGBA", (8000, 8000), "white"), compress_level=1)
    with memory_limit():
        outcome(PARSERS["photo"], contents, tmp_path)
