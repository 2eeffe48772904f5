import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from marks import slow
from optax.contrib import schedule_free, schedule_free_eval_params, schedule_free_sgd

from jax_mnist import (
    Learner,
    Model,
    batches,
    evaluate,
    evaluation_params,
    fit,
    fit_many,
    init_state,
    mlp,
    mnist_loss,
    train_step,
    with_ema,
)

MODEL = mlp((784, 16, 1))
SGD = optax.sgd(0.5)
EMA = Learner(MODEL, mnist_loss, with_ema(SGD, decay=0.9), batch_size=8)


def states_after_steps(learner, dataset, epochs=3):
    """Return the states after each step of a few epochs."""
    step, state, states = train_step(learner), init_state(jax.random.key(0), learner), []
    for epoch in range(epochs):
        for batch in batches(dataset, 8, jax.random.key(1), epoch):
            state, _ = step(state, batch)
            states.append(state)
    return states


def average_of(params, decay=0.9):
    """Return the debiased average in float64 of a list of arrays, one after each step."""
    weights = (1 - decay) * decay ** np.arange(len(params))[::-1]
    return np.tensordot(weights, np.asarray(params, np.float64), axes=1) / (1 - decay ** len(params))


def assert_close(found, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, expected)


def test_average_is_optax_debiased_ema_and_leaves_the_steps_unchanged(tiny):
    plain = Learner(MODEL, mnist_loss, optax.adam(0.1))
    reference = optax.ema(0.9, debias=True)
    update = jax.jit(reference.update)
    reference_state = reference.init(MODEL.init(jax.random.key(0)))
    tracked = states_after_steps(plain._replace(optimizer=with_ema(optax.adam(0.1), decay=0.9)), tiny.train, epochs=5)
    assert len(tracked) == 20
    for state, plain_state in zip(tracked, states_after_steps(plain, tiny.train, epochs=5), strict=True):
        expected, reference_state = update(plain_state.params, reference_state)
        jax.tree.map(np.testing.assert_array_equal, state.params, plain_state.params)
        assert_close(state.opt_state.average, expected)


@pytest.mark.parametrize("optimizer", [
    with_ema(SGD, 0.9),
    optax.chain(optax.clip_by_global_norm(1.0), with_ema(SGD, 0.9)),
    *(slow(optimizer) for optimizer in (
        optax.chain(with_ema(SGD, 0.9), optax.scale(0.5)), with_ema(optax.lbfgs(), 0.9),
    )),
], ids=["alone", "after_clip", "before_scale", "around_lbfgs"])  # fmt: skip
def test_average_is_that_of_the_parameters_after_each_step(tiny, optimizer):
    states = states_after_steps(Learner(MODEL, mnist_loss, optimizer), tiny.train)
    for count in (1, 2, len(states)):
        expected = jax.tree.map(lambda *params: average_of(params), *(state.params for state in states[:count]))
        assert_close(evaluation_params(states[count - 1]), expected)
    assert jnp.abs(states[-1].params[0].weights - evaluation_params(states[-1])[0].weights).max() > 1e-4


def test_multi_transform_averages_its_own_parameters(tiny):
    labels = MODEL.init(jax.random.key(0))
    labels = tuple(layer._replace(weights=name, bias=name) for layer, name in zip(labels, "ab", strict=True))
    optimizer = optax.multi_transform({"a": with_ema(SGD, 0.9), "b": optax.sgd(0.1)}, labels)
    states = states_after_steps(Learner(MODEL, mnist_loss, optimizer), tiny.train)
    first, last = evaluation_params(states[-1])
    assert_close(first, jax.tree.map(lambda *params: average_of(params), *(state.params[0] for state in states)))
    jax.tree.map(np.testing.assert_array_equal, last, states[-1].params[1])
    both = optax.multi_transform({"a": with_ema(SGD, 0.9), "b": with_ema(optax.sgd(0.1), 0.5)}, labels)
    states = states_after_steps(Learner(MODEL, mnist_loss, both), tiny.train)
    for layer, decay in enumerate((0.9, 0.5)):
        params = [state.params[layer] for state in states]
        expected = jax.tree.map(lambda *leaves, decay=decay: average_of(leaves, decay), *params)
        assert_close(evaluation_params(states[-1])[layer], expected)


