import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_mnist import binary_cross_entropy, mnist_loss, softmax_cross_entropy
from jax_mnist.labels import is_class
from jax_mnist.losses import l1, mse

ONE_COLUMN = [mnist_loss, l1, mse, binary_cross_entropy]


@pytest.mark.parametrize("function", ONE_COLUMN)
def test_one_loss_per_example_with_or_without_a_last_axis_of_1(function):
    logits, labels = jnp.array([0.3, 0.9]), jnp.array([1, 0])
    assert function(logits, labels).shape == (2,)
    np.testing.assert_array_equal(function(logits[:, None], labels), function(logits, labels))
    np.testing.assert_array_equal(function(logits[:, None], labels[:, None])[:, 0], function(logits, labels))


@pytest.mark.parametrize("function", ONE_COLUMN)
def test_a_column_for_each_class_names_the_loss_that_takes_them(function):
    with pytest.raises(ValueError, match=r"logits \(3, 10\) and labels \(3,\); softmax_cross_entropy takes a column"):
        function(jnp.zeros((3, 10)), jnp.zeros(3, jnp.int32))


@pytest.mark.parametrize("function", ONE_COLUMN)
@pytest.mark.parametrize("labels", [(3, 1), (2,), (3, 3)])
def test_shapes_that_would_broadcast_are_rejected(function, labels):
    with pytest.raises(ValueError, match=r"logits \(3,\) and labels \("):
        function(jnp.zeros(3), jnp.zeros(labels, jnp.int32))


def test_softmax_cross_entropy_rejects_other_shapes():
    with pytest.raises(ValueError, match=r"labels must be \(3,\)"):
        softmax_cross_entropy(jnp.zeros((3, 10)), jnp.zeros((3, 1), jnp.int32))


@pytest.mark.parametrize("logit", [-1e9, -30.0, 0.0, 2.5, 30.0, 1e9])
@pytest.mark.parametrize("label", [0, 1])
def test_binary_cross_entropy_matches_float64(logit, label):
    expected = np.logaddexp(0, -logit if label else logit)
    found = binary_cross_entropy(jnp.array([logit]), jnp.array([label]))
    np.testing.assert_allclose(found, [expected], rtol=1e-6)


def test_softmax_cross_entropy_matches_float64():
    logits = np.random.default_rng(0).normal(0, 3, (5, 10))
    labels = np.array([0, 9, 3, 3, 7])
    expected = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(5), labels]
    found = softmax_cross_entropy(jnp.asarray(logits, jnp.float32), labels)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_softmax_cross_entropy_does_not_overflow():
    found = softmax_cross_entropy(jnp.array([[1e30, -1e30], [0.0, 1e5]]), jnp.array([0, 0]))
    np.testing.assert_allclose(found, [0, 1e5])


def test_mnist_loss_is_the_distance_of_the_probability_to_the_label():
    logits = jnp.array([[-2.0], [0.0], [4.0]])
    probability = 1 / (1 + np.exp([2.0, 0.0, -4.0]))
    np.testing.assert_allclose(mnist_loss(logits, jnp.array([1, 1, 1])), 1 - probability, rtol=1e-5)
    np.testing.assert_allclose(mnist_loss(logits, jnp.array([0, 0, 0])), probability, rtol=1e-5)


def test_label_smoothing_matches_the_formula_of_pytorch():
    logits, labels = np.random.default_rng(0).normal(size=(5, 4)), np.array([0, 3, 1, 2, 2])
    found = softmax_cross_entropy(jnp.asarray(logits, jnp.float32), jnp.asarray(labels), label_smoothing=0.1)
    log_probabilities = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected = -0.9 * log_probabilities[np.arange(5), labels] - 0.1 * log_probabilities.mean(axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


SMOOTHED = functools.partial(softmax_cross_entropy, label_smoothing=0.1)
OUT_OF_RANGE = [
    (mnist_loss, 1, 3), (mnist_loss, 1, 7), (mnist_loss, 1, -1), (mnist_loss, 1, 0.5),
    (binary_cross_entropy, 1, 2), (binary_cross_entropy, 1, -1),
    (softmax_cross_entropy, 4, 4), (softmax_cross_entropy, 4, -1),
    (SMOOTHED, 4, 4), (SMOOTHED, 4, -1),
]  # fmt: skip


@pytest.mark.parametrize("module", [np, jnp])
@pytest.mark.parametrize(("function", "columns", "label"), OUT_OF_RANGE)
def test_labels_out_of_range_raise_or_are_nan_if_traced(function, columns, label, module):
    logits, labels = jnp.full((2, columns), 2.0), module.array([1, label])
    with pytest.raises(ValueError, match=rf"labels must be .*, got {label}"):
        function(logits, labels)
    with pytest.raises(ValueError, match="labels must be"):
        jax.grad(lambda logits: function(logits, labels).sum())(logits)
    losses = jax.jit(function)(logits, labels)
    assert np.isnan(losses).tolist() == [False, True]
    gradient = jax.jit(jax.grad(lambda logits, labels: function(logits, labels).sum()))(logits, labels)
    assert np.isnan(gradient).all(axis=1).tolist() == [False, True]


def test_probabilities_are_labels_of_binary_cross_entropy():
    found = binary_cross_entropy(jnp.array([0.0, 1.0]), jnp.array([0.3, 0.0]))
    np.testing.assert_allclose(found, [np.log(2), np.log1p(np.e)], rtol=1e-6)


def test_labels_of_classes_must_be_integers():
    """Annotations say so, too, but only in tests."""
    assert is_class(jnp.array([True, False]), 2).all()
    with pytest.raises(ValueError, match="labels must be integers, got float32"):
        is_class(jnp.array([0.5, 1.0]), 10)


@pytest.mark.parametrize("function", [softmax_cross_entropy, SMOOTHED])
def test_labels_that_a_compiled_function_knows_raise(function):
    with pytest.raises(ValueError, match=r"labels must be in 0\.\.3, got 4"):
        jax.jit(lambda logits: function(logits, np.array([0, 4])))(jnp.zeros((2, 4)))
