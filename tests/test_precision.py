import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jax_mnist import Learner, fit, flax_mlp, mlp, mnist_loss
from jax_mnist.models import mixed_precision


@pytest.mark.parametrize("make", [mlp, flax_mlp])
def test_mixed_precision_computes_in_bfloat16_and_keeps_float32_params(make):
    model = make((784, 16, 1))
    mixed = mixed_precision(model)
    params = mixed.init(jax.random.key(0))
    x = np.random.default_rng(1).random((8, 784), np.float32)

    @jax.jit
    def run(params, x):
        low_precision = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
        expected = model.apply(low_precision, x.astype(jnp.bfloat16)).astype(jnp.float32)
        gradients = jax.grad(lambda p: mixed.apply(p, x).sum())(params)
        return mixed.apply(params, x), expected, model.apply(params, x), gradients

    logits, expected, exact, gradients = run(params, x)
    np.testing.assert_array_equal(logits, expected)
    assert 0 < np.abs(np.asarray(logits) - np.asarray(exact)).max() < 0.05
    dots = [line for line in jax.jit(mixed.apply).lower(params, x).as_text().splitlines() if "dot_general" in line]
    assert dots
    assert all("xbf16" in line and "xf32" not in line for line in dots)
    assert {leaf.dtype for leaf in jax.tree.leaves((params, gradients, logits))} == {jnp.dtype("float32")}


def test_mixed_precision_model_trains(tiny):
    learner = Learner(mixed_precision(mlp((784, 16, 1))), mnist_loss, optax.adam(1e-2), batch_size=8)
    state, history = fit(jax.random.key(0), learner, tiny, epochs=8)
    assert history.accuracy[-1] == 1
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
