"""Flax modules with dropout and batch statistics, which compute something else while they train."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from marks import slow

from jax_mnist import (
    Learner,
    Model,
    Splits,
    batches,
    cnn,
    evaluate,
    fit,
    fit_epochs,
    fit_many,
    flax_mlp,
    from_flax,
    init_state,
    linear,
    mnist_loss,
    random_shift,
    softmax_cross_entropy,
    train_step,
    with_ema,
)
from jax_mnist.analysis import gradient_norms
from jax_mnist.models import conv, mixed_precision
from jax_mnist.training import find_bad_step


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
    """A small net with batch norm and dropout, which has its own random stream."""

    def __init__(self, rngs, rate=0.0):
        self.norm = nnx.BatchNorm(784, momentum=0.9, rngs=rngs)
        self.dropout = nnx.Dropout(rate, rngs=rngs)
        self.out = nnx.Linear(784, 1, rngs=rngs)

    def __call__(self, x):
        return self.out(self.dropout(self.norm(x)))


SGD, FROZEN = optax.sgd(0.1), optax.sgd(0.0)
NORMED = Learner(from_flax(Normed), mnist_loss, optax.adamw(1e-3, weight_decay=0.5), batch_size=8)
DROPPED = NORMED._replace(model=from_flax(functools.partial(Normed, rate=0.5)))


@pytest.fixture(scope="module")
def some_digits(mnist):
    return Splits(mnist.train[:2000], mnist.valid[:500])


@pytest.mark.slow
def test_flax_tutorial_net_trains_unchanged(some_digits):
    model = from_flax(lambda rngs: TutorialCNN(rngs=rngs), (28, 28, 1))
    learner = Learner(model, softmax_cross_entropy, optax.adamw(0.005, 0.9), batch_size=32)
    state, history = fit(jax.random.key(0), learner, some_digits, epochs=4)
    assert history.accuracy[-1] > 0.9
    assert np.abs(state.params["batch_norm1"]["mean"]).max() > 0.01
    assert evaluate(learner, state.params, some_digits.valid).accuracy == pytest.approx(history.accuracy[-1])


@pytest.mark.slow
def test_step_is_that_of_flax(tiny):
    """Without dropout nothing is random, so parameters and statistics are those of NNX's own loop."""
    module = Normed(nnx.Rngs(jax.random.key(3)))
    optimizer = nnx.Optimizer(module, optax.sgd(0.1), wrt=nnx.Param)
    learner = NORMED._replace(optimizer=SGD)
    state = init_state(jax.random.key(0), learner)
    state = state._replace(params=nnx.to_pure_dict(nnx.state(module, nnx.Not(nnx.RngState))))
    step = train_step(learner)
    module.train()
    for batch, key in zip(batches(tiny.train, 8), jax.random.split(jax.random.key(1), 3), strict=False):
        state, loss = step(state, batch, key)
        expected, gradients = nnx.value_and_grad(lambda module, b=batch: mnist_loss(module(b.x), b.y).mean())(module)
        optimizer.update(module, gradients)
        np.testing.assert_allclose(loss, expected, rtol=1e-6, atol=1e-9)
    ours, flax = (nnx.to_pure_dict(nnx.state(module, kind)) for kind in (nnx.BatchStat, nnx.Param))
    for name, value in (ours["norm"] | flax["norm"]).items():
        np.testing.assert_allclose(state.params["norm"][name], value, rtol=1e-5, atol=1e-6, err_msg=name)
    module.eval()
    x = next(batches(tiny.valid, 8)).x
    np.testing.assert_allclose(NORMED.model.apply(state.params, x), module(x), rtol=1e-4, atol=1e-5)


