import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jax_mnist import Learner, fit, flax_mlp, from_flax, mlp, mnist_loss
from jax_mnist.models import matmul_precision, mixed_precision


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


@pytest.mark.parametrize("make", [mlp, flax_mlp])
def test_products_and_their_gradients_have_the_given_precision(make):
    model = make((784, 16, 1))
    exact = matmul_precision(model, "highest")
    params = model.init(jax.random.key(0))

    def precisions(model):
        text = jax.jit(jax.grad(lambda p: model.apply(p, jnp.ones((8, 784))).sum())).lower(params).as_text()
        return {line.partition("precision = ")[2][:9] for line in text.splitlines() if "dot_general" in line}

    assert precisions(exact) == {"[HIGHEST,"}
    assert precisions(model) == {"[DEFAULT,"}
    assert matmul_precision(model, "highest") is exact


def test_precision_is_that_of_apply_train_too():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.dropout, self.out = nnx.Dropout(0.5, rngs=rngs), nnx.Linear(784, 1, rngs=rngs)

        def __call__(self, x):
            return self.out(self.dropout(x))

    model = matmul_precision(from_flax(Net), "highest")
    params = model.init(jax.random.key(0))
    text = jax.jit(model.apply_train).lower(params, jnp.ones((8, 784)), jax.random.key(1)).as_text()
    assert "HIGHEST" in next(line for line in text.splitlines() if "dot_general" in line)
