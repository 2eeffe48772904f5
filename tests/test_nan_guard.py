import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jax_mnist import Learner, batches, init_state, linear, mlp, mnist_loss, random_shift, recipes, train_step
from jax_mnist.cli import train
from jax_mnist.training import find_bad_step, find_operations, load_checkpoint


def squares(logits, labels):
    return (logits[:, 0] - labels) ** 2


def root_below_zero(logits, labels):
    return jnp.sqrt(logits[:, 0] - 1e6) + labels


def test_bad_step_is_the_first_that_a_plain_loop_finds(tiny):
    learner = Learner(linear(), squares, optax.sgd(1e13), batch_size=4)
    state = init_state(jax.random.key(0), learner)
    step, expected, now = train_step(learner), None, state
    for number, batch in enumerate(batches(tiny.train, 4, state.key), 1):
        now, loss = step(now, batch)
        if expected is None and not np.isfinite([loss, *now.params[0].weights.ravel(), *now.params[0].bias]).all():
            expected = number
    bad = find_bad_step(learner, state, tiny.train)
    assert bad.number == expected > 1
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(bad.state.params))


def test_finite_epoch_has_no_bad_step(tiny):
    learner = Learner(linear(), mnist_loss, optax.sgd(0.1), batch_size=8, augment=random_shift)
    assert find_bad_step(learner, init_state(jax.random.key(0), learner), tiny.train) is None


def test_operation_and_its_line_are_found(tiny):
    learner = Learner(mlp((784, 4, 1)), root_below_zero, optax.sgd(0.1))
    state = init_state(jax.random.key(0), learner)
    found = find_operations(learner, find_bad_step(learner, state, tiny.train))
    assert any("nan" in line and "sqrt" in line and "test_nan_guard.py" in line and "1e6" in line for line in found)


def test_diverged_run_stops_and_keeps_the_last_good_state(tmp_path, monkeypatch, capsys):
    """Squares of logits diverge if the learning rate is too high; the commands' own losses are bounded and do not."""
    monkeypatch.setattr(recipes, "mnist_loss", squares)
    assert train.main(["chapter-linear", "--learning-rate", "0.1", "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert re.search(r"the loss became (nan|inf) in epoch \d+ at step \d+ of 49 .*at learning rate 0\.1", error)
    assert "encountered in" in error  # the operation
    (file,) = tmp_path.glob("checkpoint-*.safetensors")
    start = f"is in {file}: --init {file} with another --out starts a new run from it"
    assert f"the last good state, of epoch {file.stem[11:]}, {start}" in error
    state = init_state(jax.random.key(0), recipes.make_learner(recipes.RECIPES["chapter-linear"], 12_396, 2))
    checkpoint = load_checkpoint(file, {"last": state, "best": None})
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(checkpoint.state["last"].params))
    assert not (tmp_path / "result.json").exists()
    assert json.dumps(checkpoint.records, allow_nan=False)
