"""The speedrun: its matrix products against ordinary convolutions, its backward pass against jax.grad, its accuracy."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

from jax_mnist.cli.speedrun import main
from jax_mnist.speedrun import net
from jax_mnist.speedrun.recipe import Params, Recipe, init_params, orthogonalize, predict, train

BATCH, FILTERS = 6, (5, 7)


@pytest.fixture(scope="module")
def batch(mnist):
    return mnist.train.images[:BATCH], mnist.train.labels[:BATCH]


@pytest.fixture
def params(x64):
    """Float64 weights, none of them 0, large enough to reach all three pieces of the hard swish."""
    like = jax.eval_shape(lambda: init_params(jax.random.key(0), FILTERS))
    generator = np.random.default_rng(1)
    return Params(*(jnp.asarray(generator.normal(0, 2 * x.shape[-1] ** -0.5, x.shape)) for x in like))


def ordinary(params, images):
    """The same net with ordinary NCHW convolutions. Its pooling splits the gradient at ties; the tests have no ties."""
    x = (images[:, None, 2:26, 2:26].astype(float) / 255 - 0.1307) / 0.3081
    x = lax.conv(x, params.conv1[:, None], (2, 2), "VALID")
    b, f = x.shape[:2]
    x = x.reshape(b, f, 5, 2, 5, 2).max(axis=(3, 5)) + params.bias1[None, :, :, None]
    x = lax.conv(x * jnp.clip(0.3 * x + 0.5, 0, 1), params.conv2.reshape(-1, f, 3, 3), (1, 1), "VALID")
    x = x + params.bias2[None, :, :, None]
    return (x * jnp.clip(0.3 * x + 0.5, 0, 1)).reshape(b, -1) @ params.dense.T + params.bias3.T


def close(ours, theirs, tolerance=1e-12):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def noisy(images):
    """Random pixels, so that no pooling window has ties. On the background of a digit, all four values are equal."""
    return np.random.default_rng(0).integers(0, 256, images.shape, np.uint8)


def test_predict_matches_ordinary_convolutions(batch, params):
    for images in (batch[0], noisy(batch[0])):
        close(predict(params, images), jax.jit(ordinary)(params, jnp.asarray(images)))


def test_backward_pass_matches_jax_grad(batch, params):
    images, labels = noisy(batch[0]), batch[1]

    def loss(params, smoothing):
        targets = optax.smooth_labels(jax.nn.one_hot(labels, 10), smoothing)
        return optax.softmax_cross_entropy(ordinary(params, jnp.asarray(images)), targets).mean()

    @jax.jit
    def ours(params, smoothing):
        patches = net.extract_patches(images)
        activations = net.forward(params, patches)
        upper, d_conv2 = net.backward_upper(params, activations, jnp.asarray(labels), smoothing)
        return Params(*net.backward_conv1(params, activations, patches, d_conv2), *upper)

    theirs = jax.jit(jax.grad(loss))
    for smoothing in (0.0, 0.1):
        close(ours(params, smoothing), theirs(params, smoothing))


@pytest.mark.parametrize(
    ("function", "transpose", "shape"),
    [
        (net.shift_filters, net.shift_filters_transpose, (5, 6, 6)),
        (net.im2col, net.col2im, (5, 25 * BATCH)),
    ],
)
def test_transposes_match_linear_transpose(x64, function, transpose, shape):
    x, key = jax.random.normal(jax.random.key(0), shape), jax.random.key(1)
    gradient = jax.random.normal(key, jax.eval_shape(function, x).shape)
    close(jax.jit(transpose)(gradient), jax.jit(jax.linear_transpose(function, x))(gradient)[0])


def test_gradients_of_max_pool_and_hard_swish_match_jax(x64):
    x = jax.random.normal(jax.random.key(0), (4, 5, 30))
    gradient = jax.random.normal(jax.random.key(1), (5, 30))
    ours = jax.jit(net.max_pool_gradient)(x, gradient).reshape(x.shape)
    close(ours, jax.jit(lambda x, gradient: jax.vjp(lambda x: x.max(axis=0), x)[1](gradient)[0])(x, gradient))
    x = jnp.linspace(-3, 3, 101)
    close(jax.jit(net.hard_swish_derivative)(x), jax.jit(jax.vmap(jax.grad(net.hard_swish)))(x))


def test_first_of_tied_maxima_gets_the_gradient():
    ours = net.max_pool_gradient(jnp.ones((4, 1, 2)), jnp.array([[3.0, 5.0]]))
    assert ours.tolist() == [[3, 5], [0, 0], [0, 0], [0, 0]]


def test_shapes_and_dtypes(strict, batch):
    params = jax.eval_shape(init_params, jax.random.key(0))
    assert sum(x.size for x in params) == 20_546
    assert all(x.dtype == jnp.float32 for x in params)
    activations = jax.eval_shape(lambda params: net.forward(params, net.extract_patches(batch[0])), params)
    shapes = (4, 24, 25 * BATCH), (24, 25 * BATCH), (216, 9 * BATCH), (64, 9 * BATCH), (576, BATCH), (10, BATCH)
    assert tuple(x.shape for x in activations) == shapes
    assert activations.logits.dtype == jnp.float32


def test_orthogonalize_makes_singular_values_about_1():
    matrix = jax.random.normal(jax.random.key(0), (64, 216))
    singular = jnp.linalg.svd(orthogonalize(matrix), compute_uv=False)
    assert 0.6 < singular.min() < singular.max() < 1.3


def test_predict_takes_any_number_of_images(mnist):
    params = jax.jit(lambda key: jax.tree.map(lambda x: x + 0.1, init_params(key)))(jax.random.key(0))
    images = mnist.train.images[: net.CHUNK + 1]
    close(predict(params, images)[-1:], predict(params, images[-1:]), 1e-5)


@pytest.mark.slow
def test_training_learns_compiles_once_and_depends_only_on_key_and_recipe(mnist):
    images, labels = (jnp.asarray(x[:4096]) for x in (mnist.train.images, mnist.train.labels))
    before = train._cache_size()
    runs = [train(jax.random.key(seed), images, labels, Recipe(), steps=64) for seed in (0, 1, 0)]
    faster = train(jax.random.key(0), images, labels, Recipe(adam_rate=0.01), steps=64)
    assert train._cache_size() == before + 1
    assert all((a == b).all() for a, b in zip(runs[0], runs[2], strict=True))
    assert not any((a == b).all() for other in (runs[1], faster) for a, b in zip(runs[0], other, strict=True))
    accuracy = (predict(runs[0], mnist.train.images[-5000:]).argmax(axis=1) == mnist.train.labels[-5000:]).mean()
    assert accuracy > 0.95


@pytest.mark.slow
def test_first_convolution_trains_only_in_the_first_steps(mnist):
    images, labels = mnist.train.images[:256], mnist.train.labels[:256]
    start, never, once = (
        train(jax.random.key(0), images, labels, Recipe(conv1_learns=share), steps=steps)
        for share, steps in ((0.0, 1), (0.0, 4), (0.3, 4))  # in the first of the two steps the dense layer is 0
    )
    assert (start.conv1 == never.conv1).all()
    assert (start.bias1 == never.bias1).all()
    assert not (start.conv1 == once.conv1).any()


def test_too_few_images_are_rejected(batch):
    with pytest.raises(ValueError, match=r"batch of 128.* 6 images"):
        train(jax.random.key(0), *batch)


@pytest.mark.slow
def test_command_prints_and_writes_an_accuracy_of_at_least_0_988_over_five_seeds(tmp_path, capsys):
    path = tmp_path / "speedrun.json"
    assert main(["--seeds", "5", "--hold-out", "10000", "--json", str(path), "--platform", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "device: cpu" in printed
    result = json.loads(path.read_text())
    assert f"held-out accuracy over 5 seeds: {result['accuracy_mean']:.4f}" in printed
    assert result["accuracy_mean"] >= 0.988
    assert result["device"].startswith("cpu")
    assert len(result["accuracies"]) == 5
    assert result["accuracy_mean"] == pytest.approx(np.mean(result["accuracies"]))
    assert result["accuracy_std"] == pytest.approx(np.std(result["accuracies"], ddof=1))
    seconds = {"train_seconds", "first_run_seconds", "compile_seconds", "process_seconds"}
    assert all(result[name] > 0 for name in seconds)


@pytest.mark.parametrize("arguments", [["--seeds", "0"], ["--hold-out", "60000"]])
def test_command_rejects_invalid_options(capsys, arguments):
    assert main(arguments) == 2
    assert arguments[0] in capsys.readouterr().err
