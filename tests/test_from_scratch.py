import jax
import jax.numpy as jnp
import numpy as np
import pytest
from marks import slow

from jax_mnist import Batch, Layer, batches, gradient, init_params, loss, make_batch, predict, update
from jax_mnist.types import Dataset


def test_init_params_std_scales_weights_and_biases():
    for std in (1.0, 0.1):
        for array in map(np.asarray, init_params(jax.random.key(1), (400, 300), std)[0]):
            assert abs(float(array.mean())) < 4 * std / array.size**0.5
            assert float(array.std()) == pytest.approx(std, rel=4 / (2 * array.size) ** 0.5)


def test_init_params_differ_between_layers_and_keys():
    first, second = init_params(jax.random.key(0), (4, 4, 4))
    other = init_params(jax.random.key(1), (4, 4, 4))[0]
    assert not np.isin(first.weights, second.weights).any()
    assert not np.isin(first.weights, other.weights).any()


@pytest.mark.parametrize("sizes", [(), (784,), (784, 0, 1), (-1, 2)])
def test_init_params_rejects_invalid_sizes(sizes):
    with pytest.raises(ValueError, match=r"sizes.*positive integers"):
        init_params(jax.random.key(0), sizes)


@pytest.mark.parametrize("std", [None, *map(slow, (1.0, 0.1))])
def test_init_params_takes_a_list_and_is_the_same_inside_jit(std):
    params = init_params(jax.random.key(0), [6, 5, 3], std)
    in_jit = jax.jit(lambda key: init_params(key, (6, 5, 3), std))(jax.random.key(0))
    jax.tree.map(np.testing.assert_array_max_ulp, in_jit, params)


def test_predict_matches_numpy_in_float64(x64):
    random = np.random.default_rng(1)
    params = tuple(Layer(random.normal(size=(i, o)), random.normal(size=o)) for i, o in ((6, 5), (5, 3)))
    x = np.random.default_rng(0).random((4, 6))
    hidden = np.maximum(x @ np.asarray(params[0].weights) + np.asarray(params[0].bias), 0)
    expected = hidden @ np.asarray(params[1].weights) + np.asarray(params[1].bias)
    np.testing.assert_allclose(predict(params, x), expected, atol=1e-14)


def test_examples_of_a_batch_are_independent():
    params = init_params(jax.random.key(0), (6, 5, 1))
    jacobian = np.asarray(jax.jit(jax.jacobian(lambda x: predict(params, x)[:, 0]))(np.ones((3, 6), np.float32)))
    for i in range(3):
        assert np.abs(jacobian[i, i]).max() > 0
        assert np.abs(np.delete(jacobian[i], i, axis=0)).max() == 0


@pytest.mark.parametrize("x", [np.zeros((2, 6), np.uint8), np.zeros((2, 5), np.float32), np.float32(1)])
def test_predict_rejects_wrong_dtype_or_shape(x):
    with pytest.raises(ValueError, match=r"x must be float \[b, 6\].*\[0, 1\]"):
        predict(init_params(jax.random.key(0), (6, 1)), np.asarray(x))


def test_gradient_matches_the_analytic_derivative():
    """One example, one weight: the derivative of 1 - sigmoid(w x + b)."""
    params = (Layer(jnp.array([[0.5]]), jnp.array([-0.2])),)
    p = 1 / (1 + np.exp(-(0.5 * 2 - 0.2)))
    found = gradient(params, Batch(jnp.array([[2.0]]), jnp.array([1]), jnp.array([True])))[0]
    np.testing.assert_allclose(found.bias, [-p * (1 - p)], rtol=1e-6)
    np.testing.assert_allclose(found.weights, [[-2 * p * (1 - p)]], rtol=1e-6)


def test_padding_does_not_change_loss_or_gradient(x64):
    images = np.random.default_rng(0).integers(0, 256, (5, 2, 3), np.uint8)
    dataset = Dataset(images, np.array([1, 0, 1, 0, 1], np.int32))
    params = init_params(jax.random.key(0), (6, 4, 1))
    *_, padded = batches(dataset, 3)
    unpadded = make_batch(images[3:], dataset.labels[3:])
    assert padded.x.shape == (3, 6)
    assert unpadded.x.shape == (2, 6)
    both = jax.jit(lambda params, batch: (loss(params, batch), gradient(params, batch)))
    for a, b in zip(*(jax.tree.leaves(both(params, batch)) for batch in (padded, unpadded)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-14, atol=1e-16)


def test_update_compiles_once_for_all_batches_and_learning_rates(sample, monkeypatch):
    traces = []

    def counting(params, x):
        traces.append(x.shape)
        return predict(params, x)

    monkeypatch.setattr("jax_mnist.chapter.from_scratch.predict", counting)
    params = (Layer(jnp.zeros((784, 1)), jnp.zeros(1)),)
    for i, batch in enumerate(batches(sample.valid, 300)):
        params = update(params, batch, 1.0 / (i + 1))
    assert i == 6
    assert traces == [(300, 784)]


def test_update_subtracts_learning_rate_times_gradient(sample):
    params = init_params(jax.random.key(0), (784, 1))
    batch = next(batches(sample.train, 64))
    gradients = jax.jit(jax.grad(loss))(params, batch)
    for new, old, slope in zip(*map(jax.tree.leaves, (update(params, batch, 0.3), params, gradients)), strict=True):
        np.testing.assert_allclose(new, np.asarray(old) - 0.3 * np.asarray(slope), rtol=1e-6, atol=1e-7)
