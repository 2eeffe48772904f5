import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jax_mnist import Splits, evaluate, fit, mnist_loss
from jax_mnist.recipes import RECIPES, SUMMARIES, Recipe, make_learner, make_schedule

PARAMS = {"w": jnp.array([1.0, -2.0, 3.0])}
GRADIENTS = {"w": jnp.array([0.5, 0.25, -1.0])}
SHORT = Recipe(epochs=3)  # of 1,000 images in batches of 256: 4 batches, the last one short, in each of 3 epochs


def path(optimizer, steps):
    @jax.jit
    def step(params, state):
        updates, state = optimizer.update(GRADIENTS, state, params)
        return optax.apply_updates(params, updates), state

    params, state, seen = PARAMS, optimizer.init(PARAMS), []
    for _ in range(steps):
        params, state = step(params, state)
        seen.append(params["w"])
    return np.array(seen)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, optax.sgd(0.1)),
        ({"optimizer": "momentum"}, optax.sgd(0.1, momentum=0.9)),
        ({"optimizer": "adam"}, optax.adam(0.1)),
        (
            {"optimizer": "adam", "betas": (0.7, 0.95), "weight_decay": 0.2},
            optax.adamw(0.1, 0.7, 0.95, weight_decay=0.2),
        ),
        ({"clip_norm": 0.5}, optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(0.1))),
        ({"schedule": "cosine"}, optax.sgd(optax.cosine_decay_schedule(0.1, 12))),
        ({"schedule": "one-cycle"}, optax.sgd(optax.cosine_onecycle_schedule(12, 0.1))),
    ],
    ids=["sgd", "momentum", "adam", "adamw", "clipped", "cosine", "one-cycle"],
)
def test_optimizers_are_those_of_optax(values, expected):
    learner = make_learner(SHORT._replace(**values), 1000, 2)
    np.testing.assert_allclose(path(learner.optimizer, 12), path(expected, 12), rtol=1e-6)


def test_one_cycle_ends_with_the_training():
    learner = make_learner(SHORT._replace(schedule="one-cycle"), 1000, 2)
    steps = np.abs(np.diff(path(learner.optimizer, 12)[:, 0]))
    assert 20 * steps[-1] < steps.max()
    assert steps.argmax() in (2, 3)  # after 30% of the steps


def test_linear_schedule_rises_for_a_tenth_of_the_steps_and_falls_to_zero():
    schedule = make_schedule(Recipe(schedule="linear", epochs=10), 1000, 0.5)  # 40 steps
    rates = [float(schedule(step)) for step in (0, 2, 4, 13, 22, 40, 50)]
    np.testing.assert_allclose(rates, [0.05, 0.275, 0.5, 0.375, 0.25, 0, 0], atol=1e-6)


def test_muon_trains_kernels_with_equal_singular_values_and_the_rest_with_nadam():
    params = {"kernel": jnp.zeros((3, 3, 4, 8)), "dense": jnp.zeros((6, 5))}
    drawn = np.random.default_rng(0)
    gradients = {name: jnp.asarray(drawn.normal(size=leaf.shape), jnp.float32) for name, leaf in params.items()}
    recipe = SHORT._replace(optimizer="muon", learning_rate=0.01, betas=(0.7, 0.9))
    optimizer = make_learner(recipe, 1000, 2).optimizer
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    matrix, gradient = (np.asarray(tree["kernel"]).reshape(-1, 8) for tree in (updates, gradients))
    singular = np.linalg.svd(matrix, compute_uv=False) / (0.01 * 0.2 * 36**0.5)
    assert (singular > 0.6).all()
    assert (singular < 1.4).all()
    assert (matrix * gradient).sum() < 0  # downhill
    nadam = optax.nadam(0.01, 0.7, 0.9)
    expected, _ = nadam.update(gradients["dense"], nadam.init(params["dense"]))
    np.testing.assert_allclose(updates["dense"], expected, rtol=1e-5)


def test_learning_rate_in_the_state_gives_the_same_steps():
    recipe = SHORT._replace(schedule="cosine")
    injected = make_learner(recipe, 1000, 2, learning_rate_in_state=True)
    state = injected.optimizer.init(PARAMS)
    assert state.hyperparams["learning_rate"] == pytest.approx(0.1)
    expected = path(make_learner(recipe, 1000, 2).optimizer, 12)
    np.testing.assert_allclose(path(injected.optimizer, 12), expected, rtol=1e-6)


