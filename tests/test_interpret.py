import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from marks import slow

from jax_mnist import (
    Dataset,
    Learner,
    Splits,
    cnn,
    evaluate,
    fit,
    flax_mlp,
    interpret,
    linear,
    make_batch,
    mlp,
    mnist_loss,
    softmax_cross_entropy,
)
from jax_mnist.analysis import gradient_norms, most_confused, predict_logits, top_losses

ADAM = optax.adam(1e-3)


@pytest.mark.parametrize("batch_size", [29, slow(1), slow(30)])
def test_logits_do_not_depend_on_the_batch_size(tiny, batch_size):
    model = mlp((784, 5, 3))
    params = model.init(jax.random.key(0))
    expected = jax.jit(model.apply)(params, make_batch(tiny.train.images, tiny.train.labels).x)
    logits = predict_logits(model, params, tiny.train, batch_size=batch_size)
    np.testing.assert_allclose(logits, expected, atol=1e-6)
    unlabeled = predict_logits(model, params, Dataset(tiny.train.images), batch_size=batch_size)
    np.testing.assert_array_equal(unlabeled, logits)


def test_confused_pairs_are_sorted_and_off_the_diagonal():
    confusion = np.array([[90, 2, 3], [0, 80, 1], [3, 0, 70]])
    assert most_confused(confusion) == [(0, 2, 3), (2, 0, 3), (0, 1, 2), (1, 2, 1)]
    assert most_confused(confusion, min_count=3) == [(0, 2, 3), (2, 0, 3)]


def test_top_losses_are_sorted_with_nan_first():
    losses, indices = top_losses(jnp.array([0.5, 2.0, jnp.nan, 2.0, 0.1]), 4)
    assert indices.tolist() == [2, 1, 3, 0]
    np.testing.assert_array_equal(losses[1:], np.float32([2, 2, 0.5]))
    assert len(top_losses(jnp.zeros(3), 9)[0]) == 3


@pytest.mark.parametrize(("make", "loss_fn"), [
    (lambda: mlp((784, 6, 1)), mnist_loss),
    (lambda: flax_mlp((784, 6, 2)), softmax_cross_entropy),
    slow(
        lambda: cnn(filters=(3,), kernels=(3,), hidden=(), classes=2), softmax_cross_entropy),
], ids=["mlp", "flax_mlp", "cnn"])  # fmt: skip
def test_gradient_norm_is_that_of_one_image(tiny, make, loss_fn):
    model = make()
    params = model.init(jax.random.key(0))
    norms = gradient_norms(Learner(model, loss_fn, ADAM), params, tiny.valid, batch_size=4)
    gradient = jax.jit(jax.grad(lambda p, x, y: loss_fn(model.apply(p, x), y)[0]))
    for index, (image, label) in enumerate(tiny.valid):
        gradients = gradient(params, image.reshape(1, -1) / np.float32(255), label[None])
        expected = np.sqrt(sum(np.sum(np.square(g, dtype=float)) for g in jax.tree.leaves(gradients)))
        np.testing.assert_allclose(norms[index], expected, rtol=1e-4)


def test_softmax_gradient_norm_of_a_linear_model_by_hand(tiny):
    """The norm is |softmax - one hot| * sqrt(|x|^2 + 1), since the weights' gradient is an outer product."""
    model = linear(784, 3)
    params = model.init(jax.random.key(0))
    x = np.asarray(make_batch(tiny.train.images, tiny.train.labels).x, float)
    logits = np.asarray(model.apply(params, x.astype(np.float32)), float)
    error = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True) - np.eye(3)[tiny.train.labels]
    expected = np.linalg.norm(error, axis=1) * np.sqrt((x**2).sum(axis=1) + 1)
    found = gradient_norms(Learner(model, softmax_cross_entropy, ADAM), params, tiny.train)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_labels_that_do_not_fit_are_refused(tiny):
    other = Dataset(tiny.valid.images, tiny.valid.labels + 5)
    with pytest.raises(ValueError, match=r"labels .* 5\.\.6"):
        gradient_norms(Learner(linear(), mnist_loss, ADAM), linear().init(jax.random.key(0)), other)


@pytest.mark.slow
@pytest.mark.parametrize(("columns", "loss_fn"), [(1, mnist_loss), (2, softmax_cross_entropy)])
def test_wrong_labels_are_found(sample, columns, loss_fn):
    """Of 20 wrong labels among 2,000, at least 15 are among the 20 most likely to be mislabeled."""
    train = Dataset(sample.train.images[::6][:2000], sample.train.labels[::6][:2000].copy())
    wrong = np.random.default_rng(0).choice(2000, 20, replace=False)
    train.labels[wrong] = 1 - train.labels[wrong]
    splits = Splits(train, sample.valid[::4])
    learner = Learner(linear(784, columns), loss_fn, ADAM)
    state, _ = fit(jax.random.key(0), learner, splits, epochs=10)
    suspects = interpret(learner, state.params, splits, examples=20).likely_mislabeled
    assert len({example.index for example in suspects} & set(wrong.tolist())) >= 15
    assert suspects[0].value < 0.5
    assert all(example.label != example.predicted for example in suspects[:10])


@pytest.mark.slow
def test_fields_of_an_interpretation_agree_with_each_other(tiny):
    learner = Learner(flax_mlp((784, 8, 2)), softmax_cross_entropy, ADAM)
    params = learner.model.init(jax.random.key(1))
    found = interpret(learner, params, tiny, examples=3)
    assert found.metrics == evaluate(learner, params, tiny.valid)
    assert np.trace(found.confusion) == round(float(found.metrics.accuracy) * 10)
    assert sum(pair.count for pair in found.most_confused) == 10 - np.trace(found.confusion)
    assert found.calibration.counts.sum() == 10
    logits = predict_logits(learner.model, params, tiny.valid)
    losses = softmax_cross_entropy(logits, tiny.valid.labels)
    assert [example.index for example in found.top_losses] == np.argsort(-losses)[:3].tolist()
    assert found.top_losses[0].label == tiny.valid.labels[found.top_losses[0].index]
    assert found.largest_gradients[0].value == float(found.gradient_norms.max())
