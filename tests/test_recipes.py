import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jax_mnist import Splits, evaluate, fit, save_params
from jax_mnist.cli import runs
from jax_mnist.cli.recipes import choose_recipe, fit_options, make_model, make_optimizer

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
def test_the_optimizers_are_optax_own(chosen, expected):
    recipe = choose_recipe(2, epochs=3, batch_size=256, **chosen)
    found = path(make_optimizer(recipe, 1000), 12)  # 4 batches, the last one short, in each of 3 epochs
    np.testing.assert_allclose(found, path(expected, 12), rtol=1e-6)


def test_one_cycle_ends_where_the_training_ends():
    recipe = choose_recipe(2, epochs=3, batch_size=256, schedule="one-cycle")
    steps = np.abs(np.diff(path(make_optimizer(recipe, 1000), 12)[:, 0]))
    assert 20 * steps[-1] < steps.max()
    assert steps.argmax() in (2, 3)  # three tenths of the way


def test_the_convolutional_net_brings_its_recipe():
    ten, two = choose_recipe(10, "cnn"), choose_recipe(2, "cnn", epochs=2)
    assert (ten.optimizer, ten.schedule, ten.label_smoothing, ten.epochs) == ("adam", "one-cycle", 0.1, 8)
    assert (two.label_smoothing, two.epochs) == (0.0, 2)
    assert choose_recipe(10, "cnn", "sgd").learning_rate == 0.1


@pytest.mark.parametrize(
    ("option", "value"),
    [("weight_decay", -0.1), ("weight_decay", float("nan")), ("betas", (0.9, 1.0)), ("label_smoothing", 1.5)],
)
def test_what_cannot_be_trained_is_refused(option, value):
    with pytest.raises(ValueError, match=option.replace("_", "-")):
        choose_recipe(10, **{option: value})


def test_label_smoothing_is_for_more_than_two_classes():
    with pytest.raises(ValueError, match="more than two classes"):
        choose_recipe(2, label_smoothing=0.1)


def test_filters_are_for_a_convolutional_net():
    with pytest.raises(ValueError, match="only cnn has convolutions"):
        choose_recipe(10, "mlp", filters=(8, 16))


def test_a_run_remembers_its_filters(tmp_path):
    recipe = choose_recipe(10, "cnn", filters=(2, 3, 4), hidden=(5,))
    params = make_model(recipe, 10).init(jax.random.key(0))
    runs.write_json(tmp_path / runs.CONFIG, recipe._asdict() | {"classes": list("0123456789")})
    save_params(tmp_path / runs.PARAMS, params)
    run = runs.load_run(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, run.params, params)
    kernels = [params["convolutions"][i]["kernel"].shape for i in range(3)]
    assert kernels == [(5, 5, 1, 2), (3, 3, 2, 3), (3, 3, 3, 4)]
    assert run.model.apply(run.params, jnp.zeros((1, 784))).shape == (1, 10)


@pytest.mark.slow
@pytest.mark.parametrize("class_count", [2, 10])
def test_the_convolutional_net_trains_by_its_recipe(mnist, class_count):
    train, valid = (part.__class__(part.images, part.labels % class_count) for part in mnist)
    splits = Splits(train[:5000], valid[:1000])
    recipe = choose_recipe(class_count, "cnn", epochs=2, batch_size=128, hidden=(32,))
    options = fit_options(recipe, splits, class_count)
    model = make_model(recipe, class_count)
    state, history = fit(jax.random.key(0), model, splits, **options)
    assert history.accuracy[-1] > 0.93
    assert evaluate(model, state.params, splits.valid, options["loss_fn"]).accuracy == pytest.approx(
        history.accuracy[-1]
    )


@pytest.mark.slow
def test_one_cycle_of_a_small_convolutional_net_beats_the_chapters_last_model(sample):
    """resnet18 after one epoch of one cycle: 0.992."""
    recipe = choose_recipe(2, "cnn", epochs=5, batch_size=128, filters=(4, 16), hidden=(64,))
    model, options = make_model(recipe, 2), fit_options(recipe, sample, 2)
    last = [fit(jax.random.key(seed), model, sample, **options)[1].accuracy[-1] for seed in range(5)]
    print(f"\n{np.mean(last):.4f} +- {np.std(last, ddof=1):.4f} over 5 seeds")
    assert np.mean(last) >= 0.993
