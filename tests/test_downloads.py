"""Downloads from a local server that fails in the ways in which MNIST servers have failed."""

import gzip
import hashlib
import http.server
import os
import signal
import struct
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from marks import slow
from test_sources import write_directory

from jax_mnist import class_names, load
from jax_mnist.cli import train
from jax_mnist.data.download import cache_directory, download, fetch, present
from jax_mnist.data.registry import FAMILY, IMAGES_AND_LABELS

NAMES = [name for pair in IMAGES_AND_LABELS.values() for name in pair]
CONTENTS = gzip.compress(np.random.default_rng(0).integers(0, 256, 200_000, np.uint8).tobytes(), mtime=0)
SHA256 = hashlib.sha256(CONTENTS).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Answers requests for each path with the functions in `answers[path]` in order, then repeats the last."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers, self.requested, self.done = {}, [], threading.Event()

    def url(self, path="/file.gz"):
        return f"http://127.0.0.1:{self.server_port}{path}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        self.server.requested.append(self.path)
        answers = self.server.answers[self.path]
        (answers.pop(0) if len(answers) > 1 else answers[0])(self)

    def send(self, body, status=200, length=None, **headers):
        self.send_response(status)
        for name, value in ({"Content-Length": len(body) if length is None else length} | headers).items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.done.set()
        server.shutdown()
        thread.join()


def whole(handler):
    handler.send(CONTENTS)


def not_found(handler):
    handler.send(b"no such file", 404)


def forbidden(handler):
    handler.send(b"<html>Forbidden</html>", 403, **{"Content-Type": "text/html"})


def busy(handler):
    handler.send(b"<html>try later</html>", 503)


def page(handler):
    handler.send(b"<html>Please log in</html>")


