"""The chapter's functions under jit, vmap, grad, jvp, hessian and eval_shape, in three float dtypes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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

LABELS = np.array([1, 0, 1], np.int32)
LOGITS = np.array([[0.3], [-1.2], [2.0]])
IMAGES = np.linspace(0.1, 0.9, 2 * 3 * 4).reshape(2, 3, 4)
PARAMS = jax.tree.map(np.asarray, init_params(jax.random.key(0), (5, 4, 1), std=None))


def layers(dtype):
    return jax.tree.map(lambda a: jnp.asarray(a, dtype), PARAMS)


def batch(dtype):
    return Batch(jnp.asarray(np.linspace(0, 1, 15).reshape(3, 5), dtype), LABELS, np.array([True, True, False]))


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


def shapes_and_dtypes(tree):
    return jax.tree.map(lambda a: (a.shape, a.dtype), tree)


@all_functions
def test_jit_and_eval_shape_match_the_plain_call_under_strict_promotion(strict, name):
    function, argument = FUNCTIONS[name][0], FUNCTIONS[name][1](jnp.float32)
    result = function(argument)
    assert shapes_and_dtypes(jax.eval_shape(function, argument)) == shapes_and_dtypes(result)
    assert_close(jax.jit(function)(argument), result, 1e-6)


@all_functions
def test_dtype_is_kept_and_bfloat16_matches_float32(strict, name):
    function, make = FUNCTIONS[name]
    # One program for both dtypes, since compiling is what takes the time here.
    exact, rounded = jax.jit(lambda *arguments: [function(a) for a in arguments])(*map(make, DTYPES.values()))
    assert {leaf.dtype for leaf in jax.tree.leaves(exact)} == {jnp.dtype("float32")}
    assert {leaf.dtype for leaf in jax.tree.leaves(rounded)} == {jnp.dtype("bfloat16")}
    assert_close(rounded, exact, 3e-2)


@all_functions
def test_vmap_matches_a_loop(strict, name):
    function, argument = FUNCTIONS[name][0], FUNCTIONS[name][1](jnp.float32)
    stacked = jax.tree.map(lambda a: np.stack([a, 0.5 * np.asarray(a)]), argument)

    @jax.jit
    def both(stacked):
        return jax.vmap(function)(stacked), [function(jax.tree.map(lambda a, i=i: a[i], stacked)) for i in range(2)]

    together, one_by_one = both(stacked)
    for i in range(2):
        assert_close(jax.tree.map(lambda a, i=i: a[i], together), one_by_one[i], 1e-6)


@all_functions
def test_first_and_second_derivatives_in_float64(x64, strict, name):
    """Forward mode matches central differences, reverse mode matches forward mode, and the Hessian both."""
    function, argument = FUNCTIONS[name][0], FUNCTIONS[name][1](jnp.float64)
    flat, unflatten = jax.flatten_util.ravel_pytree(argument)
    vector, step_size = np.sin(np.arange(flat.size)), 1e-5

    def flat_function(v):
        return jax.flatten_util.ravel_pytree(function(unflatten(v)))[0]

    def total(v):
        return jnp.sum(flat_function(v))

    @jax.jit
    def derivatives(v):
        difference = (flat_function(v + step_size * vector) - flat_function(v - step_size * vector)) / (2 * step_size)
        _, forward = jax.jvp(flat_function, (v,), (vector,))
        value, pullback = jax.vjp(flat_function, v)
        cotangent = jnp.cos(jnp.arange(value.size, dtype=float))
        _, product = jax.jvp(jax.grad(total), (v,), (vector,))
        return value, difference, forward, cotangent, pullback(cotangent)[0], jax.hessian(total)(v), product

    value, difference, forward, cotangent, reverse, hessian, product = map(np.asarray, derivatives(flat))
    assert value.dtype == np.float64
    np.testing.assert_allclose(forward, difference, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(cotangent @ forward, reverse @ vector, rtol=1e-9, atol=1e-12)
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

    keys = jax.random.split(jax.random.key(0), 3)
    stacked, last = jax.jit(lambda keys: (jax.vmap(init)(keys), init(jax.random.clone(keys)[2])))(keys)
    assert_close(jax.tree.map(lambda a: a[2], stacked), last, 0)
    shapes = jax.eval_shape(init, jax.random.key(0))
    assert [layer.weights.shape for layer in shapes] == [(5, 4), (4, 1)]


def test_init_params_is_float64_in_x64_mode(x64, strict):
    params = jax.eval_shape(lambda key: init_params(key, (5, 1), std=None), jax.random.key(0))
    assert {a.dtype for a in jax.tree.leaves(params)} == {jnp.dtype("float64")}
