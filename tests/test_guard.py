import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jax_mnist import batches, init_state, linear, load_checkpoint, mlp, mnist_loss, random_shift, train_step
from jax_mnist.cli import recipes, train
from jax_mnist.cli.resume import Saved
from jax_mnist.training.nan_guard import find_bad_step, find_operations


def squares(logits, labels):
    return (logits[:, 0] - labels) ** 2


def root_below_zero(logits, labels):
    return jnp.sqrt(logits[:, 0] - 1e6) + labels


def test_the_step_is_the_first_that_a_plain_loop_finds(tiny):
    model, optimizer = linear(), optax.sgd(1e13)
    state = init_state(jax.random.key(0), model, optimizer)
    step, expected, now = train_step(model, squares, optimizer), None, state
    for number, batch in enumerate(batches(tiny.train, 4, state.key), 1):
        now, loss = step(now, batch)
        if expected is None and not np.isfinite([loss, *now.params[0].weights.ravel(), *now.params[0].bias]).all():
            expected = number
    bad = find_bad_step(state, tiny.train, model=model, loss_fn=squares, optimizer=optimizer, batch_size=4)
    assert bad.number == expected > 1
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(bad.state.params))


def test_a_healthy_epoch_has_none(tiny):
    model, optimizer = linear(), optax.sgd(0.1)
    state = init_state(jax.random.key(0), model, optimizer)
    options = {"model": model, "loss_fn": mnist_loss, "optimizer": optimizer}
    assert find_bad_step(state, tiny.train, batch_size=8, augment=random_shift, **options) is None


def test_the_operation_and_its_line_are_found(tiny):
    options = {"model": mlp((784, 4, 1)), "loss_fn": root_below_zero, "optimizer": optax.sgd(0.1)}
    state = init_state(jax.random.key(0), options["model"], options["optimizer"])
    found = find_operations(find_bad_step(state, tiny.train, **options), **options)
    assert any("nan" in line and "sqrt" in line and "test_guard.py" in line and "1e6" in line for line in found)


@pytest.mark.parametrize("debug", [False, True])
def test_a_run_that_diverges_stops_and_keeps_the_last_good_state(tmp_path, monkeypatch, capsys, debug):
    """Squares of logits diverge where the rate is too high; the run's own losses are bounded and do not."""
    monkeypatch.setattr(recipes, "mnist_loss", squares)
    arguments = ["--model", "linear", "--learning-rate", "0.03", "--epochs", "400", "--out", str(tmp_path)]
    assert train.main([*arguments, *(["--debug-nans"] if debug else [])]) == 2
    error = capsys.readouterr().err
    assert "the loss turned" in error
    assert "of 49" in error
    assert "at learning rate 0.03" in error
    assert ("encountered in" in error) == debug
    file = next(tmp_path.glob("checkpoint-*.safetensors"))
    assert str(file) in error
    optimizer = recipes.make_optimizer(recipes.choose_recipe(2, "linear"), 12_396)
    state = init_state(jax.random.key(0), linear(), optimizer)
    checkpoint = load_checkpoint(file, Saved(state, None))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(checkpoint.state.last.params))
    assert not (tmp_path / "result.json").exists()
    assert json.dumps(checkpoint.rows, allow_nan=False)