def test_optimizer_does_not_change_the_statistics(tiny):
    """The optimizer has a weight decay, which must not reach them."""
    batch = next(batches(tiny.train, 16))
    state, _ = train_step(NORMED)(init_state(jax.random.key(0), NORMED), batch, jax.random.key(1))
    np.testing.assert_allclose(state.params["norm"]["mean"], 0.1 * batch.x.mean(0), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(state.params["norm"]["var"], 0.9 + 0.1 * batch.x.var(0), rtol=1e-5, atol=1e-6)


def test_statistics_are_not_averaged_by_the_ema(tiny):
    state, _ = fit(jax.random.key(0), NORMED._replace(optimizer=with_ema(SGD, 0.9)), tiny, epochs=2)
    average = state.opt_state.average
    np.testing.assert_array_equal(average["norm"]["mean"], state.params["norm"]["mean"])
    assert np.abs(average["out"]["kernel"] - state.params["out"]["kernel"]).max() > 0


def test_no_gradient_reaches_the_statistics(tiny):
    model = NORMED.model
    params = model.init(jax.random.key(0))
    x = next(batches(tiny.train, 8)).x
    for gradients in (
        jax.grad(lambda p: model.apply(p, x).sum())(params),
        jax.grad(lambda p: model.apply_train(p, x, jax.random.key(0))[0].sum())(params),
    ):
        assert not np.any(gradients["norm"]["mean"])
        assert not np.any(gradients["norm"]["var"])
        assert np.any(gradients["norm"]["scale"])


def test_dropout_drops_only_while_training():
    module = from_flax(lambda rngs: nnx.Sequential(nnx.Dropout(0.5, rngs=rngs), nnx.Linear(784, 1, rngs=rngs)))
    params = {"layers": {1: {"kernel": jnp.full((784, 1), 1 / 784), "bias": jnp.zeros(1)}}}
    assert jax.tree.structure(params) == jax.tree.structure(module.init(jax.random.key(0)))
    x = jnp.ones((200, 784))
    np.testing.assert_allclose(module.apply(params, x), 1, rtol=1e-5)
    logits, updates = module.apply_train(params, x, jax.random.key(0))
    assert logits.mean() == pytest.approx(1, abs=0.01)
    assert logits.std() == pytest.approx(784**-0.5, rel=0.15)  # of the mean of 784 values that are 0 or 2
    assert jax.tree.leaves(updates) == []
    again, other = (module.apply_train(params, x, jax.random.key(seed))[0] for seed in (0, 1))
    np.testing.assert_array_equal(logits, again)
    assert np.abs(logits - other).max() > 0


class Streams(nnx.Module):
    """Two dropouts with their own streams and one that draws from the `rngs` of the call."""

    def __init__(self, rngs):
        self.first, self.second, self.third = nnx.Dropout(0.5, rngs=rngs), nnx.Dropout(0.5, rngs=rngs), nnx.Dropout(0.5)

    def __call__(self, x, rngs=None):
        return jnp.concatenate([self.first(x), self.second(x), self.third(x, rngs=rngs)], axis=1)


def test_layers_drop_independently():
    model = from_flax(Streams)
    outputs, _ = model.apply_train(model.init(jax.random.key(0)), jnp.ones((1, 999)), jax.random.key(0))
    masks = np.split(outputs, 3, axis=1)
    for i in range(3):
        assert np.mean(masks[i] != masks[i - 1]) == pytest.approx(0.5, abs=0.1)


def primitives(jaxpr):
    """Return the names of all primitives of a jaxpr and of those nested in it."""
    names = set()
    for equation in jaxpr.eqns:
        names.add(equation.primitive.name)
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda leaf: hasattr(leaf, "eqns")):
            nested = getattr(value, "jaxpr", value)  # a ClosedJaxpr has a jaxpr
            if hasattr(nested, "eqns"):
                names |= primitives(nested)
    return names


@pytest.mark.parametrize(
    "model", [flax_mlp((784, 4, 1)), cnn((2,), (3,)), DROPPED.model], ids=["flax_mlp", "cnn", "dropout"]
)
def test_apply_has_no_random_primitive(model):
    """Exporters such as jax2onnx refuse them."""
    params, x = jax.eval_shape(model.init, jax.random.key(0)), jax.ShapeDtypeStruct((2, 784), jnp.float32)
    names = primitives(jax.make_jaxpr(jax.jit(model.apply))(params, x).jaxpr)
    assert "dot_general" in names
    assert not [name for name in names if "random" in name or "threefry" in name]
    if model.apply_train is not None:
        jaxpr = jax.make_jaxpr(jax.jit(model.apply_train))(params, x, jax.random.key(0)).jaxpr
        assert any("random" in name for name in primitives(jaxpr))


@pytest.mark.parametrize("model", [flax_mlp((784, 4, 1)), cnn((2,), (3,))], ids=["flax_mlp", "cnn"])
@pytest.mark.slow
def test_parameters_are_float64_in_x64_mode_even_if_the_model_is_older(model, x64):
    params = model.init(jax.random.key(0))
    logits = jax.eval_shape(model.apply, params, np.ones((2, 784)))
    assert {leaf.dtype for leaf in jax.tree.leaves((params, logits))} == {jnp.dtype("float64")}


