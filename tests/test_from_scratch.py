import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_mnist import Batch, Layer, batches, gradient, init_params, loss, make_batch, predict, update
from jax_mnist.types import Dataset


def test_init_params_std_scales_weights_and_biases():
    for std in (1.0, 0.1):
        layer = init_params(jax.random.key(1), (400, 300), std)[0]
        for array in layer:
            assert abs(float(array.mean())) < 4 * std / array.size**0.5
            assert float(array.std()) == pytest.approx(std, rel=4 / (2 * array.size) ** 0.5)


def test_init_params_differ_by_layer_and_key():
    first, second = init_params(jax.random.key(0), (4, 4, 4))
    other = init_params(jax.random.key(1), (4, 4, 4))[0]
    assert not np.isin(first.weights, second.weights).any()
    assert not np.isin(first.weights, other.weights).any()


@pytest.mark.parametrize("sizes", [(), (784,), (784, 0, 1), (-1, 2)])
def test_sizes_that_make_no_layer(sizes):
    with pytest.raises(ValueError, match="two or more positive integers"):
        init_params(jax.random.key(0), sizes)


def test_predict_is_numpys_in_float64(x64):
    params = init_params(jax.random.key(0), (6, 5, 3))
    x = np.random.default_rng(0).random((4, 6))
    hidden = np.maximum(x @ np.asarray(params[0].weights) + np.asarray(params[0].bias), 0)
    expected = hidden @ np.asarray(params[1].weights) + np.asarray(params[1].bias)
    np.testing.assert_allclose(predict(params, x), expected, atol=1e-14)


def test_no_crosstalk_between_examples():
    params = init_params(jax.random.key(0), (6, 5, 1))
    jacobian = jax.jacobian(lambda x: predict(params, x)[:, 0])(jnp.ones((3, 6)))
    for i in range(3):
        assert jnp.abs(jacobian[i, i]).max() > 0
        assert jnp.abs(jnp.delete(jacobian[i], i, axis=0)).max() == 0


@pytest.mark.parametrize("x", [np.zeros((2, 6), np.uint8), np.zeros((2, 5), np.float32), np.float32(1)])
def test_predict_refuses_other_pixels(x):
    with pytest.raises(ValueError, match=r"float \[b, 6\] with pixels in \[0, 1\]"):
        predict(init_params(jax.random.key(0), (6, 1)), np.asarray(x))


def test_gradient_by_hand():
    """One example, one weight: the slope of 1 - sigmoid(w x + b)."""
    params = (Layer(jnp.array([[0.5]]), jnp.array([-0.2])),)
    p = 1 / (1 + np.exp(-(0.5 * 2 - 0.2)))
    found = gradient(params, Batch(jnp.array([[2.0]]), jnp.array([1]), jnp.array([True])))[0]
    np.testing.assert_allclose(found.bias, [-p * (1 - p)], rtol=1e-6)
    np.testing.assert_allclose(found.weights, [[-2 * p * (1 - p)]], rtol=1e-6)


def test_gradient_of_a_padded_batch_is_that_of_its_images(x64):
    images = np.random.default_rng(0).integers(0, 256, (5, 2, 3), np.uint8)
    dataset = Dataset(images, np.array([1, 0, 1, 0, 1], np.int32))
    params = init_params(jax.random.key(0), (6, 4, 1))
    *_, padded = batches(dataset, 3)
    alone = make_batch(images[3:], dataset.labels[3:])
    assert padded.x.shape == (3, 6)
    assert alone.x.shape == (2, 6)
    for a, b in zip(*(jax.tree.leaves(gradient(params, batch)) for batch in (padded, alone)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-14, atol=1e-16)
    np.testing.assert_allclose(loss(params, padded), loss(params, alone), rtol=1e-14)


def test_update_compiles_once_for_all_batches_and_rates(sample, monkeypatch):
    traces = []

    def counting(params, x):
        traces.append(x.shape)
        return predict(params, x)

    monkeypatch.setattr("jax_mnist.chapter.from_scratch.predict", counting)
    params = init_params(jax.random.key(0), (784, 7, 1))
    for i, batch in enumerate(batches(sample.valid, 300)):
        params = update(params, batch, 1.0 / (i + 1))
    assert i == 6
    assert traces == [(300, 784)]


def test_update_is_the_written_formula(sample):
    params = init_params(jax.random.key(0), (784, 1), std=0.1)
    batch = next(batches(sample.train, 64))
    slopes = jax.grad(loss)(params, batch)
    for new, old, slope in zip(*map(jax.tree.leaves, (update(params, batch, 0.3), params, slopes)), strict=True):
        np.testing.assert_allclose(new, old - 0.3 * slope, rtol=1e-6, atol=1e-7)
