"""Training from scratch, with Optax and with Flax matches recorded PyTorch runs step by step.

record_torch.py writes the recording. test_torch_live.py compares with PyTorch itself if it is installed.
"""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from ladder import (
    BATCH_SIZE,
    CHAPTER_EPOCHS,
    CHAPTER_RULE,
    EPOCHS,
    EVERY,
    RULES,
    SIZES,
    flat,
    mixed,
    optimizer_of,
    start,
)
from record_torch import FILE

import jax_mnist
from jax_mnist import (
    Learner,
    TrainState,
    evaluate,
    flax_mlp,
    from_state_dict,
    init_params,
    mlp,
    mnist_loss,
    to_state_dict,
    train_epoch,
)

EXACT = {"rtol": 0, "atol": 1e-12}


@pytest.fixture(scope="module")
def recorded():
    with np.load(FILE, allow_pickle=False) as file:
        return dict(file)


@pytest.fixture(scope="module")
def splits(sample):
    return jax_mnist.Splits(*map(mixed, sample))


def initial_params(model):
    return from_state_dict(start(), jax.eval_shape(model.init, jax.random.key(0)))


def initial_state(learner):
    params = initial_params(learner.model)
    return TrainState(params, learner.optimizer.init(params), jnp.zeros((), jnp.int32), jax.random.key(0))


def make_learner(model, rule):
    return Learner(model, mnist_loss, optimizer_of(rule), BATCH_SIZE, shuffle=False)


def epoch_losses(losses, count):
    """Convert PyTorch's mean losses per batch to means over the images of each epoch."""
    sizes = np.full(losses.shape[1], BATCH_SIZE)
    sizes[-1] = count - sizes[:-1].sum()
    return losses @ sizes / count


@pytest.mark.parametrize("name", ["weights", "bias"])
def test_initialization_matches_nn_linear(name):
    """Check bounds, moments and distribution against uniform in +-1/sqrt(inputs), for weights and biases."""
    for i, layer in zip((784, 900), init_params(jax.random.key(0), (784, 900, 3000), std=None), strict=True):
        values, bound = np.asarray(getattr(layer, name), np.float64).ravel()[:200_000], i**-0.5
        assert 0.99 * bound < np.abs(values).max() <= bound * (1 + 1e-6)
        for power, moment, spread in ((1, 0, 1 / 3), (2, 1 / 3, 4 / 45), (4, 1 / 5, 16 / 225)):
            error = abs(np.mean((values / bound) ** power) - moment)
            assert error < 4 * np.sqrt(spread / len(values)), power
        uniform: Any = scipy.stats.kstest(values, "uniform", (-bound, 2 * bound))
        assert uniform.pvalue > 1e-3


def test_initial_weights_and_biases_are_uncorrelated():
    first, second = init_params(jax.random.key(0), (784, 784, 784), std=None)
    arrays = [first.weights[0], first.bias, second.weights[0], second.bias]
    correlations = np.corrcoef(np.stack(arrays)) - np.eye(4)
    assert np.abs(correlations).max() < 4 / np.sqrt(784)


def test_update_from_scratch_matches_pytorch(x64, recorded, splits):
    params = initial_params(mlp(SIZES))
    batches = list(jax_mnist.batches(splits.train, BATCH_SIZE))
    loss, losses = jax.jit(jax_mnist.loss), []
    for _, batch in itertools.product(range(EPOCHS), batches):
        losses.append(loss(params, batch))
        params = jax_mnist.update(params, batch, RULES["sgd"].lr)
    assert params[0].weights.dtype == jnp.float64
    np.testing.assert_allclose(np.stack(losses), recorded["sgd/losses"].ravel(), **EXACT)
    np.testing.assert_allclose(flat(to_state_dict(params))[::EVERY], recorded["sgd/parameters"], **EXACT)
    gradients = jax_mnist.gradient(params, batches[0])
    np.testing.assert_allclose(flat(to_state_dict(gradients))[::EVERY], recorded["sgd/gradients"], **EXACT)


@pytest.mark.parametrize(("make", "rule"), [*((mlp, rule) for rule in RULES), (flax_mlp, "all")])
def test_optax_in_train_epoch_matches_pytorch(x64, recorded, splits, make, rule):
    learner = make_learner(make(SIZES), RULES[rule])
    state, losses = initial_state(learner), []
    for _ in range(EPOCHS):
        state, loss = train_epoch(learner, state, splits.train)
        losses.append(loss)
    expected = epoch_losses(recorded[f"{rule}/losses"], len(splits.train))
    np.testing.assert_allclose(np.stack(losses), expected, **EXACT)
    np.testing.assert_allclose(flat(to_state_dict(state.params))[::EVERY], recorded[f"{rule}/parameters"], **EXACT)


def test_recorded_update_rules_differ(recorded):
    for one, other in itertools.combinations(RULES, 2):
        assert np.abs(recorded[f"{one}/parameters"] - recorded[f"{other}/parameters"]).max() > 1e-4


@pytest.mark.slow
def test_chapter_run_in_float32_matches_pytorch(recorded, splits):
    """After 1,960 float32 steps, parameters agree within 1e-5 and the correct counts differ by at most 2 of 2,038."""
    learner = make_learner(mlp(SIZES), CHAPTER_RULE)
    state, right = initial_state(learner), []
    for _ in range(CHAPTER_EPOCHS):
        state, _ = train_epoch(learner, state, splits.train)
        right.append(int(jnp.round(evaluate(learner, state.params, splits.valid).accuracy * 2038)))
    assert state.params[0].weights.dtype == jnp.float32
    np.testing.assert_allclose(flat(to_state_dict(state.params)), recorded["chapter/parameters"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(right, recorded["chapter/correct"], rtol=0, atol=2)
    assert 2000 <= right[-1] <= 2010  # the chapter's 0.983
