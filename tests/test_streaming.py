"""Streaming: `train_step` over any iterator of batches reaches the parameters of `train_epoch`."""

import importlib

import jax
import numpy as np
import optax
import pytest
from marks import slow

from jax_mnist import Learner, batches, init_state, make_batch, mlp, mnist_loss, train_epoch, train_step

LEARNER = Learner(mlp((784, 30, 1)), mnist_loss, optax.sgd(0.1, momentum=0.9))


@pytest.fixture(scope="module")
def start():
    return init_state(jax.random.key(0), LEARNER)


@pytest.fixture(scope="module")
def in_memory(start, sample):
    return train_epoch(LEARNER._replace(shuffle=False), start, sample.train)[0]


def from_a_file(dataset, directory):
    """Yield batches of an array on disk, of which one batch at a time is in memory."""
    np.save(directory / "images.npy", dataset.images)
    images = np.load(directory / "images.npy", mmap_mode="r")
    for i in range(0, len(images), 256):
        yield np.array(images[i : i + 256]), dataset.labels[i : i + 256]


def from_grain(dataset, _):
    return iter(importlib.import_module("grain").MapDataset.source(dataset).batch(256))


def from_torch(dataset, _):
    loader = importlib.import_module("torch.utils.data").DataLoader(dataset, batch_size=256)
    return ((images.numpy(), labels.numpy()) for images, labels in loader)


@pytest.mark.parametrize(
    "stream",
    [from_a_file, from_grain, slow(from_torch)],
    ids=lambda stream: stream.__name__,
)
def test_stream_reaches_the_parameters_of_the_in_memory_path(start, in_memory, sample, tmp_path, stream):
    if stream is not from_a_file:
        pytest.importorskip(stream.__name__.removeprefix("from_"))
    step, state = train_step(LEARNER), start
    for images, labels in stream(sample.train, tmp_path):
        state, _ = step(state, make_batch(images, labels))
    assert_close(state.params, in_memory.params)


def test_shuffled_batches_reach_the_parameters_of_the_in_memory_path(start, sample):
    shuffled = train_epoch(LEARNER, start, sample.train)[0]
    step, state = train_step(LEARNER), start
    for batch in batches(sample.train, 256, start.key, epoch=0):
        state, _ = step(state, batch)
    assert_close(state.params, shuffled.params)


def assert_close(params, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6), params, expected)
