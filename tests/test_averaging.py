import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jax_mnist import evaluate, evaluation_params, fit, fit_many, init_state, mlp, mnist_loss, with_ema


def test_it_is_optax_debiased_average_of_the_steps_own_parameters():
    optimizer = with_ema(optax.adam(0.1), decay=0.9)
    params = {"w": jnp.array([1.0, -2.0])}
    plain_params, state, plain = params, optimizer.init(params), optax.adam(0.1).init(params)
    reference = optax.ema(0.9, debias=True)
    reference_state = reference.init(params)
    for step in range(20):
        gradients = {"w": jnp.array([0.3, -0.1 * step])}
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        plain_updates, plain = optax.adam(0.1).update(gradients, plain, plain_params)
        plain_params = optax.apply_updates(plain_params, plain_updates)
        expected, reference_state = reference.update(plain_params, reference_state)
        np.testing.assert_array_equal(params["w"], plain_params["w"])
        np.testing.assert_allclose(state.average["w"], expected["w"], rtol=1e-5)


def test_the_average_is_what_is_evaluated(tiny):
    model, optimizer = mlp((784, 16, 1)), with_ema(optax.sgd(0.5), decay=0.9)
    options = {"loss_fn": mnist_loss, "optimizer": optimizer, "batch_size": 8}
    state, history = fit(jax.random.key(0), model, tiny, epochs=2, **options)
    last, average = (evaluate(model, p, tiny.valid, mnist_loss).loss for p in (state.params, evaluation_params(state)))
    assert history.valid_loss[-1] == average != last
    many, histories = fit_many(jax.random.key(0)[None], model, tiny, epochs=2, **options)
    np.testing.assert_allclose(histories.valid_loss[0], history.valid_loss, rtol=1e-4)
    np.testing.assert_allclose(evaluation_params(many)[0].bias[0], evaluation_params(state)[0].bias, atol=1e-5)


def test_without_an_average_the_last_parameters_are_judged():
    state = init_state(jax.random.key(0), mlp((784, 16, 1)), optax.adam(0.1))
    assert evaluation_params(state) is state.params


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.1])
def test_a_decay_that_averages_nothing_is_refused(decay):
    with pytest.raises(ValueError, match=r"decay must be in \(0, 1\)"):
        with_ema(optax.sgd(0.1), decay)