def half(handler):
    handler.send(CONTENTS[: len(CONTENTS) // 2], length=len(CONTENTS))


def half_as_whole(handler):
    handler.send(CONTENTS[: len(CONTENTS) // 2])


def one_byte_changed(handler):
    middle = len(CONTENTS) // 2
    handler.send(CONTENTS[:middle] + bytes([CONTENTS[middle] ^ 1]) + CONTENTS[middle + 1 :])


def stalled(handler):
    half(handler)
    handler.server.done.wait()


def mute(handler):
    handler.server.done.wait()


def lost(handler):
    handler.send(b"", 302, Location=handler.server.url("/nowhere.gz"))


def moved(handler):
    handler.server.answers["/elsewhere.gz"] = [whole]
    handler.send(b"", 301, Location=handler.server.url("/elsewhere.gz"))


def labelled_as_encoded(handler):
    """Declare .gz as a transfer encoding, as some servers do; requests decompresses such a body."""
    handler.send(CONTENTS, **({"Content-Encoding": "gzip"} if "gzip" in handler.headers["Accept-Encoding"] else {}))


WRONG = {
    not_found: "404 Client Error",
    forbidden: "403 Client Error",
    busy: "503 Server Error",
    page: "different file: sha256 .*26 bytes",
    half: "ChunkedEncodingError",
    half_as_whole: "different file: .*100,0.. bytes",
    one_byte_changed: f"different file: sha256 must be {SHA256}, got .*200,0.. bytes",
    stalled: "ConnectionError",
    mute: "ReadTimeout",
    lost: "404 Client Error",
}


@pytest.mark.parametrize("answer", WRONG, ids=lambda answer: answer.__name__)
def test_failed_download_reports_the_reason_and_leaves_no_file(server, tmp_path, answer):
    server.answers = {"/file.gz": [answer], "/nowhere.gz": [not_found], "/good/file.gz": [whole]}
    path = tmp_path / "file.gz"
    seconds = 0.3 if answer in (stalled, mute) else 20.0  # so that a busy machine does not time the others out
    with pytest.raises(FileNotFoundError, match=WRONG[answer]) as error:
        download(path, [server.url()], SHA256, timeout=seconds)
    for part in (f"{path}: download failed", f"put file.gz into {tmp_path}", server.url()):
        assert part in str(error.value)
    assert list(tmp_path.iterdir()) == []
    download(path, [server.url(), server.url("/good/file.gz")], SHA256, timeout=seconds)
    assert path.read_bytes() == CONTENTS
    assert list(tmp_path.iterdir()) == [path]


RIGHT = {
    "a server that is busy once": [busy, whole],
    "a connection that breaks once": [half, whole],
    "a redirect": [moved],
    "a server that declares .gz as an encoding": [labelled_as_encoded],
}


@pytest.mark.parametrize("case", RIGHT)
def test_temporary_failures_and_redirects_are_handled(server, tmp_path, case):
    server.answers["/file.gz"] = list(RIGHT[case])
    download(tmp_path / "file.gz", [server.url()], SHA256)
    assert (tmp_path / "file.gz").read_bytes() == CONTENTS


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_bar_shows_only_on_a_terminal(server, tmp_path, monkeypatch, capsys, terminal):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    server.answers["/file.gz"] = [whole]
    download(tmp_path / "file.gz", [server.url()], SHA256)
    assert ("100%|" in capsys.readouterr().err) == terminal


def test_mirrors_are_tried_in_order_until_one_succeeds(server, tmp_path):
    server.answers = {"/a": [busy], "/b": [page], "/c": [whole], "/d": [whole]}
    download(tmp_path / "file.gz", [server.url(path) for path in ["/a", "/b", "/c", "/d"]], SHA256)
    assert server.requested == ["/a", "/b", "/c"]


def test_error_without_network_is_one_line_with_mirrors_and_remedy(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JAX_MNIST_CACHE", str(tmp_path))
    with Server() as closed:
        mirrors = (closed.url("/one/"), closed.url("/two/"))
    monkeypatch.setitem(FAMILY, "kmnist", FAMILY["kmnist"]._replace(mirrors=mirrors))
    assert train.main(["--dataset", "kmnist", "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    for part in (*mirrors, f"put train-images-idx3-ubyte.gz into {tmp_path / 'kmnist'}", "ConnectionError"):
        assert part in error


def client(path, url, patch=""):
    """Start a process that downloads after running the code in `patch`."""
    code = f"""
import os, pathlib, signal, pooch
from jax_mnist.data.download import download
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
{patch}
download(pathlib.Path({str(path)!r}), [{url!r}], {SHA256!r})
"""
    return subprocess.Popen([sys.executable, "-W", "error", "-c", code])


MOMENTS = {
    "before the checksum": "pooch.file_hash = die",
    "after the checksum": "os.fsync = die",
    "before the move": "pathlib.Path.replace = die",
    "after the move": "pathlib.Path.unlink = die",
}


@pytest.mark.parametrize("moment", [*map(slow, list(MOMENTS)[:3]), "after the move"])
def test_killed_download_leaves_the_cache_usable(server, tmp_path, moment):
    server.answers["/file.gz"] = [whole]
    path = tmp_path / "file.gz"
    assert client(path, server.url(), MOMENTS[moment]).wait() == -signal.SIGKILL
    assert path.exists() == (moment == "after the move")
    download(path, [server.url()], SHA256)
    assert path.read_bytes() == CONTENTS


@pytest.mark.slow
def test_download_killed_during_the_transfer_can_be_repeated(server, tmp_path):
    sent = threading.Event()

    def stop_halfway(handler):
        half(handler)
        sent.set()
        handler.server.done.wait()

    server.answers["/file.gz"] = [stop_halfway, whole]
    path = tmp_path / "file.gz"
    process = client(path, server.url())
    assert sent.wait(60)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not path.exists()
    download(path, [server.url()], SHA256)
    assert path.read_bytes() == CONTENTS


@pytest.mark.slow
def test_two_processes_download_the_same_file_concurrently(server, tmp_path):
    together = threading.Barrier(2, timeout=60)

    def wait_for_the_other(handler):
        handler.send(CONTENTS[:50_000], length=len(CONTENTS))
        together.wait()
        handler.wfile.write(CONTENTS[50_000:])

    server.answers["/file.gz"] = [wait_for_the_other]
    path = tmp_path / "file.gz"
    processes = [client(path, server.url()) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert path.read_bytes() == CONTENTS
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def family(server, tmp_path, monkeypatch):
    """Replace "kmnist" by five small images on the server; only the checksums of their .gz are known."""
    monkeypatch.setenv("JAX_MNIST_CACHE", str(tmp_path / "cache"))
    write_directory(tmp_path / "published", "{}-images-idx3-ubyte.gz")
    files = {name: (tmp_path / "published" / f"{name}.gz").read_bytes() for name in NAMES}
    for name, body in files.items():
        server.answers[f"/{name}.gz"] = [lambda handler, body=body: handler.send(body)]
    archives = {name: hashlib.sha256(body).hexdigest() for name, body in files.items()}
    source = FAMILY["kmnist"]._replace(archives=archives, mirrors=(server.url("/gone/"), server.url("/")))
    server.answers |= {f"/gone/{name}.gz": [not_found] for name in NAMES}
    monkeypatch.setitem(FAMILY, "kmnist", source)
    return files


def test_dataset_is_downloaded_once_and_then_read_from_the_cache(server, family):
    assert present("kmnist") is None
    train, valid = load("kmnist")
    assert (train.labels.tolist(), valid.labels.tolist()) == ([3, 7, 9], [0, 1])
    assert class_names("kmnist")[:2] == ("o", "ki")
    assert sorted(file.name for file in (cache_directory() / "kmnist").iterdir()) == [f"{n}.gz" for n in sorted(NAMES)]
    server.requested.clear()
    load("kmnist")
    assert server.requested == []


def test_only_missing_files_are_downloaded(server, family):
    directory = fetch("kmnist")
    (directory / f"{NAMES[1]}.gz").unlink()
    server.requested.clear()
    load("kmnist")
    assert server.requested == [f"/gone/{NAMES[1]}.gz", f"/{NAMES[1]}.gz"]


def test_file_put_into_the_cache_by_hand_is_verified_and_kept(family):
    file = fetch("kmnist") / f"{NAMES[2]}.gz"
    file.write_bytes(gzip.compress(gzip.decompress(family[NAMES[2]]), 1, mtime=1))
    with pytest.raises(ValueError, match=r"t10k-images-idx3-ubyte\.gz: sha256 of the file .* published .*, got "):
        load("kmnist")
    assert file.exists()


def test_cache_directory_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_MNIST_CACHE", "~/digits")
    assert cache_directory() == Path.home() / "digits"
    monkeypatch.delenv("JAX_MNIST_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if sys.platform == "linux":
        assert cache_directory() == tmp_path / "jax_mnist"


def test_mirrors_exclude_lecun_which_answers_403():
    mirrors = [mirror for source in FAMILY.values() for mirror in source.mirrors]
    assert all(mirror.endswith("/") and "lecun" not in mirror for mirror in mirrors)
    assert all(len(source.mirrors) >= 2 and set(source.archives) == set(NAMES) for source in FAMILY.values())


MADE_AT = {"train": 1504176606, "t10k": 1504176627}
"""Modification times (Unix seconds) in the gzip headers of Fashion-MNIST's published files."""

DEBIAN = FAMILY["fashion_mnist"].directories[0]


def as_published(name):
    """Rebuild Fashion-MNIST's published .gz from Debian's, whose header lacks the name and the time."""
    data = (DEBIAN / f"{name}.gz").read_bytes()
    header = b"\x1f\x8b\x08\x08" + struct.pack("<I", MADE_AT[name.split("-")[0]])
    return header + data[8:10] + name.encode() + b"\0" + data[10:]


@pytest.mark.skipif(not DEBIAN.is_dir(), reason=f"{DEBIAN} does not exist: apt-get install dataset-fashion-mnist")
@pytest.mark.slow
def test_downloaded_fashion_mnist_equals_debians(server, tmp_path, monkeypatch):
    """The mirror serves the published files byte for byte, so both lists of checksums are tested."""
    monkeypatch.setenv("JAX_MNIST_CACHE", str(tmp_path))
    installed = load("fashion_mnist")
    for name in NAMES:
        server.answers[f"/{name}.gz"] = [lambda handler, name=name: handler.send(as_published(name))]
    source = FAMILY["fashion_mnist"]
    monkeypatch.setitem(FAMILY, "fashion_mnist", source._replace(directories=(), mirrors=(server.url("/"),)))
    for part, other in zip(load("fashion_mnist"), installed, strict=True):
        np.testing.assert_array_equal(part.images, other.images)
        np.testing.assert_array_equal(part.labels, other.labels)
    assert len(server.requested) == 4
    assert np.bincount(installed.train.labels).tolist() == [6000] * 10
    assert class_names("fashion_mnist")[installed.train.labels[0]] == "Ankle boot"
