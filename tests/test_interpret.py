import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jax_mnist import (
    Dataset,
    Splits,
    cnn,
    evaluate,
    examine,
    fit,
    flax_mlp,
    gradient_norms,
    linear,
    make_batch,
    mlp,
    mnist_loss,
    most_confused,
    predict_logits,
    softmax_cross_entropy,
    top_losses,
)


@pytest.mark.parametrize("count", [1, 29, 30])
def test_logits_are_those_of_the_model_whatever_the_batch(tiny, count):
    model = mlp((784, 5, 3))
    params = model.init(jax.random.key(0))
    expected = model.apply(params, make_batch(tiny.train.images, tiny.train.labels).x)
    np.testing.assert_allclose(predict_logits(model, params, tiny.train, count), expected, atol=1e-6)


def test_confused_pairs_are_sorted_and_off_the_diagonal():
    confusion = np.array([[90, 2, 3], [0, 80, 1], [3, 0, 70]])
    assert most_confused(confusion) == [(0, 2, 3), (2, 0, 3), (0, 1, 2), (1, 2, 1)]
    assert most_confused(confusion, least=3) == [(0, 2, 3), (2, 0, 3)]


def test_top_losses_come_largest_first_and_no_number_before_all():
    losses, places = top_losses(jnp.array([0.5, 2.0, jnp.nan, 2.0, 0.1]), 4)
    assert places.tolist() == [2, 1, 3, 0]
    np.testing.assert_array_equal(losses[1:], np.float32([2, 2, 0.5]))
    assert len(top_losses(jnp.zeros(3), 9)[0]) == 3


@pytest.mark.parametrize(("make", "loss_fn"), [
    (lambda: mlp((784, 6, 1)), mnist_loss),
    (lambda: flax_mlp((784, 6, 2)), softmax_cross_entropy),
    (lambda: cnn(filters=(3,), kernels=(3,), hidden=(), classes=2), softmax_cross_entropy),
], ids=["mlp", "flax_mlp", "cnn"])  # fmt: skip
def test_a_gradient_norm_is_that_of_the_image_alone(tiny, make, loss_fn):
    model = make()
    params = model.init(jax.random.key(0))
    norms = gradient_norms(model, params, tiny.valid, loss_fn, batch_size=4)
    for place, (image, label) in enumerate(tiny.valid):
        batch = make_batch(image[None], label[None])
        gradients = jax.grad(lambda p, b=batch: loss_fn(model.apply(p, b.x), b.y)[0])(params)
        expected = np.sqrt(sum(np.sum(np.square(g, dtype=float)) for g in jax.tree.leaves(gradients)))
        np.testing.assert_allclose(norms[place], expected, rtol=1e-4)


def test_the_softmax_norm_of_a_linear_model_by_hand(tiny):
    """|softmax - one hot| * sqrt(|x|^2 + 1): the weights' gradient is an outer product, the bias's its left side."""
    model = linear(784, 3)
    params = model.init(jax.random.key(0))
    x = np.asarray(make_batch(tiny.train.images, tiny.train.labels).x, float)
    logits = np.asarray(model.apply(params, x.astype(np.float32)), float)
    error = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True) - np.eye(3)[tiny.train.labels]
    expected = np.linalg.norm(error, axis=1) * np.sqrt((x**2).sum(axis=1) + 1)
    found = gradient_norms(model, params, tiny.train, softmax_cross_entropy)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_what_does_not_fit_is_refused(tiny):
    other = Dataset(tiny.valid.images, tiny.valid.labels + 5)
    with pytest.raises(ValueError, match="do not fit a model"):
        gradient_norms(linear(), linear().init(jax.random.key(0)), other, mnist_loss)


@pytest.mark.parametrize(("columns", "loss_fn"), [(1, mnist_loss), (2, softmax_cross_entropy)])
def test_wrong_labels_are_found(sample, columns, loss_fn):
    """Twenty of 2,000 training labels are turned: most of them are among the twenty that look so."""
    train = Dataset(sample.train.images[::6][:2000], sample.train.labels[::6][:2000].copy())
    turned = np.random.default_rng(0).choice(2000, 20, replace=False)
    train.labels[turned] = 1 - train.labels[turned]
    splits = Splits(train, sample.valid[::4])
    model = linear(784, columns)
    state, _ = fit(jax.random.key(0), model, splits, epochs=10, loss_fn=loss_fn, optimizer=optax.adam(1e-3))
    findings = examine(model, state.params, splits, loss_fn, examples=20)
    suspects = [example.place for example in findings.look_mislabelled]
    assert len(set(suspects) & set(turned.tolist())) >= 15
    assert findings.look_mislabelled[0].value < 0.5
    assert all(example.label != example.predicted for example in findings.look_mislabelled[:10])


def test_the_findings_agree_with_each_other(tiny):
    model = flax_mlp((784, 8, 2))
    params = model.init(jax.random.key(1))
    findings = examine(model, params, tiny, softmax_cross_entropy, examples=3)
    assert findings.metrics == evaluate(model, params, tiny.valid, softmax_cross_entropy)
    assert np.trace(findings.confusion) == round(float(findings.metrics.accuracy) * 10)
    assert sum(pair.examples for pair in findings.confused) == 10 - np.trace(findings.confusion)
    assert findings.calibration.counts.sum() == 10
    logits = predict_logits(model, params, tiny.valid)
    losses = softmax_cross_entropy(logits, tiny.valid.labels)
    assert [example.place for example in findings.top_losses] == np.argsort(-losses)[:3].tolist()
    assert findings.top_losses[0].label == tiny.valid.labels[findings.top_losses[0].place]
    assert findings.teach_most[0].value == float(findings.gradient_norms.max())
