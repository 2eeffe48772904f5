import re

import jax
import numpy as np
import optax
import pytest

from jax_mnist import Learner, fit, hold_out, init_state, linear, lr_find, mlp, mnist_loss
from jax_mnist.training import set_learning_rate

SGD = optax.inject_hyperparams(optax.sgd)(learning_rate=0.1)


def squares(logits, labels):
    return (logits[:, 0] - labels) ** 2


LEARNER = Learner(linear(), squares, SGD, batch_size=8)


def test_each_rate_is_a_run_of_its_own_and_a_third_of_the_best_is_suggested(tiny):
    rates = [1e-4, 1e-3, 3e-3, 1e3]
    found = lr_find(jax.random.key(0), LEARNER, tiny, epochs=2, rates=rates)
    for rate, loss in zip(rates[:3], found.losses[:3], strict=True):
        state = init_state(jax.random.key(0), LEARNER)
        state = state._replace(opt_state=set_learning_rate(state.opt_state, rate))
        _, history = fit(None, LEARNER, tiny, epochs=2, state=state)
        assert loss == pytest.approx(history.valid_loss[-1], rel=1e-3)
    assert found.losses[3] > 1e6 or not np.isfinite(found.losses[3])
    best = rates[int(np.argmin(found.losses[:3]))]
    assert found.suggestion == pytest.approx(best / 3)
    assert f"a third of {best:.3g}" in found.reason


def test_reason_says_that_the_best_rate_is_the_highest(tiny):
    found = lr_find(jax.random.key(0), LEARNER, tiny, epochs=2, rates=[1e-7, 1e-6, 1e-5, 1e-4])
    assert "highest" in found.reason


def test_long_training_is_refused(tiny):
    with pytest.raises(ValueError, match=r"1 to 4.* 5"):
        lr_find(jax.random.key(0), LEARNER, tiny, epochs=5)


def test_rates_that_all_diverge_are_refused(tiny):
    with pytest.raises(ValueError, match=r"1e\+30 .*1e\+35 .*finite"):
        lr_find(jax.random.key(0), LEARNER, tiny, epochs=2, rates=[1e30, 1e32, 1e34, 1e35])


@pytest.mark.parametrize("rates", [[], [-0.1, 0.1], [0.0, 0.1], [0.1, float("nan")]], ids=str)
def test_rates_must_be_positive(tiny, rates):
    with pytest.raises(ValueError, match=rf"positive.*{re.escape(str(rates))}"):
        lr_find(jax.random.key(0), LEARNER, tiny, rates=rates)


@pytest.mark.slow
def test_chapter_net_reaches_98_percent_at_the_suggested_rate(sample):
    learner, splits = Learner(mlp((784, 30, 1)), mnist_loss, SGD), hold_out(jax.random.key(0), sample.train, 2000)
    found = lr_find(jax.random.key(0), learner, splits)
    _, history = fit(jax.random.key(1), learner._replace(optimizer=optax.sgd(found.suggestion)), sample, epochs=40)
    assert history.accuracy[-1] >= 0.98
