import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jax_mnist import Dataset, batches, epoch_indices, make_batch, take_batch, to_float


def numbered(count):
    return Dataset(np.arange(count * 4, dtype=np.uint8).reshape(count, 2, 2), np.arange(count, dtype=np.int32))


@given(st.integers(1, 60), st.integers(1, 70), st.booleans(), st.integers(0, 5))
@settings(deadline=None, max_examples=8)
def test_every_image_exactly_once(count, batch_size, shuffle, epoch):
    indices, mask = epoch_indices(jax.random.key(1), epoch, count, batch_size, shuffle)
    assert indices.shape == mask.shape == (-(-count // batch_size), batch_size)
    assert sorted(indices[mask].tolist()) == list(range(count))
    assert mask[:-1].all()


def test_order_is_a_function_of_key_and_epoch():
    orders = [
        epoch_indices(jax.random.key(seed), epoch, 1000, 1000)[0][0]
        for seed, epoch in [(0, 0), (0, 0), (0, 1), (1, 0), (1, 1)]
    ]
    np.testing.assert_array_equal(orders[0], orders[1])
    for i in range(1, 5):
        for j in range(i):
            if (j, i) != (0, 1):
                assert (orders[i] == orders[j]).mean() < 0.02


def test_order_is_uniform():
    """Each of 6 places is taken by each of 6 images about equally often (chi-squared, 25 degrees of freedom)."""
    orders = jax.vmap(lambda epoch: epoch_indices(jax.random.key(0), epoch, 6, 6)[0][0])(jnp.arange(3000))
    counts = np.stack([np.bincount(np.asarray(orders[:, place]), minlength=6) for place in range(6)])
    assert ((counts - 500) ** 2 / 500).sum() < 55


def test_without_shuffling_the_order_is_the_datasets():
    indices, mask = epoch_indices(jax.random.key(0), 3, 7, 3, shuffle=False)
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
    for batch, places, counted in zip(batches(numbered(7), 3, key, epoch=2), indices, mask, strict=True):
        expected = take_batch(numbered(7), places, counted)
        np.testing.assert_array_equal(batch.y, expected.y)
        np.testing.assert_array_equal(batch.mask, expected.mask)


def test_batch_size_below_one():
    with pytest.raises(ValueError, match="batch_size must be 1 or more, not 0"):
        next(batches(numbered(3), 0))


def test_pixels_become_the_default_float(x64, strict):
    x = make_batch(np.full((1, 2, 2), 51, np.uint8), np.zeros(1, np.int32)).x
    assert x.dtype == jnp.float64
    np.testing.assert_allclose(x, 0.2, rtol=1e-15)


def test_floats_stay_and_other_integers_are_refused():
    assert to_float(jnp.ones(2, jnp.bfloat16)).dtype == jnp.bfloat16
    with pytest.raises(ValueError, match="uint8 in 0"):
        to_float(np.ones(2, np.int64))