def test_randomness_is_new_at_each_step_and_a_function_of_the_key(tiny):
    learner = DROPPED._replace(augment=random_shift)
    whole, history = fit(jax.random.key(0), learner, tiny, epochs=4)
    half, _ = fit(jax.random.key(0), learner, tiny, epochs=2)
    rest, _ = fit(jax.random.key(9), learner, tiny, epochs=4, state=half)
    jax.tree.map(np.testing.assert_array_equal, whole.params, rest.params)
    frozen = DROPPED._replace(optimizer=FROZEN, shuffle=False)
    losses = [record.train_loss for _, record in fit_epochs(jax.random.key(0), frozen, tiny, epochs=3)]
    assert len(set(losses)) == 3
    assert history.train_loss[-1] < history.train_loss[0]


def test_last_batch_is_padded_with_the_first_images(tiny):
    """Copies of its only image would distort the batch statistics."""
    count = len(tiny.train)
    learner = NORMED._replace(optimizer=FROZEN, batch_size=count - 1, shuffle=False)
    state, _ = fit(jax.random.key(0), learner, tiny, epochs=1)
    x = tiny.train.images.reshape(count, -1) / 255
    mean = 0.1 * (0.9 * x[:-1].mean(0) + np.concatenate([x[-1:], x[:-2]]).mean(0))
    np.testing.assert_allclose(state.params["norm"]["mean"], mean, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_members_of_fit_many_are_single_fits(tiny):
    keys = jax.random.split(jax.random.key(0), 3)
    many, history = fit_many(keys, DROPPED, tiny, epochs=2)
    for i, key in enumerate(jax.random.clone(keys)):
        single, expected = fit(key, DROPPED, tiny, epochs=2)
        np.testing.assert_allclose(history.valid_loss[i], expected.valid_loss, rtol=1e-4)
        jax.tree.map(lambda ours, theirs, i=i: np.testing.assert_allclose(ours[i], theirs, rtol=1e-3, atol=1e-5),
                     many.params, single.params)  # fmt: skip


@pytest.mark.slow
def test_mixed_precision_keeps_the_statistics_in_float32(tiny):
    state, _ = fit(jax.random.key(0), NORMED._replace(model=mixed_precision(NORMED.model)), tiny, epochs=3)
    exact, _ = fit(jax.random.key(0), NORMED, tiny, epochs=3)
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
    np.testing.assert_allclose(state.params["norm"]["mean"], exact.params["norm"]["mean"], rtol=0.02, atol=1e-3)
    assert np.any(state.params["norm"]["mean"] != state.params["norm"]["mean"].astype(jnp.bfloat16))


@pytest.mark.slow
def test_gradient_norms_and_nan_guard_take_a_model_with_dropout(tiny):
    state, _ = fit(jax.random.key(0), DROPPED, tiny, epochs=1)
    assert np.all(np.isfinite(gradient_norms(DROPPED, state.params, tiny.train)))
    learner = DROPPED._replace(loss_fn=lambda logits, labels: jnp.log(logits[:, 0] - 1e6))
    bad = find_bad_step(learner, state, tiny.train)
    assert bad.number == 1
    loss = train_step(learner)(bad.state, bad.batch, bad.key)[1]
    assert not np.isfinite(loss)


def test_step_without_a_key_is_refused(tiny):
    with pytest.raises(ValueError, match="must have a key"):
        train_step(DROPPED)(init_state(jax.random.key(0), DROPPED), next(batches(tiny.train, 8)))


BAD = {
    "logits": lambda params, x, key: (x[:, :2], None),
    "parameters' shapes": lambda params, x, key: (x[:, :1], jax.tree.map(jnp.sum, params)),
}


@pytest.mark.parametrize("message", BAD)
def test_apply_train_that_does_not_fit_is_refused(message, tiny):
    model = Model(linear().init, linear().apply, BAD[message])
    with pytest.raises(ValueError, match=message):
        fit(jax.random.key(0), NORMED._replace(model=model), tiny, epochs=1)


class Counting(nnx.Module):
    def __init__(self, rngs):
        self.out = nnx.Linear(784, 1, rngs=rngs)
        self.calls = nnx.Variable(jnp.zeros((), jnp.int32))

    def __call__(self, x):
        self.calls[...] += 1
        return self.out(x)


def test_variable_that_is_not_float_is_refused():
    with pytest.raises(ValueError, match=r"calls \(int32\)"):
        from_flax(Counting)


class Scaled(nnx.Module):
    def __init__(self, rngs, wrap=nnx.Variable):
        self.scale, self.shift = wrap(jnp.full(784, 2.0)), np.full(784, 0.5, np.float32)
        self.out = nnx.Linear(784, 1, rngs=rngs)

    def __call__(self, x):
        return self.out(x * self.scale[None] - self.shift[None])


def test_variables_that_are_not_parameters_stay_unchanged(tiny):
    state, _ = fit(jax.random.key(0), NORMED._replace(model=from_flax(Scaled)), tiny, epochs=1)
    np.testing.assert_array_equal(state.params["scale"], 2)
    np.testing.assert_array_equal(state.params["shift"], 0.5)


def test_plain_jax_array_is_refused():
    with pytest.raises(ValueError, match=r"nnx\.Variable.*: scale"):
        from_flax(lambda rngs: Scaled(rngs, wrap=lambda array: array))


class Convolutions(nnx.Module):
    def __init__(self, rngs, options):
        self.conv = nnx.Conv(4, 8, kernel_size=(3, 3), rngs=rngs, **options)

    def __call__(self, x):
        return self.conv(x).reshape(len(x), -1)


CONVOLUTIONS = [
    ({}, True),
    ({"padding": "VALID", "strides": 2}, True),
    ({"strides": (2, 1)}, False),
]
MORE_CONVOLUTIONS = [
    ({"padding": "CIRCULAR"}, True),
    ({"feature_group_count": 2}, False),
    ({"kernel_dilation": 2}, False),
    ({"conv_general_dilated": lambda *args, **options: jax.lax.conv_general_dilated(*args, **options)}, False),
]
CONVOLUTIONS += [slow(*case) for case in MORE_CONVOLUTIONS]


@pytest.mark.parametrize(("options", "fast"), CONVOLUTIONS, ids=lambda value: str(value)[:30].split(" at ")[0])
def test_convolutions_are_those_of_flax_and_fast_if_supported(monkeypatch, options, fast):
    calls = []
    monkeypatch.setattr(conv, "conv2d", lambda *args, **how: calls.append(how) or _conv2d(*args, **how))
    model = from_flax(lambda rngs: Convolutions(rngs, options), (9, 9, 4))
    x = np.random.default_rng(1).normal(size=(3, 9 * 9 * 4)).astype(np.float32)
    module = Convolutions(nnx.Rngs(jax.random.key(0)), options)
    params = nnx.to_pure_dict(nnx.state(module, nnx.Param))
    expected = nnx.jit(lambda module, x: module(x))(module, x.reshape(3, 9, 9, 4))
    found = jax.jit(model.apply)(params, x)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert bool(calls) == fast


_conv2d = conv.conv2d


@pytest.mark.parametrize("graph_mode", [slow(True), False])
def test_both_flax_modes_train(tiny, graph_mode):
    """Flax will make its tree mode the default."""
    with nnx.set_graph_mode(graph_mode), nnx.set_graph_updates(graph_mode):
        learner = NORMED._replace(model=from_flax(functools.partial(Normed, rate=0.1)))
        _, history = fit(jax.random.key(0), learner, tiny, epochs=1)
    assert np.isfinite(history.train_loss[0])


class Spectral(nnx.Module):
    def __init__(self, rngs):
        self.out = nnx.SpectralNorm(nnx.Linear(784, 1, rngs=rngs), rngs=rngs)

    def __call__(self, x):
        return self.out(x)


def test_module_that_writes_to_a_parameter_is_refused(tiny):
    """Flax's own step starts from the written value, ours would start from the old one."""
    with pytest.raises(ValueError, match=r"parameter out\.layer_instance\.kernel"):
        fit(jax.random.key(0), NORMED._replace(model=from_flax(Spectral)), tiny, epochs=1)


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


@pytest.mark.slow
def test_variables_made_in_a_call_are_not_kept(tiny):
    state, _ = fit(jax.random.key(0), NORMED._replace(model=from_flax(Sowing)), tiny, epochs=1)
    assert sorted(state.params) == ["norm", "out"]


NOT_MAKERS = {
    "make .* a Linear": lambda: nnx.Linear(784, 1, rngs=nnx.Rngs(0)),
    "Flax NNX module.* a Dense": lambda: lambda rngs: linen.Dense(10),
}


@pytest.mark.parametrize("message", NOT_MAKERS)
def test_make_that_builds_no_nnx_module_is_refused(message):
    with pytest.raises(ValueError, match=message):
        from_flax(NOT_MAKERS[message]())


@pytest.mark.slow
def test_ema_keeps_the_dtype_of_the_parameters(tiny):
    model = from_flax(lambda rngs: nnx.Linear(784, 1, param_dtype=jnp.bfloat16, rngs=rngs))
    state, _ = fit(jax.random.key(0), NORMED._replace(model=model, optimizer=with_ema(SGD, 0.9)), tiny, epochs=1)
    assert {leaf.dtype for leaf in jax.tree.leaves(state.opt_state.average)} == {jnp.dtype(jnp.bfloat16)}
