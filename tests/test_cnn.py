import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from marks import slow

from jax_mnist import Learner, cnn, evaluate, fit, init_state, softmax_cross_entropy, train_epoch
from jax_mnist.models import batch_last
from jax_mnist.models.batch_last import Window, convolve_and_pool

SMALLEST = functools.partial(cnn, filters=(4,), kernels=(3,), hidden=())


def test_parameter_shapes():
    params = jax.eval_shape(cnn(hidden=(30,)).init, jax.random.key(0))
    shapes = jax.tree.map(jnp.shape, params)
    assert shapes == {
        "convolutions": {
            0: {"kernel": (5, 5, 1, 24), "bias": (24,)},
            1: {"kernel": (4, 4, 24, 64), "bias": (64,)},
            2: {"kernel": (3, 3, 64, 96), "bias": (96,)},
        },
        "dense": {
            "layers": {
                0: {"kernel": (3 * 3 * 96, 30), "bias": (30,)},
                1: {"kernel": (30, 10), "bias": (10,)},
            }
        },
    }


def hard_swish(x):
    return x * jnp.clip(x / 6 + 0.5, 0, 1)


def written_out(params, pixels, strides, pools, padding):
    """The net in plain JAX, in the usual layout, with a convolution and a pooling of their own."""
    x = pixels.reshape(-1, 28, 28, 1)
    for layer, stride, pool in zip(params["convolutions"].values(), strides, pools, strict=True):
        dimensions = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(x, layer["kernel"], (stride, stride), padding, dimension_numbers=dimensions)
        x = x + layer["bias"].reshape(1, 1, 1, -1)
        tile = (1, pool, pool, 1)
        x = jax.lax.reduce_window(x, -np.inf, jax.lax.max, tile, tile, "VALID")
        x = hard_swish(x)
    hidden, last = params["dense"]["layers"].values()
    x = hard_swish(x.reshape(len(x), -1) @ hidden["kernel"] + hidden["bias"].reshape(1, -1))
    return x @ last["kernel"] + last["bias"].reshape(1, -1)


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize(
    ("kernels", "strides", "pools"),
    [
        ((5, 4, 3), (1, 2, 1), (2, 1, 1)),
        slow((4, 3), (1, 1), (2, 2)),
        slow((3, 2), (2, 1), (3, 2)),
        slow((1, 5), (3, 2), (1, 1)),
    ],
)
def test_logits_and_gradients_match_a_net_in_plain_jax(kernels, strides, pools, padding):
    model = cnn((4, 6, 8)[: len(kernels)], kernels, strides=strides, pools=pools, hidden=(5,), padding=padding)
    with jax.enable_x64():
        params = jax.jit(model.init)(jax.random.key(0))
        params = jax.tree.map(lambda leaf: leaf + 0.1, params)  # biases start at 0 and would have no effect
        pixels = jnp.asarray(np.random.default_rng(0).random((3, 784)))

        def compute(apply):
            logits, derivatives = jax.vjp(apply, params, pixels)
            return logits, derivatives(jnp.cos(jnp.arange(30.0)).reshape(3, 10))

        ours = jax.jit(lambda: compute(model.apply))()
        others = jax.jit(lambda: compute(lambda params, x: written_out(params, x, strides, pools, padding)))()
        assert float(jnp.std(others[0])) > 0.05
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), ours, others)


def test_record_net_has_the_shapes_of_pytorchs_recipe():
    model = cnn((24, 32), (5, 3), strides=(1, 1), pools=(2, 2), hidden=(256,))
    params = jax.eval_shape(model.init, jax.random.key(0))
    assert params["dense"]["layers"][0]["kernel"].shape == (5 * 5 * 32, 256)  # 28 -> 24 -> 12 -> 10 -> 5


@pytest.mark.parametrize("window", [Window(1, 2, "VALID"), Window(2, 1, "VALID"), Window(2, 3, "VALID")], ids=str)
@pytest.mark.slow
def test_other_platforms_compute_the_same(window):
    drawn = np.random.default_rng(0)
    x, kernel = (jnp.asarray(drawn.normal(size=shape), jnp.float32) for shape in ((3, 19, 17, 5), (4, 2, 3, 6)))

    def compute(convolve):
        y, derivatives = jax.vjp(functools.partial(convolve, window), x, kernel)
        return y, derivatives(jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))

    on_cpu, elsewhere = jax.jit(lambda: (compute(batch_last._as_product), compute(batch_last._as_lax)))()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), on_cpu, elsewhere)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_pixels_of_another_dtype_are_promoted(dtype):
    model = SMALLEST()
    params = model.init(jax.random.key(0))
    x = jnp.ones((2, 784), dtype)
    np.testing.assert_allclose(model.apply(params, x), model.apply(params, x.astype(jnp.float32)), rtol=1e-6)


def test_pooling_sends_the_gradient_to_the_first_maximum():
    x = jnp.ones((1, 4, 4, 1))  # all the same
    kernel = jnp.ones((1, 1, 1, 1))
    window = Window(stride=1, pool=2, padding="VALID")
    gradient = jax.grad(lambda x: convolve_and_pool(window, x, kernel).sum())(x)
    assert gradient[0, :, :, 0].tolist() == [[1, 0, 1, 0], [0, 0, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]


@pytest.mark.slow
def test_odd_image_sizes_color_channels_and_class_counts():
    sizes = {"strides": (1, 1, 1), "pools": (2, 2, 2), "classes": 7, "image_shape": (9, 15, 3), "padding": "SAME"}
    model = cnn((3, 4, 5), (3, 1, 2), **sizes)
    params = jax.eval_shape(model.init, jax.random.key(0))
    assert params["dense"]["layers"][0]["kernel"].shape == (1 * 1 * 5, 7)
    assert jax.eval_shape(model.apply, params, jnp.zeros((2, 9 * 15 * 3))).shape == (2, 7)


@pytest.mark.parametrize(
    "options",
    [
        {"filters": ()},
        {"filters": (4,), "kernels": (3, 3)},
        {"kernels": (5, 0, 3)},
        {"strides": (1, 1)},
        {"pools": (2, 0, 1)},
        {"hidden": (0,)},
        {"classes": 0},
        {"image_shape": (28, 28)},
        {"image_shape": (3, 28, 1)},
        {"image_shape": (9, 28, 1)},
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