def test_parameters_may_have_the_names_of_the_state_fields(tiny):
    def init(key):
        return {"average": jax.random.normal(key, (784, 1)), "decay": {"count": jnp.ones(1)}, "inner": jnp.ones(1)}

    def apply(params, x):
        shift = (params["decay"]["count"] * params["inner"]).reshape(1, 1)
        return x @ params["average"] + shift

    states = states_after_steps(Learner(Model(init, apply), mnist_loss, with_ema(SGD, 0.9)), tiny.train)
    expected = jax.tree.map(lambda *params: average_of(params), *(state.params for state in states))
    assert_close(evaluation_params(states[-1]), expected)


def test_average_is_evaluated(tiny):
    state, history = fit(jax.random.key(0), EMA, tiny, epochs=2)
    last, average = (evaluate(EMA, params, tiny.valid).loss for params in (state.params, evaluation_params(state)))
    assert history.valid_loss[-1] == average != last


@pytest.mark.slow
def test_average_of_a_member_of_fit_many_is_that_of_the_fit(tiny):
    state, history = fit(jax.random.key(0), EMA, tiny, epochs=2)
    many, histories = fit_many(jax.random.key(0)[None], EMA, tiny, epochs=2)
    np.testing.assert_allclose(histories.valid_loss[0], history.valid_loss, rtol=1e-4)
    np.testing.assert_allclose(evaluation_params(many)[0].bias[0], evaluation_params(state)[0].bias, atol=1e-5)


def test_without_an_average_the_current_parameters_are_evaluated():
    state = init_state(jax.random.key(0), EMA._replace(optimizer=optax.adam(0.1)))
    assert evaluation_params(state) is state.params


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.1])
def test_decay_outside_0_to_1_is_refused(decay):
    with pytest.raises(ValueError, match=rf"decay .* in \(0, 1\).*{decay}"):
        with_ema(optax.sgd(0.1), decay)


@pytest.mark.parametrize("optimizer", [
    optax.chain(with_ema(SGD, 0.9), with_ema(optax.identity(), 0.5)),
    with_ema(with_ema(SGD, 0.9), 0.5),
    with_ema(optax.chain(optax.clip(1.0), with_ema(SGD, 0.9)), 0.5),
], ids=["chained", "nested", "nested_in_chain"])  # fmt: skip
def test_two_averages_of_the_same_parameters_are_refused(tiny, optimizer):
    with pytest.raises(ValueError, match="at most one EMA"):
        fit(jax.random.key(0), EMA._replace(optimizer=optimizer), tiny, epochs=1)


@pytest.mark.parametrize("clip", [slow(False), True])
def test_schedule_free_is_evaluated_at_its_own_parameters(tiny, clip):
    optimizer = schedule_free_sgd(0.5)
    learner = EMA._replace(optimizer=optax.chain(optax.clip_by_global_norm(1.0), optimizer) if clip else optimizer)
    state, history = fit(jax.random.key(0), learner, tiny, epochs=2)
    expected = schedule_free_eval_params(state.opt_state[-1] if clip else state.opt_state, state.params)
    jax.tree.map(np.testing.assert_array_equal, evaluation_params(state), expected)
    assert jnp.abs(expected[0].weights - state.params[0].weights).max() > 1e-4
    assert history.valid_loss[-1] == pytest.approx(float(evaluate(learner, expected, tiny.valid).loss), rel=1e-6)


@pytest.mark.parametrize("optimizer", [
    optax.chain(schedule_free(SGD, 0.5), optax.scale(0.5)),
    with_ema(schedule_free_sgd(0.5), 0.9),
    optax.chain(with_ema(optax.identity(), 0.9), schedule_free_sgd(0.5)),
    schedule_free(with_ema(SGD, 0.9), 0.5),
], ids=["before_scale", "in_ema", "after_ema", "around_ema"])  # fmt: skip
def test_schedule_free_before_another_transformation_or_with_an_ema_is_refused(tiny, optimizer):
    with pytest.raises(ValueError, match="schedule_free"):
        fit(jax.random.key(0), EMA._replace(optimizer=optimizer), tiny, epochs=1)
