"""The chapter's functions under jit, vmap, grad, jvp, hessian and eval_shape, in three float dtypes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jax_mnist import (
    Batch,
    Dataset,
    accuracy,
    binary_cross_entropy,
    class_means,
    gradient,
    init_params,
    l1_distance,
    l2_distance,
    loss,
    mnist_loss,
    nearest_mean,
    predict,
    softmax_cross_entropy,
    step,
    update,
)
from jax_mnist.losses import l1, mse

LABELS = jnp.array([1, 0, 1])
LOGITS = np.array([[0.3], [-1.2], [2.0]])
IMAGES = np.linspace(0.1, 0.9, 2 * 3 * 4).reshape(2, 3, 4)


def layers(dtype):
    return jax.tree.map(lambda a: a.astype(dtype), init_params(jax.random.key(0), (5, 4, 1), std=None))


def batch(dtype):
    return Batch(jnp.linspace(0, 1, 15).reshape(3, 5).astype(dtype), LABELS, jnp.array([True, True, False]))


# name: (a function of one differentiable argument, a function from dtype to that argument)
FUNCTIONS = {
    "mnist_loss": (lambda s: mnist_loss(s, LABELS), lambda d: jnp.asarray(LOGITS, d)),
    "l1": (lambda s: l1(s, LABELS), lambda d: jnp.asarray(LOGITS, d)),
    "mse": (lambda s: mse(s, LABELS), lambda d: jnp.asarray(LOGITS, d)),
    "binary_cross_entropy": (lambda s: binary_cross_entropy(s, LABELS), lambda d: jnp.asarray(LOGITS, d)),
    "softmax_cross_entropy": (
        lambda s: softmax_cross_entropy(s, LABELS),
        lambda d: jnp.asarray(LOGITS * np.array([[1.0, 0.2, -0.7]]), d),
    ),
    "l1_distance": (lambda a: l1_distance(a, a[0] * a[0]), lambda d: jnp.asarray(IMAGES, d)),
    "l2_distance": (lambda a: l2_distance(a, a[0] * a[0]), lambda d: jnp.asarray(IMAGES, d)),
    "class_means": (
        lambda a: class_means(Dataset(a, jnp.array([1, 0])), class_count=2),
        lambda d: jnp.asarray(IMAGES, d),
    ),
    "predict": (lambda x: predict(layers(x.dtype), x), lambda d: batch(d).x),
    "loss": (lambda p: loss(p, batch(p[0].bias.dtype)), layers),
    "step": (lambda p: step(p, p, 0.1), layers),
    "update": (lambda p: update(p, batch(p[0].bias.dtype), 0.1), layers),
    "gradient": (lambda p: gradient(p, batch(p[0].bias.dtype)), layers),
}
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
all_functions = pytest.mark.parametrize("name", FUNCTIONS)


def leaves(tree):
    return [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(tree)]


def assert_close(actual, expected, rtol):
    for a, e in zip(leaves(actual), leaves(expected), strict=True):
        np.testing.assert_allclose(a, e, rtol=rtol, atol=rtol)


def total(function):
    return lambda argument: sum(jnp.sum(leaf) for leaf in jax.tree.leaves(function(argument)))


@all_functions
@pytest.mark.parametrize("dtype", DTYPES)
def test_dtype_is_kept_under_strict_promotion_jit_and_eval_shape(strict, name, dtype):
    function, argument = FUNCTIONS[name][0], FUNCTIONS[name][1](DTYPES[dtype])
    result = function(argument)
    assert {leaf.dtype for leaf in jax.tree.leaves(result)} == {jnp.dtype(dtype)}
    shapes = jax.eval_shape(function, argument)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), shapes) == jax.tree.map(lambda a: (a.shape, a.dtype), result)
    assert_close(jax.jit(function)(argument), result, 1e-6 if dtype == "float32" else 2e-2)


@all_functions
def test_bfloat16_matches_float32(name):
    function, make = FUNCTIONS[name]
    assert_close(function(make(jnp.bfloat16)), function(make(jnp.float32)), 3e-2)


@all_functions
def test_vmap_matches_a_loop(strict, name):
    function, argument = FUNCTIONS[name][0], FUNCTIONS[name][1](jnp.float32)
    stacked = jax.tree.map(lambda a: jnp.stack([a, 0.5 * a]), argument)
    for i, result in enumerate(function(jax.tree.map(lambda a, i=i: a[i], stacked)) for i in range(2)):
        assert_close(jax.tree.map(lambda a, i=i: a[i], jax.vmap(function)(stacked)), result, 1e-6)


@all_functions
def test_gradients_match_finite_differences_in_float64(x64, strict, name):
    """First derivatives, forward and reverse mode; the next test covers second derivatives."""
    function, argument = FUNCTIONS[name][0], FUNCTIONS[name][1](jnp.float64)
    check_grads(jax.jit(function), (argument,), order=1, modes=["fwd", "rev"], rtol=1e-5, atol=1e-5)
    assert {leaf.dtype for leaf in jax.tree.leaves(function(argument))} == {jnp.dtype("float64")}


@all_functions
def test_hessian_vector_product_matches_the_jvp_of_the_gradient(x64, strict, name):
    function, argument = FUNCTIONS[name][0], FUNCTIONS[name][1](jnp.float64)
    flat, unflatten = jax.flatten_util.ravel_pytree(argument)
    vector = np.sin(np.arange(flat.size))

    def sum_of_results(v):
        return total(function)(unflatten(v))

    def both(v):
        _, product = jax.jvp(jax.grad(sum_of_results), (v,), (jnp.asarray(vector),))
        return jax.hessian(sum_of_results)(v), product

    hessian, product = map(np.asarray, jax.jit(both)(flat))
    np.testing.assert_allclose(hessian @ vector, product, atol=1e-12)
    np.testing.assert_allclose(hessian, hessian.T, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
def test_integer_results_under_jit_vmap_and_eval_shape(strict, dtype):
    images, means = jnp.asarray(IMAGES, DTYPES[dtype]), jnp.asarray(IMAGES[::-1], DTYPES[dtype])
    assert nearest_mean(images, means).tolist() == [1, 0]
    assert jax.vmap(lambda image: nearest_mean(image, means))(images).tolist() == [1, 0]
    assert jax.eval_shape(nearest_mean, images, means).dtype == jnp.int32
    logits = jnp.asarray(LOGITS, DTYPES[dtype])
    assert jax.jit(accuracy)(logits, LABELS) == accuracy(logits, LABELS) == 1


def test_init_params_under_vmap_and_eval_shape(strict):
    def init(key):
        return init_params(key, (5, 4, 1))

    stacked = jax.vmap(init)(jax.random.split(jax.random.key(0), 3))
    assert_close(jax.tree.map(lambda a: a[2], stacked), init(jax.random.split(jax.random.key(0), 3)[2]), 0)
    shapes = jax.eval_shape(init, jax.random.key(0))
    assert [layer.weights.shape for layer in shapes] == [(5, 4), (4, 1)]


def test_init_params_is_float64_in_x64_mode(x64, strict):
    assert {a.dtype for a in jax.tree.leaves(init_params(jax.random.key(0), (5, 1), std=None))} == {
        jnp.dtype("float64")
    }
