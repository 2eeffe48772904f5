import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from marks import slow

from jax_mnist import Learner, cnn, fit, flax_mlp, from_flax, init_params, linear, mlp, mnist_loss, predict
from jax_mnist.models import mixed_precision


@pytest.mark.parametrize("model", [linear(784, 10), mlp((784, 30, 10)), flax_mlp((784, 30, 10))])
def test_model_init_and_apply_are_pure(model):
    params = model.init(jax.random.key(0))
    assert jax.eval_shape(model.apply, params, np.zeros((4, 784), np.float32)).shape == (4, 10)
    jax.tree.map(np.testing.assert_array_equal, params, model.init(jax.random.key(0)))
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    assert jax.tree.map(lambda a: a.shape, shapes) == jax.tree.map(lambda a: a.shape, params)


@pytest.mark.parametrize(("options", "std"), [({}, None), ({"std": 1.0}, 1.0)])
def test_initialization_is_pytorchs_or_with_std_the_chapters(options, std):
    expected = init_params(jax.random.key(0), (784, 1), std)
    for model in (linear(**options), mlp((784, 1), **options)):
        jax.tree.map(np.testing.assert_array_equal, model.init(jax.random.key(0)), expected)


def test_flax_mlp_matches_predict_with_the_same_weights(x64):
    layers = init_params(jax.random.key(0), (6, 5, 4, 3))
    params = {"layers": {i: {"kernel": w, "bias": b} for i, (w, b) in enumerate(layers)}}
    x = np.random.default_rng(1).normal(size=(7, 6))
    model = flax_mlp((6, 5, 4, 3))
    np.testing.assert_allclose(jax.jit(model.apply)(params, x), jax.jit(predict)(layers, x), atol=1e-14)
    assert jax.tree.structure(jax.eval_shape(model.init, jax.random.key(0))) == jax.tree.structure(params)


def test_flax_mlp_keeps_flax_initialization():
    params = flax_mlp((400, 300, 1)).init(jax.random.key(0))["layers"][0]
    assert not np.any(params["bias"])
    assert float(np.std(params["kernel"])) == pytest.approx(400**-0.5, rel=0.02)


class Convolutional(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(1, 4, (3, 3), strides=4, rngs=rngs)
        self.out = nnx.Linear(4 * 7 * 7, 1, rngs=rngs)

    def __call__(self, x):
        return self.out(nnx.relu(self.conv(x)).reshape(len(x), -1))


def test_custom_module_trains_with_its_input_shape(tiny):
    model = from_flax(lambda rngs: Convolutional(rngs), input_shape=(28, 28, 1))
    learner = Learner(model, mnist_loss, optax.adam(1e-2), batch_size=8)
    state, history = fit(jax.random.key(0), learner, tiny, epochs=10)
    assert history.accuracy[-1] == 1
    assert all(type(leaf) is not nnx.Param for leaf in jax.tree.leaves(state.params))


@pytest.mark.parametrize("sizes", [(784,), (784, 0)])
def test_flax_mlp_rejects_invalid_sizes(sizes):
    with pytest.raises(ValueError, match=r"sizes.*positive integers"):
        flax_mlp(sizes)


@pytest.mark.parametrize("graph_mode", [slow(True), False])
def test_flax_mlp_works_in_graph_and_tree_mode(graph_mode):
    """Flax plans to make tree mode the default."""
    with nnx.set_graph_mode(graph_mode), nnx.set_graph_updates(graph_mode):
        model = flax_mlp((6, 5, 1))
        assert jax.jit(model.apply)(model.init(jax.random.key(0)), jnp.ones((2, 6))).shape == (2, 1)


@pytest.mark.parametrize("change", [lambda model: model, mixed_precision])
@pytest.mark.parametrize(
    "make", [lambda: mlp((784, 5, 2)), lambda: flax_mlp((784, 5, 2)), lambda: cnn((4,), classes=2)]
)
def test_pixels_in_0_to_255_are_refused(make, change):
    model = change(make())
    params = model.init(jax.random.key(0))
    with pytest.raises(ValueError, match=r"x must be float \[b, .* got .*\[2, 784\]; make_batch"):
        model.apply(params, np.zeros((2, 784), np.uint8))
