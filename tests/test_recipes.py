import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jax_mnist import Splits, evaluate, fit, save_params
from jax_mnist.cli import runs
from jax_mnist.cli.recipes import choose_recipe, make_learner, make_model, make_optimizer

PARAMS = {"w": jnp.array([1.0, -2.0, 3.0])}
GRADIENTS = {"w": jnp.array([0.5, 0.25, -1.0])}


def path(optimizer, steps):
    params, state, seen = PARAMS, optimizer.init(PARAMS), []
    for _ in range(steps):
        updates, state = optimizer.update(GRADIENTS, state, params)
        params = optax.apply_updates(params, updates)
        seen.append(params["w"])
    return np.array(seen)


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({"optimizer": "sgd"}, optax.sgd(0.1)),
        ({"optimizer": "momentum", "learning_rate": 0.1}, optax.sgd(0.1, momentum=0.9)),
        ({"optimizer": "adam", "learning_rate": 0.1}, optax.adam(0.1)),
        (
            {"optimizer": "adam", "learning_rate": 0.1, "betas": (0.7, 0.95), "weight_decay": 0.2},
            optax.adamw(0.1, 0.7, 0.95, weight_decay=0.2),
        ),
        ({"clip_norm": 0.5}, optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(0.1))),
        ({"schedule": "cosine"}, optax.sgd(optax.cosine_decay_schedule(0.1, 12))),
        ({"schedule": "one-cycle"}, optax.sgd(optax.cosine_onecycle_schedule(12, 0.1))),
    ],
    ids=["sgd", "momentum", "adam", "adamw", "clipped", "cosine", "one-cycle"],
)
def test_optimizers_are_those_of_optax(chosen, expected):
    recipe = choose_recipe(2, epochs=3, batch_size=256, **chosen)
    found = path(make_optimizer(recipe, 1000), 12)  # 4 batches, the last one short, in each of 3 epochs
    np.testing.assert_allclose(found, path(expected, 12), rtol=1e-6)


def test_one_cycle_ends_with_the_training():
    recipe = choose_recipe(2, epochs=3, batch_size=256, schedule="one-cycle")
    steps = np.abs(np.diff(path(make_optimizer(recipe, 1000), 12)[:, 0]))
    assert 20 * steps[-1] < steps.max()
    assert steps.argmax() in (2, 3)  # after 30% of the steps


def test_cnn_has_its_own_defaults():
    ten, two = choose_recipe(10, "cnn"), choose_recipe(2, "cnn", epochs=2)
    assert (ten.optimizer, ten.schedule, ten.label_smoothing, ten.epochs) == ("adam", "one-cycle", 0.1, 8)
    assert (two.label_smoothing, two.epochs) == (0.0, 2)
    assert choose_recipe(10, "cnn", "sgd").learning_rate == 0.1


@pytest.mark.parametrize(
    ("option", "value"),
    [("weight_decay", -0.1), ("weight_decay", float("nan")), ("betas", (0.9, 1.0)), ("label_smoothing", 1.5)],
)
def test_values_out_of_range_are_refused(option, value):
    with pytest.raises(ValueError, match=f"--{option.replace('_', '-')}.*{re.escape(str(value))}"):
        choose_recipe(10, **{option: value})


def test_label_smoothing_of_two_classes_is_refused():
    with pytest.raises(ValueError, match=r"--label-smoothing.* two classes"):
        choose_recipe(2, label_smoothing=0.1)


def test_filters_of_a_model_without_convolutions_are_refused():
    with pytest.raises(ValueError, match=r"--filters.*\(8, 16\).*cnn.*mlp"):
        choose_recipe(10, "mlp", filters=(8, 16))


def test_run_keeps_its_filters(tmp_path):
    recipe = choose_recipe(10, "cnn", filters=(2, 3, 4), hidden=(5,))
    params = make_model(recipe, 10).init(jax.random.key(0))
    runs.write_json(tmp_path / runs.CONFIG, recipe._asdict() | {"classes": list("0123456789"), "train_count": 1000})
    save_params(tmp_path / runs.PARAMS, params)
    run = runs.load_run(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, run.params, params)
    kernels = [params["convolutions"][i]["kernel"].shape for i in range(3)]
    assert kernels == [(5, 5, 1, 2), (3, 3, 2, 3), (3, 3, 3, 4)]
    assert run.learner.model.apply(run.params, jnp.zeros((1, 784))).shape == (1, 10)


@pytest.mark.slow
@pytest.mark.parametrize("class_count", [2, 10])
def test_cnn_trains_with_its_defaults(mnist, class_count):
    train, valid = (part.__class__(part.images, part.labels % class_count) for part in mnist)
    splits = Splits(train[:5000], valid[:1000])
    recipe = choose_recipe(class_count, "cnn", epochs=2, batch_size=128, hidden=(32,))
    learner = make_learner(recipe, len(splits.train), class_count)
    state, history = fit(jax.random.key(0), learner, splits, epochs=recipe.epochs)
    assert history.accuracy[-1] > 0.93
    assert evaluate(learner, state.params, splits.valid).accuracy == pytest.approx(history.accuracy[-1])


@pytest.mark.slow
def test_small_cnn_in_one_cycle_reaches_its_accuracy_on_threes_and_sevens(sample):
    recipe = choose_recipe(2, "cnn", epochs=5, batch_size=128, filters=(4, 16), hidden=(64,))
    learner = make_learner(recipe, len(sample.train), 2)
    last = [fit(jax.random.key(seed), learner, sample, epochs=5)[1].accuracy[-1] for seed in range(5)]
    print(f"\n{np.mean(last):.4f} +- {np.std(last, ddof=1):.4f} over 5 seeds")
    assert np.mean(last) >= 0.993
