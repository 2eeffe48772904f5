import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marks import slow

from jax_mnist import Dataset, batches, make_batch
from jax_mnist.data import epoch_indices, map_batches, random_order, take_batch, to_float


def numbered(count):
    return Dataset(np.arange(count * 4, dtype=np.uint8).reshape(count, 2, 2), np.arange(count, dtype=np.int32))


@given(st.integers(1, 60), st.integers(1, 70), st.booleans(), st.integers(0, 5))
@settings(deadline=None, max_examples=4)
def test_every_image_exactly_once(count, batch_size, shuffle, epoch):
    indices, mask = map(np.asarray, epoch_indices(jax.random.key(1) if shuffle else None, epoch, count, batch_size))
    assert indices.shape == mask.shape == (-(-count // batch_size), batch_size)
    assert sorted(indices[mask].tolist()) == list(range(count))
    assert mask[:-1].all()


def test_images_need_no_labels():
    images = numbered(5).images
    dataset = Dataset(images)
    assert len(dataset) == 5
    assert dataset[1][1] is dataset[3:].labels is dataset[[0, 2]].labels is None
    np.testing.assert_array_equal(dataset[[4, 1]].images, images[[4, 1]])
    batch = make_batch(images)
    np.testing.assert_array_equal(batch.x, make_batch(images, numbered(5).labels).x)
    assert batch.y is None
    assert batch.mask.tolist() == [True] * 5


def test_order_is_a_function_of_key_and_epoch():
    orders = [
        np.asarray(epoch_indices(jax.random.key(seed), epoch, 1000, 1000)[0][0])
        for seed, epoch in [(0, 0), (0, 0), (0, 1), (1, 0), (1, 1)]
    ]
    np.testing.assert_array_equal(orders[0], orders[1])
    for i in range(1, 5):
        for j in range(i):
            if (j, i) != (0, 1):
                assert (orders[i] == orders[j]).mean() < 0.02


def test_order_is_uniform():
    """Each of 6 positions has each of 6 images about equally often (chi-squared, 25 degrees of freedom)."""
    orders = jax.vmap(lambda epoch: epoch_indices(jax.random.key(0), epoch, 6, 6)[0][0])(jnp.arange(3000))
    counts = np.stack([np.bincount(np.asarray(orders[:, position]), minlength=6) for position in range(6)])
    assert ((counts - 500) ** 2 / 500).sum() < 55


@pytest.mark.parametrize("count", [2, 65_536, *map(slow, (1000, 700_000))])
def test_order_is_a_permutation_without_runs_in_file_order(count):
    """One sort by 12 random bits would leave runs of about 170 of 700,000 images in file order."""
    order = np.asarray(random_order(jax.random.key(count), count))
    np.testing.assert_array_equal(np.sort(order), np.arange(count))
    ascending = np.diff(order) > 0
    assert abs(ascending.mean() - 0.5) <= 4 * count**-0.5
    neighbors = np.abs(np.diff(order)) == 1  # a random order has 2 of them on average
    assert count < 1000 or neighbors.sum() < 12
    breaks = np.flatnonzero(np.diff(np.concatenate([[-1], ascending, [-1]])))
    assert np.diff(breaks).max(initial=0) < 14  # the longest run, up or down


def test_every_order_of_three_images_is_equally_likely():
    orders = jax.vmap(lambda key: random_order(key, 3))(jax.random.split(jax.random.key(0), 6000))
    counts = np.unique(np.asarray(orders), axis=0, return_counts=True)[1]
    assert len(counts) == 6
    assert ((counts - 1000) ** 2 / 1000).sum() < 20.5  # chi-squared, 5 degrees of freedom, p = 0.001


def test_mapping_batches_gives_one_row_for_each_image():
    for batch_size in (3, 20):
        sums, labels = map_batches(lambda batch: (batch.x.sum(axis=1), batch.y), numbered(7), batch_size)
        np.testing.assert_allclose(sums, numbered(7).images.sum(axis=(1, 2)) / 255, rtol=1e-6)
        assert labels.tolist() == list(range(7))
    with pytest.raises(ValueError, match=r"batch_size .* 0"):
        map_batches(lambda batch: batch.y, numbered(7), 0)


def test_without_shuffling_the_order_is_the_datasets():
    indices, mask = epoch_indices(None, 3, 7, 3)
    assert indices[mask].tolist() == list(range(7))


def test_batches_are_the_images_with_their_labels():
    dataset = numbered(7)
    for key in (None, jax.random.key(0)):
        seen = list(batches(dataset, 3, key))
        assert [batch.x.shape for batch in seen] == [(3, 4)] * 3
        for batch in seen:
            expected = dataset.images[np.asarray(batch.y)].reshape(3, 4) / 255
            np.testing.assert_allclose(batch.x, expected, atol=1e-7)
        assert sorted(np.concatenate([batch.y[batch.mask] for batch in seen]).tolist()) == list(range(7))


def test_batches_by_key_and_epoch_are_those_of_the_compiled_epoch():
    key = jax.random.key(5)
    indices, mask = epoch_indices(key, 2, 7, 3)
    for batch, image_indices, batch_mask in zip(batches(numbered(7), 3, key, epoch=2), indices, mask, strict=True):
        expected = take_batch(numbered(7), image_indices, batch_mask)
        np.testing.assert_array_equal(batch.y, expected.y)
        np.testing.assert_array_equal(batch.mask, expected.mask)


def test_batch_size_below_one():
    with pytest.raises(ValueError, match=r"batch_size .* 0"):
        next(batches(numbered(3), 0))


def test_pixels_become_the_default_float(x64, strict):
    x = make_batch(np.full((1, 2, 2), 51, np.uint8), np.zeros(1, np.int32)).x
    assert x.dtype == jnp.float64
    np.testing.assert_allclose(x, 0.2, rtol=1e-15)


def test_floats_stay_and_other_integers_are_refused():
    assert to_float(jnp.ones(2, jnp.bfloat16)).dtype == jnp.bfloat16
    with pytest.raises(ValueError, match="uint8 in 0"):
        to_float(np.ones(2, np.int64))


@pytest.mark.parametrize("module", [np, jnp])
def test_float_pixels_in_0_to_255_are_refused(module):
    labels = np.zeros(2, np.int32)
    good = np.random.default_rng(0).random((2, 4, 4), np.float32)
    with pytest.raises(ValueError, match=r"pixels must be uint8 .* got float32 up to 24.*; divide them by 255"):
        make_batch(module.asarray(255 * good), labels)
    for accepted in (good, (good - 0.13) / 0.31):  # in [0, 1], and standardized
        np.testing.assert_array_equal(make_batch(module.asarray(accepted), labels).x, accepted.reshape(2, 16))