def test_chapter_presets_are_those_of_the_chapter():
    chapter, linear = RECIPES["chapter"], RECIPES["chapter-linear"]
    assert (chapter.hidden, chapter.epochs, chapter.batch_size, chapter.learning_rate) == ((30,), 40, 256, 0.1)
    assert (linear.hidden, linear.epochs, linear.batch_size, linear.learning_rate) == ((), 20, 256, 1.0)
    for recipe in (chapter, linear):
        assert make_learner(recipe, 12_396, 2).loss_fn is mnist_loss
        assert (recipe.optimizer, recipe.schedule, recipe.weight_decay) == ("sgd", "constant", 0.0)


@pytest.mark.parametrize("name", RECIPES)
def test_each_preset_makes_a_model_and_says_its_accuracy_and_time(name):
    classes = 2 if RECIPES[name].dataset == "mnist_sample" else 10
    model = make_learner(RECIPES[name], 10_000, classes).model
    logits = jax.eval_shape(lambda key: model.apply(model.init(key), jnp.zeros((3, 784))), jax.random.key(0))
    assert logits.shape == (3, 1 if classes == 2 else 10)
    assert re.search(r"0\.\d{3}.* in [\d.]+ (s|min)$", SUMMARIES[name])
    assert SUMMARIES.keys() == RECIPES.keys()


BAD = {  # a pattern that the error message must contain
    "--epochs must be 1 or more, got 0": {"epochs": 0},
    "--batch-size must be 1 or more, got -1": {"batch_size": -1},
    "--learning-rate must be a positive number, got nan": {"learning_rate": float("nan")},
    "--learning-rate must be a positive number, got -0.1": {"learning_rate": -0.1},
    "--weight-decay must be 0 or more, got nan": {"weight_decay": float("nan")},
    r"--betas must be in \[0, 1\), got 0.9 1.0": {"betas": (0.9, 1.0)},
    r"--label-smoothing must be in \[0, 1\), got 1.5": {"label_smoothing": 1.5},
    "--label-smoothing must be 0 for two classes, got 0.1": {"label_smoothing": 0.1},
    "--clip-norm must be 0 or more, got -1": {"clip_norm": -1.0},
    r"--ema must be in \[0, 1\), such as 0.999, got 1.0": {"ema": 1.0},
    r"--shift must be in 0..27 pixels, got 28": {"shift": 28},
    r"--rotation must be in \[0, 180\] degrees, got -1": {"rotation": -1.0},
    "--hidden must be empty for a linear model, got 30": {"model": "linear"},
    "--filters must be one or more sizes for a cnn, such as 24 64 96, got none": {"model": "cnn"},
    "--filters must be empty for a model without convolutions, got 8 16": {"filters": (8, 16)},
    "--model must be one of linear, mlp, flax_mlp, cnn, got resnet": {"model": "resnet"},
    "--schedule must be one of constant, linear, cosine, one-cycle, got step": {"schedule": "step"},
    "two or more positive integers": {"hidden": (0,)},
}


@pytest.mark.parametrize("message", BAD)
def test_recipe_that_cannot_be_trained_is_refused(message):
    with pytest.raises(ValueError, match=message):
        make_learner(Recipe()._replace(**BAD[message]), 1000, 2)


@pytest.mark.slow
@pytest.mark.parametrize("class_count", [2, 10])
def test_cnn_trains_with_the_values_of_its_preset(mnist, class_count):
    train, valid = (part.__class__(part.images, part.labels % class_count) for part in mnist)
    splits = Splits(train[:5000], valid[:1000])
    recipe = RECIPES["mnist-cnn"]._replace(epochs=4, hidden=(32,), label_smoothing=0.0)
    learner = make_learner(recipe, len(splits.train), class_count)
    state, history = fit(jax.random.key(0), learner, splits, epochs=recipe.epochs)
    assert history.accuracy[-1] > 0.93
    assert evaluate(learner, state.params, splits.valid).accuracy == pytest.approx(history.accuracy[-1])


@pytest.mark.slow
def test_threes_sevens_cnn_reaches_its_accuracy(sample):
    recipe = RECIPES["threes-sevens-cnn"]
    learner = make_learner(recipe, len(sample.train), 2)
    last = [fit(jax.random.key(seed), learner, sample, epochs=recipe.epochs)[1].accuracy[-1] for seed in range(5)]
    print(f"\n{np.mean(last):.4f} +- {np.std(last, ddof=1):.4f} over 5 seeds")
    assert np.mean(last) >= 0.997
