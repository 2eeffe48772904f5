"""The chapter's printed results, to the printed number of digits."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jax_mnist import (
    Learner,
    accuracy,
    batches,
    class_means,
    fit_many,
    init_params,
    l1_distance,
    l2_distance,
    linear,
    make_batch,
    mlp,
    mnist_loss,
    nearest_mean,
    predict,
    step,
    update,
)
from jax_mnist.chapter import linear_layer
from jax_mnist.chapter.parabola import Quadratic, descend, measured_speeds, quadratic_loss
from jax_mnist.data import epoch_indices, to_float
from jax_mnist.data.formats.idx import read_idx
from jax_mnist.data.registry import BUNDLED
from jax_mnist.losses import l1, mse

# Rows 4:15 and columns 4:22 of the chapter's sample 3, from its table.
PIXELS = np.array(
    [
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 29, 150, 195, 254, 255, 254, 176, 193, 150, 96, 0, 0, 0],
        [0, 0, 0, 48, 166, 224, 253, 253, 234, 196, 253, 253, 253, 253, 233, 0, 0, 0],
        [0, 93, 244, 249, 253, 187, 46, 10, 8, 4, 10, 194, 253, 253, 233, 0, 0, 0],
        [0, 107, 253, 253, 230, 48, 0, 0, 0, 0, 0, 192, 253, 253, 156, 0, 0, 0],
        [0, 3, 20, 20, 15, 0, 0, 0, 0, 0, 43, 224, 253, 245, 74, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 249, 253, 245, 126, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 14, 101, 223, 253, 248, 124, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 11, 166, 239, 253, 253, 253, 187, 30, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 16, 248, 250, 253, 253, 253, 253, 232, 213, 111, 2, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 43, 98, 98, 208, 253, 253, 253, 253, 187, 22, 0],
    ]
)


@pytest.fixture(scope="module")
def threes(sample):
    return sample.train.images[sample.train.labels == 1]


@pytest.fixture(scope="module")
def means(sample):
    return class_means(sample.train)


def to_digits(value, digits):
    return round(float(value), digits)


def test_class_counts(sample):
    assert np.bincount(sample.train.labels).tolist() == [6265, 6131]
    assert np.bincount(sample.valid.labels).tolist() == [1028, 1010]


def test_threes_come_first_sorted_by_file_name(sample):
    digits = read_idx(BUNDLED / "train-images-idx3-ubyte.gz", 3)
    indices = [10, 10000, 10011, 10031, 10034, 10042, 10052, 1007, 10074, 10091]
    np.testing.assert_array_equal(sample.train.images[:10], digits[indices])
    assert sample.train.labels[:6131].all()
    assert not sample.train.labels[6131:].any()


def test_sample_3_matches_the_chapters_table(threes):
    np.testing.assert_array_equal(threes[1][4:15, 4:22], PIXELS)


def test_stacked_threes_shape_dtype_and_range(threes):
    stacked = to_float(threes)
    assert (stacked.shape, stacked.ndim, stacked.dtype) == ((6131, 28, 28), 3, jnp.float32)
    assert stacked.max() == 1
    assert stacked.reshape(-1, 28 * 28).shape == (6131, 784)
    assert (stacked @ jax.random.normal(jax.random.key(0), (1, 28, 28))).shape == (6131, 28, 28)


def test_mean_digit_matches_numpy(means, threes):
    assert means[1].shape == (28, 28)
    np.testing.assert_allclose(means[1], threes.mean(axis=0, dtype=np.float64) / 255, atol=1e-6)


def test_distances_of_sample_3_to_the_mean_digits(means, threes):
    distances = [to_digits(d(threes[1], mean), 4) for mean in means[::-1] for d in (l1_distance, l2_distance)]
    assert distances == [0.1114, 0.2021, 0.1586, 0.3021]


def test_pixel_similarity_accuracy(sample, means):
    right = np.asarray(nearest_mean(sample.valid.images, means)) == sample.valid.labels
    is_three = sample.valid.labels == 1
    on_threes, on_sevens = right[is_three].mean(), right[~is_three].mean()
    assert [to_digits(v, 4) for v in (on_threes, on_sevens, (on_threes + on_sevens) / 2)] == [0.9168, 0.9854, 0.9511]


def test_nearest_mean_by_l2_is_a_linear_classifier(sample, means):
    sevens, threes = means.reshape(2, 784)
    weights, bias = 2 * (threes - sevens), jnp.sum(sevens**2) - jnp.sum(threes**2)
    logits = make_batch(*vars(sample.valid).values()).x @ weights[:, None] + jnp.broadcast_to(bias, (2038, 1))
    right = np.asarray(nearest_mean(sample.valid.images, means, l2_distance)) == sample.valid.labels
    assert to_digits(accuracy(logits, sample.valid.labels), 4) == to_digits(right.mean(), 4) == 0.9661
    is_three = sample.valid.labels == 1
    assert [to_digits(right[part].mean(), 4) for part in (is_three, ~is_three)] == [0.9584, 0.9737]


@pytest.mark.parametrize(("distance", "expected"), [(l1_distance, 0.6685), (l2_distance, 0.8203)])
def test_nearest_mean_accuracy_on_ten_digits(mnist, distance, expected):
    predicted = nearest_mean(mnist.valid.images, class_means(mnist.train), distance)
    assert to_digits((predicted == mnist.valid.labels).mean(), 4) == expected


def test_square_and_its_gradient():
    def f(x):
        return x**2

    assert [float(f(x)) for x in (-1.5, -1.0)] == [2.25, 1.0]
    assert [float(jax.grad(f)(x)) for x in (-1.0, 3.0)] == [-2, 6]
    total, gradient = jax.value_and_grad(lambda x: f(x).sum())(jnp.array([3.0, 4.0, 10.0]))
    assert total == 125
    assert gradient.tolist() == [6, 8, 20]


def test_one_gradient_descent_step_on_the_square():
    x = jnp.array(-1.0)
    x = step(x, jax.grad(lambda x: x**2)(x), 0.01)
    assert [to_digits(x, 4), to_digits(x**2, 4)] == [-0.98, 0.9604]


def test_parabola_loss_falls_at_a_small_rate_and_explodes_at_a_large_one():
    time = jnp.arange(20.0)
    noise_key, a, b, c = jax.random.split(jax.random.key(0), 4)
    speed = measured_speeds(noise_key, time)
    start = Quadratic(*(jax.random.normal(key) for key in (a, b, c)))

    def loss(params):
        return quadratic_loss(params, time, speed)

    _, small = descend(loss, start, 1e-5, 10)
    _, large = descend(loss, start, 1e-3, 10)
    assert (jnp.diff(small) < 0).all()
    assert large[-1] > 1e6 * large[0]


@pytest.mark.parametrize(("predictions", "expected"), [([0.9, 0.4, 0.2], 0.4333), ([0.9, 0.4, 0.8], 0.2333)])
def test_mnist_loss_with_and_without_the_sigmoid(predictions, expected):
    predictions, targets = jnp.array(predictions), jnp.array([1, 0, 1])
    assert to_digits(l1(predictions, targets).mean(), 4) == expected
    logits = jnp.log(predictions / (1 - predictions))
    assert to_digits(mnist_loss(logits, targets).mean(), 4) == expected


def test_l1_and_l2_norm_as_losses():
    predictions, targets = jnp.array([0.5, 3.0]), jnp.array([1.0, 1.0])
    assert float(l1(predictions, targets).mean()) == 1.25
    assert float(mse(predictions, targets).mean()) == 2.125
    assert to_digits(jnp.sqrt(mse(predictions, targets).mean()), 4) == 1.4577


def test_epoch_indices_batch_and_shuffle_the_alphabet():
    letters = "abcdefghijklmnopqrstuvwxyz"
    indices, mask = map(np.asarray, epoch_indices(jax.random.key(0), 0, len(letters), 6))
    assert mask.sum(axis=1).tolist() == [6, 6, 6, 6, 2]
    drawn = "".join(letters[i] for i in indices[mask])
    assert sorted(drawn) == list(letters)
    assert drawn != letters


def test_training_set_shapes(sample):
    batch = make_batch(sample.train.images, sample.train.labels)
    assert (batch.x.shape, batch.y.shape) == ((12396, 784), (12396,))


def test_linear1_and_batch_accuracy_match_the_chapters_formulas(sample):
    params = init_params(jax.random.key(0), (784, 1))
    assert [array.shape for array in params[0]] == [(784, 1), (1,)]
    batch = next(batches(sample.train, 256))
    logits = linear_layer(params[0], batch.x)
    np.testing.assert_allclose(logits, predict(params, batch.x))
    after_sigmoid = ((jax.nn.sigmoid(logits[:, 0]) > 0.5) == (batch.y == 1)).mean()
    assert accuracy(logits, batch.y) == after_sigmoid


def test_two_layer_net_has_four_parameters_and_relu_has_none():
    params = jax.eval_shape(lambda key: init_params(key, (784, 1, 10)), jax.random.key(0))
    assert [array.shape for layer in params for array in layer] == [(784, 1), (1,), (1, 10), (10,)]
    assert jax.nn.relu(jnp.array([-1, 4])).tolist() == [0, 4]


def test_number_of_parameters():
    def count(sizes):
        shapes = jax.eval_shape(lambda key: init_params(key, sizes), jax.random.key(0))
        return sum(array.size for array in jax.tree.leaves(shapes))

    assert (count((784, 1)), count((784, 30, 1))) == (785, 23_581)


def accuracies(model, splits, epochs, learning_rate, seeds=20):
    learner = Learner(model, mnist_loss, optax.sgd(learning_rate), shuffle=False)
    keys = jax.vmap(jax.random.key)(jnp.arange(seeds))
    # Without shuffling all members see the same order; with this option more of them train at a time.
    _, history = fit_many(keys, learner, splits, epochs=epochs, same_order=True)
    last = history.accuracy[:, -1]
    print("\n" + summary(last))
    return last


def summary(last):
    return f"{np.mean(last):.4f} +- {np.std(last, ddof=1):.4f} over {len(last)} seeds, lowest {min(last):.4f}"


def train_from_scratch(key, training_batches):
    params = init_params(key, (784, 1))
    for _ in range(20):
        for batch in training_batches:
            params = update(params, batch, 1.0)
    return params


@pytest.mark.slow
def test_linear_from_scratch_from_std_1_over_20_seeds(sample):
    training_batches = list(batches(sample.train, 256))
    valid = make_batch(sample.valid.images, sample.valid.labels)
    trained = [train_from_scratch(jax.random.key(seed), training_batches) for seed in range(20)]
    last = np.array([accuracy(predict(params, valid.x), valid.y) for params in trained])
    print("\n" + summary(last))
    assert last.mean() >= 0.968


@pytest.mark.slow
def test_few_of_400_seeds_get_stuck_from_std_1(sample):
    """The threes come first and saturate the sigmoid; after that, the gradient on the sevens is 0."""
    last = accuracies(linear(std=1.0), sample, 20, 1.0, seeds=400)
    stuck = last < 0.9
    print(f"{stuck.sum()} of {len(last)} stuck; the others: {summary(last[~stuck])}")
    assert 0 < stuck.mean() < 0.05
    assert last[~stuck].mean() >= 0.968


@pytest.mark.slow
def test_linear_from_pytorch_initialization_over_20_seeds(sample):
    assert accuracies(linear(), sample, 20, 1.0).mean() >= 0.977


@pytest.mark.slow
def test_simple_net_from_pytorch_initialization_over_20_seeds(sample):
    assert accuracies(mlp((784, 30, 1)), sample, 40, 0.1).mean() >= 0.981


@pytest.mark.slow
def test_simple_net_from_std_1_gets_stuck(sample):
    """The hidden units start with large values: some seeds get stuck, which the standard deviation shows."""
    last = accuracies(mlp((784, 30, 1), std=1.0), sample, 40, 0.1)
    assert last.mean() < 0.96
    assert last.std() > 0.02
