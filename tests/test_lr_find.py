import time

import jax
import numpy as np
import optax
import pytest

from jax_mnist import fit, hold_out, linear, lr_find, mlp, mnist_loss


def squares(logits, labels):
    return (logits[:, 0] - labels) ** 2


def test_each_rate_is_a_run_of_its_own_and_the_best_ones_third_is_suggested(tiny):
    rates = [1e-4, 1e-3, 3e-3, 1e3]
    options = {"loss_fn": squares, "batch_size": 8, "epochs": 2}
    found = lr_find(jax.random.key(0), linear(), tiny, optimizer=optax.sgd, rates=rates, **options)
    for rate, loss in zip(rates[:3], found.losses[:3], strict=True):
        _, history = fit(jax.random.key(0), linear(), tiny, optimizer=optax.sgd(rate), **options)
        assert loss == pytest.approx(history.valid_loss[-1], rel=1e-3)
    assert found.losses[3] > 1e6 or not np.isfinite(found.losses[3])
    best = rates[int(np.argmin(found.losses[:3]))]
    assert found.suggestion == pytest.approx(best / 3)
    assert f"a third of {best:.3g}" in found.reason


def test_the_edge_is_said(tiny):
    found = lr_find(jax.random.key(0), linear(), tiny, loss_fn=mnist_loss, optimizer=optax.sgd, rates=[1e-6, 1e-3])
    assert "the highest tried" in found.reason


def test_it_refuses_long_training_and_rates_that_all_fail(tiny):
    options = {"loss_fn": squares, "optimizer": optax.sgd}
    with pytest.raises(ValueError, match="1 to 4 epochs, not 5"):
        lr_find(jax.random.key(0), linear(), tiny, epochs=5, **options)
    with pytest.raises(ValueError, match="no learning rate from 1e\\+30 to 1e\\+35 gives a finite loss"):
        lr_find(jax.random.key(0), linear(), tiny, rates=[1e30, 1e35], batch_size=4, epochs=4, **options)


@pytest.mark.slow
def test_the_chapters_net_reaches_98_percent_at_the_suggested_rate(sample):
    """All hundred rates take less than six times as long as the one run."""
    model, splits = mlp((784, 30, 1)), hold_out(jax.random.key(0), sample.train, 2000)
    start = time.perf_counter()
    found = lr_find(jax.random.key(0), model, splits, loss_fn=mnist_loss, optimizer=optax.sgd)
    between = time.perf_counter()
    options = {"loss_fn": mnist_loss, "optimizer": optax.sgd(found.suggestion)}
    _, history = fit(jax.random.key(1), model, sample, epochs=40, **options)
    assert history.accuracy[-1] >= 0.98
    assert between - start < 6 * (time.perf_counter() - between)
