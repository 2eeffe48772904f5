"""Flax modules that compute something else while they train: dropout and batch statistics through `from_flax`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

from jax_mnist import (
    Model,
    Splits,
    batches,
    epochs,
    evaluate,
    fit,
    fit_many,
    from_flax,
    gradient_norms,
    init_state,
    linear,
    mixed_precision,
    mnist_loss,
    random_shift,
    softmax_cross_entropy,
    train_step,
    with_ema,
)
from jax_mnist.models import conv
from jax_mnist.training.nan_guard import find_bad_step


class TutorialCNN(nnx.Module):
    """The net of Flax's own MNIST tutorial (flax.readthedocs.io, Apache 2.0), line by line."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.conv1 = nnx.Conv(1, 32, kernel_size=(3, 3), rngs=rngs)
        self.batch_norm1 = nnx.BatchNorm(32, rngs=rngs)
        self.dropout1 = nnx.Dropout(rate=0.025)
        self.conv2 = nnx.Conv(32, 64, kernel_size=(3, 3), rngs=rngs)
        self.batch_norm2 = nnx.BatchNorm(64, rngs=rngs)
        self.avg_pool = functools.partial(nnx.avg_pool, window_shape=(2, 2), strides=(2, 2))
        self.linear1 = nnx.Linear(3136, 256, rngs=rngs)
        self.dropout2 = nnx.Dropout(rate=0.025)
        self.linear2 = nnx.Linear(256, 10, rngs=rngs)

    def __call__(self, x, rngs: nnx.Rngs | None = None):
        x = self.avg_pool(nnx.relu(self.batch_norm1(self.dropout1(self.conv1(x), rngs=rngs))))
        x = self.avg_pool(nnx.relu(self.batch_norm2(self.conv2(x))))
        x = x.reshape(x.shape[0], -1)  # flatten
        x = nnx.relu(self.dropout2(self.linear1(x), rngs=rngs))
        return self.linear2(x)


class Normed(nnx.Module):
    """A small net with both, its dropout with a stream of its own."""

    def __init__(self, rngs, rate=0.0):
        self.norm = nnx.BatchNorm(784, momentum=0.9, rngs=rngs)
        self.dropout = nnx.Dropout(rate, rngs=rngs)
        self.out = nnx.Linear(784, 1, rngs=rngs)

    def __call__(self, x):
        return self.out(self.dropout(self.norm(x)))


NORMED = from_flax(Normed)
DROPPED = from_flax(functools.partial(Normed, rate=0.5))
OPTIONS = {"loss_fn": mnist_loss, "optimizer": optax.adamw(1e-3, weight_decay=0.5), "batch_size": 8}


@pytest.fixture(scope="module")
def some_digits(mnist):
    return Splits(mnist.train[:2000], mnist.valid[:500])


def test_the_net_of_flaxs_tutorial_trains_unchanged(some_digits):
    model = from_flax(lambda rngs: TutorialCNN(rngs=rngs), (28, 28, 1))
    state, history = fit(jax.random.key(0), model, some_digits, epochs=4, loss_fn=softmax_cross_entropy,
                         optimizer=optax.adamw(0.005, 0.9), batch_size=32)  # fmt: skip
    assert history.accuracy[-1] > 0.9
    assert np.abs(state.params["batch_norm1"]["mean"]).max() > 0.01
    assert evaluate(model, state.params, some_digits.valid, softmax_cross_entropy).accuracy == pytest.approx(
        history.accuracy[-1]
    )


def test_a_step_is_the_one_that_flax_takes_itself(tiny):
    """Without dropout nothing is random: parameters and statistics are those of NNX's own loop."""
    module = Normed(nnx.Rngs(jax.random.key(3)))
    optimizer = nnx.Optimizer(module, optax.sgd(0.1), wrt=nnx.Param)
    state = init_state(jax.random.key(0), NORMED, optax.sgd(0.1))
    state = state._replace(params=nnx.to_pure_dict(nnx.state(module, nnx.Not(nnx.RngState))))
    step = train_step(NORMED, mnist_loss, optax.sgd(0.1))
    module.train()
    for batch, key in zip(batches(tiny.train, 8), jax.random.split(jax.random.key(1), 3), strict=False):
        state, loss = step(state, batch, key)
        expected, gradients = nnx.value_and_grad(lambda module, b=batch: mnist_loss(module(b.x), b.y).mean())(module)
        optimizer.update(module, gradients)
        np.testing.assert_allclose(loss, expected, rtol=1e-6)
    ours, flax = (nnx.to_pure_dict(nnx.state(module, kind)) for kind in (nnx.BatchStat, nnx.Param))
    for name, value in (ours["norm"] | flax["norm"]).items():
        np.testing.assert_allclose(state.params["norm"][name], value, rtol=1e-5, atol=1e-6, err_msg=name)
    module.eval()
    x = next(batches(tiny.valid, 8)).x
    np.testing.assert_allclose(NORMED.apply(state.params, x), module(x), rtol=1e-4, atol=1e-5)


