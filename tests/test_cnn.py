import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jax_mnist import Learner, cnn, evaluate, fit, init_state, softmax_cross_entropy, train_epoch

SMALL = functools.partial(cnn, filters=(4, 8), hidden=(16,))
SMALLEST = functools.partial(cnn, filters=(4,), kernels=(3,), hidden=())


def test_parameter_shapes():
    params = jax.eval_shape(cnn((24, 32), (5, 3), (256,)).init, jax.random.key(0))
    shapes = jax.tree.map(jnp.shape, params)
    assert shapes == {
        "convolutions": {
            0: {"kernel": (5, 5, 1, 24), "bias": (24,)},
            1: {"kernel": (3, 3, 24, 32), "bias": (32,)},
        },
        "dense": {
            "layers": {
                0: {"kernel": (7 * 7 * 32, 256), "bias": (256,)},
                1: {"kernel": (256, 10), "bias": (10,)},
            }
        },
    }


def written_out(params, pixels):
    x = pixels.reshape(-1, 28, 28, 1)
    for layer in params["convolutions"].values():
        dimensions = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(x, layer["kernel"], (1, 1), "SAME", dimension_numbers=dimensions)
        x = x + layer["bias"].reshape(1, 1, 1, -1)
        x = jax.lax.reduce_window(x, np.float32(-np.inf), jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        x = jnp.maximum(x, 0)
    hidden, last = params["dense"]["layers"].values()
    x = jnp.maximum(x.reshape(len(x), -1) @ hidden["kernel"] + hidden["bias"].reshape(1, -1), 0)
    return x @ last["kernel"] + last["bias"].reshape(1, -1)


def test_logits_match_a_written_out_net():
    model = SMALL()
    params = jax.jit(model.init)(jax.random.key(0))
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)  # biases start at 0 and would have no effect
    pixels = jnp.asarray(np.random.default_rng(0).random((3, 784)), jnp.float32)
    logits, expected = jax.jit(model.apply)(params, pixels), jax.jit(written_out)(params, pixels)
    assert float(jnp.std(expected)) > 0.1
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


def test_without_padding_the_dense_layer_is_that_of_the_pytorch_record():
    params = jax.eval_shape(cnn(padding="VALID").init, jax.random.key(0))
    assert params["dense"]["layers"][0]["kernel"].shape == (5 * 5 * 32, 256)  # 28 -> 24 -> 12 -> 10 -> 5


@pytest.mark.slow
def test_odd_image_sizes_color_channels_and_class_counts():
    model = cnn((3, 4, 5), (3, 1, 2), (), classes=7, image_shape=(9, 15, 3))
    params = jax.eval_shape(model.init, jax.random.key(0))
    assert params["dense"]["layers"][0]["kernel"].shape == (1 * 1 * 5, 7)
    assert jax.eval_shape(model.apply, params, jnp.zeros((2, 9 * 15 * 3))).shape == (2, 7)


@pytest.mark.parametrize(
    "options",
    [
        {"filters": ()},
        {"filters": (4,)},
        {"kernels": (5, 0)},
        {"hidden": (0,)},
        {"classes": 0},
        {"image_shape": (28, 28)},
        {"image_shape": (3, 28, 1)},
        {"image_shape": (9, 28, 1), "padding": "VALID"},
        {"padding": "CIRCULAR"},
    ],
    ids=str,
)
def test_invalid_architectures_are_rejected(options):
    with pytest.raises(ValueError, match=r"cnn must have|leave nothing|padding must be"):
        cnn(**options)


@pytest.mark.slow
def test_cnn_trains_in_fit(tiny):
    key = jax.random.key(0)
    learner = Learner(SMALLEST(), softmax_cross_entropy, optax.adam(1e-2), batch_size=8)
    state, history = fit(key, learner, tiny, epochs=8)
    assert history.train_loss[-1] < history.train_loss[0] / 2
    assert evaluate(learner, state.params, tiny.valid).accuracy == 1


@pytest.mark.slow
def test_vmapped_training_matches_one_by_one(tiny):
    learner = Learner(SMALLEST(), softmax_cross_entropy, optax.sgd(0.1), batch_size=8)
    train = functools.partial(train_epoch, learner, dataset=tiny.train)

    def states():
        return [init_state(jax.random.key(seed), learner) for seed in (0, 1)]

    many, losses = jax.vmap(train)(jax.tree.map(lambda *leaves: jnp.stack(leaves), *states()))
    one, loss = train(states()[1])
    np.testing.assert_allclose(losses[1], loss, rtol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1], b, atol=1e-4), many.params, one.params)