def test_the_statistics_are_the_running_ones_whatever_the_optimizer_does(tiny):
    """Weight decay takes half of a parameter at each step; what no gradient moves is not its to take."""
    state = init_state(jax.random.key(0), NORMED, OPTIONS["optimizer"])
    batch = next(batches(tiny.train, 16))
    state, _ = train_step(NORMED, mnist_loss, OPTIONS["optimizer"])(state, batch, jax.random.key(1))
    np.testing.assert_allclose(state.params["norm"]["mean"], 0.1 * batch.x.mean(0), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(state.params["norm"]["var"], 0.9 + 0.1 * batch.x.var(0), rtol=1e-5, atol=1e-6)


def test_an_average_of_the_parameters_has_the_statistics_as_they_are(tiny):
    optimizer = with_ema(optax.sgd(0.1), 0.9)
    state, _ = fit(jax.random.key(0), NORMED, tiny, **OPTIONS | {"optimizer": optimizer}, epochs=2)
    average = state.opt_state.average
    np.testing.assert_array_equal(average["norm"]["mean"], state.params["norm"]["mean"])
    assert np.abs(average["out"]["kernel"] - state.params["out"]["kernel"]).max() > 0


def test_no_gradient_reaches_the_statistics(tiny):
    params = NORMED.init(jax.random.key(0))
    x = next(batches(tiny.train, 8)).x
    for gradients in (
        jax.grad(lambda p: NORMED.apply(p, x).sum())(params),
        jax.grad(lambda p: NORMED.train(p, x, jax.random.key(0))[0].sum())(params),
    ):
        assert not np.any(gradients["norm"]["mean"])
        assert not np.any(gradients["norm"]["var"])
        assert np.any(gradients["norm"]["scale"])


def test_dropout_halves_at_random_while_training_alone():
    module = from_flax(lambda rngs: nnx.Sequential(nnx.Dropout(0.5, rngs=rngs), nnx.Linear(784, 1, rngs=rngs)))
    params = {"layers": {1: {"kernel": jnp.full((784, 1), 1 / 784), "bias": jnp.zeros(1)}}}
    assert jax.tree.structure(params) == jax.tree.structure(module.init(jax.random.key(0)))
    x = jnp.ones((200, 784))
    np.testing.assert_allclose(module.apply(params, x), 1, rtol=1e-5)
    logits, changes = module.train(params, x, jax.random.key(0))
    assert logits.mean() == pytest.approx(1, abs=0.01)
    assert logits.std() == pytest.approx(784**-0.5, rel=0.15)  # of the mean of 784 that are 0 or 2
    assert jax.tree.leaves(changes) == []
    again, other = (module.train(params, x, jax.random.key(seed))[0] for seed in (0, 1))
    np.testing.assert_array_equal(logits, again)
    assert np.abs(logits - other).max() > 0


class Streams(nnx.Module):
    """Two dropouts and one whose randomness comes with the call."""

    def __init__(self, rngs):
        self.first, self.second, self.third = nnx.Dropout(0.5, rngs=rngs), nnx.Dropout(0.5, rngs=rngs), nnx.Dropout(0.5)

    def __call__(self, x, rngs=None):
        return jnp.concatenate([self.first(x), self.second(x), self.third(x, rngs=rngs)], axis=1)


def test_every_layer_draws_for_itself():
    model = from_flax(Streams)
    masks = np.split(model.train(model.init(jax.random.key(0)), jnp.ones((1, 999)), jax.random.key(0))[0], 3, axis=1)
    for i in range(3):
        assert np.mean(masks[i] != masks[i - 1]) == pytest.approx(0.5, abs=0.1)


def test_every_step_of_a_run_draws_anew_and_the_same_key_the_same(tiny):
    """A function of the key, whether the run goes through or stops in between."""
    options = OPTIONS | {"augment": random_shift}
    whole, history = fit(jax.random.key(0), DROPPED, tiny, epochs=4, **options)
    half, _ = fit(jax.random.key(0), DROPPED, tiny, epochs=2, **options)
    rest, _ = fit(jax.random.key(9), DROPPED, tiny, epochs=4, state=half, **options)
    jax.tree.map(np.testing.assert_array_equal, whole.params, rest.params)
    frozen = OPTIONS | {"optimizer": optax.sgd(0.0), "shuffle": False}
    losses = [row.train_loss for _, row in epochs(jax.random.key(0), DROPPED, tiny, count=3, **frozen)]
    assert len(set(losses)) == 3
    assert history.train_loss[-1] < history.train_loss[0]


def test_the_last_batch_is_filled_with_other_images(tiny):
    """A statistic of 3 images and 13 copies of one would be none of the dataset."""
    state = init_state(jax.random.key(0), NORMED, optax.sgd(0.0))
    count = len(tiny.train)
    run = epochs(jax.random.key(0), NORMED, tiny, count=1, state=state, loss_fn=mnist_loss, optimizer=optax.sgd(0.0),
                 batch_size=count - 1, shuffle=False)  # fmt: skip
    state, _ = next(run)
    x = tiny.train.images.reshape(count, -1) / 255
    mean = 0.1 * (0.9 * x[:-1].mean(0) + np.concatenate([x[-1:], x[:-2]]).mean(0))
    np.testing.assert_allclose(state.params["norm"]["mean"], mean, rtol=1e-4, atol=1e-6)


def test_members_trained_at_once_are_the_single_ones(tiny):
    keys = jax.random.split(jax.random.key(0), 3)
    many, history = fit_many(keys, DROPPED, tiny, epochs=2, **OPTIONS)
    for i, key in enumerate(jax.random.clone(keys)):
        single, expected = fit(key, DROPPED, tiny, epochs=2, **OPTIONS)
        np.testing.assert_allclose(history.valid_loss[i], expected.valid_loss, rtol=1e-4)
        jax.tree.map(lambda ours, theirs, i=i: np.testing.assert_allclose(ours[i], theirs, rtol=1e-3, atol=1e-5),
                     many.params, single.params)  # fmt: skip


def test_bfloat16_keeps_the_statistics_whole(tiny):
    model = mixed_precision(NORMED)
    state, _ = fit(jax.random.key(0), model, tiny, epochs=3, **OPTIONS)
    exact, _ = fit(jax.random.key(0), NORMED, tiny, epochs=3, **OPTIONS)
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
    np.testing.assert_allclose(state.params["norm"]["mean"], exact.params["norm"]["mean"], rtol=0.02, atol=1e-3)
    assert np.any(state.params["norm"]["mean"] != state.params["norm"]["mean"].astype(jnp.bfloat16))


def test_what_else_takes_a_model(tiny):
    state, _ = fit(jax.random.key(0), DROPPED, tiny, epochs=1, **OPTIONS)
    assert np.all(np.isfinite(gradient_norms(DROPPED, state.params, tiny.train, mnist_loss)))
    options = {"model": DROPPED, "loss_fn": lambda s, y: jnp.log(s[:, 0] - 1e6), "optimizer": OPTIONS["optimizer"]}
    bad = find_bad_step(state, tiny.train, **options)
    assert bad.number == 1
    loss = train_step(**options)(bad.state, bad.batch, bad.key)[1]
    assert not np.isfinite(loss)


def test_a_step_without_a_key_is_refused(tiny):
    step = train_step(DROPPED, mnist_loss, optax.sgd(0.1))
    state = init_state(jax.random.key(0), DROPPED, optax.sgd(0.1))
    with pytest.raises(ValueError, match="each step needs a key"):
        step(state, next(batches(tiny.train, 8)))


BAD = {
    "logits": lambda params, x, key: (x[:, :2], None),
    "changes of the parameters' own shapes": lambda params, x, key: (x[:, :1], jax.tree.map(jnp.sum, params)),
}


@pytest.mark.parametrize("message", BAD)
def test_a_train_that_does_not_fit_is_refused(message, tiny):
    model = Model(linear().init, linear().apply, BAD[message])
    with pytest.raises(ValueError, match=message):
        fit(jax.random.key(0), model, tiny, epochs=1, **OPTIONS)


class Counting(nnx.Module):
    def __init__(self, rngs):
        self.out = nnx.Linear(784, 1, rngs=rngs)
        self.calls = nnx.Variable(jnp.zeros((), jnp.int32))

    def __call__(self, x):
        self.calls[...] += 1
        return self.out(x)


def test_a_variable_that_is_no_float_is_refused():
    with pytest.raises(ValueError, match=r"the module holds calls \(int32\)"):
        from_flax(Counting)


class Scaled(nnx.Module):
    def __init__(self, rngs, wrap=nnx.Variable):
        self.scale, self.shift = wrap(jnp.full(784, 2.0)), np.full(784, 0.5, np.float32)
        self.out = nnx.Linear(784, 1, rngs=rngs)

    def __call__(self, x):
        return self.out(x * self.scale[None] - self.shift[None])


def test_what_is_no_parameter_stays_as_it_is(tiny):
    state, _ = fit(jax.random.key(0), from_flax(Scaled), tiny, epochs=1, **OPTIONS)
    np.testing.assert_array_equal(state.params["scale"], 2)
    np.testing.assert_array_equal(state.params["shift"], 0.5)


def test_an_array_that_flax_does_not_keep_is_refused():
    with pytest.raises(ValueError, match=r"no nnx\.Variable: scale"):
        from_flax(lambda rngs: Scaled(rngs, wrap=lambda array: array))


class Convolutions(nnx.Module):
    def __init__(self, rngs, options):
        self.conv = nnx.Conv(4, 8, kernel_size=(3, 3), rngs=rngs, **options)

    def __call__(self, x):
        return self.conv(x).reshape(len(x), -1)


CONVOLUTIONS = [
    ({}, True),
    ({"padding": "VALID", "strides": 2}, True),
    ({"padding": "CIRCULAR"}, True),
    ({"strides": (2, 1)}, False),
    ({"feature_group_count": 2}, False),
    ({"kernel_dilation": 2}, False),
    ({"conv_general_dilated": lambda *args, **options: jax.lax.conv_general_dilated(*args, **options)}, False),
]


@pytest.mark.parametrize(("options", "fast"), CONVOLUTIONS, ids=lambda value: str(value)[:30].split(" at ")[0])
def test_convolutions_are_those_of_flax_fast_where_they_can_be(monkeypatch, options, fast):
    calls = []
    monkeypatch.setattr(conv, "conv2d", lambda *args, **how: calls.append(how) or _conv2d(*args, **how))
    model = from_flax(lambda rngs: Convolutions(rngs, options), (9, 9, 4))
    x = jax.random.normal(jax.random.key(1), (3, 9 * 9 * 4))
    module = Convolutions(nnx.Rngs(jax.random.key(0)), options)
    expected = module(x.reshape(3, 9, 9, 4))
    found = model.apply(model.init(jax.random.key(0)), x)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert bool(calls) == fast


_conv2d = conv.conv2d


@pytest.mark.parametrize("graph_mode", [True, False])
def test_both_of_flaxs_modes(tiny, graph_mode):
    """Flax is about to make its tree mode the default."""
    with nnx.set_graph_mode(graph_mode), nnx.set_graph_updates(graph_mode):
        _, history = fit(jax.random.key(0), from_flax(functools.partial(Normed, rate=0.1)), tiny, epochs=1, **OPTIONS)
    assert np.isfinite(history.train_loss[0])


class Spectral(nnx.Module):
    def __init__(self, rngs):
        self.out = nnx.SpectralNorm(nnx.Linear(784, 1, rngs=rngs), rngs=rngs)

    def __call__(self, x):
        return self.out(x)


def test_a_module_that_writes_its_own_parameter_is_refused(tiny):
    """Flax's own step starts from what was written; ours would from what was there."""
    with pytest.raises(ValueError, match=r"writes its parameter out\.layer_instance\.kernel"):
        fit(jax.random.key(0), from_flax(Spectral), tiny, epochs=1, **OPTIONS)


class Aux(nnx.Variable):
    pass


class Sowing(nnx.Module):
    def __init__(self, rngs):
        self.out = nnx.Linear(784, 1, rngs=rngs)
        self.norm = nnx.BatchNorm(784, rngs=rngs)

    def __call__(self, x):
        x = self.norm(x)
        self.mean_pixel = Aux(x.mean())
        return self.out(x)


def test_what_a_call_leaves_behind_is_not_kept(tiny):
    state, _ = fit(jax.random.key(0), from_flax(Sowing), tiny, epochs=1, **OPTIONS)
    assert sorted(state.params) == ["norm", "out"]


NO_MAKERS = {
    "not a Linear": lambda: nnx.Linear(784, 1, rngs=nnx.Rngs(0)),
    "a Flax NNX module is needed, not a Dense": lambda: lambda rngs: linen.Dense(10),
}


@pytest.mark.parametrize("message", NO_MAKERS)
def test_what_makes_no_module_is_refused(message):
    with pytest.raises(ValueError, match=message):
        from_flax(NO_MAKERS[message]())


def test_an_average_keeps_the_parameters_dtype(tiny):
    model = from_flax(lambda rngs: nnx.Linear(784, 1, param_dtype=jnp.bfloat16, rngs=rngs))
    options = OPTIONS | {"optimizer": with_ema(optax.sgd(0.1), 0.9)}
    state, _ = fit(jax.random.key(0), model, tiny, epochs=1, **options)
    assert {leaf.dtype for leaf in jax.tree.leaves(state.opt_state.average)} == {jnp.dtype(jnp.bfloat16)}
