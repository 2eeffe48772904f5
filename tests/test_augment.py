import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.ndimage

from jax_mnist import (
    Learner,
    fit,
    fit_epochs,
    init_state,
    mlp,
    mnist_loss,
    random_affine,
    random_shift,
    train_epoch,
)


@pytest.fixture
def x(sample):
    return jnp.asarray(sample.train.images[:200].reshape(200, -1) / np.float32(255))


def test_shifts_match_scipy_and_all_occur(x):
    shifted = np.asarray(random_shift(jax.random.key(0), x, max_shift=1)).reshape(-1, 28, 28)
    moves = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    seen = set()
    for before, after in zip(np.asarray(x).reshape(-1, 28, 28), shifted, strict=True):
        same = [move for move in moves if (scipy.ndimage.shift(before, move, order=0) == after).all()]
        assert len(same) == 1
        seen.add(same[0])
    assert seen == set(moves)


def test_rotation_matches_scipy_at_an_angle_within_the_bounds(x):
    images = np.asarray(x).reshape(-1, 28, 28)[:5]
    rotated = np.asarray(random_affine(jax.random.key(3), x[:5], 0, 10.0)).reshape(-1, 28, 28)
    angles = []
    for before, after in zip(images, rotated, strict=True):
        errors = {
            angle: np.abs(scipy.ndimage.rotate(before, angle, reshape=False, order=1) - after).max()
            for angle in np.linspace(-10, 10, 401)
        }
        angles.append(min(errors, key=errors.get))
        assert errors[angles[-1]] < 0.02
    assert np.std(angles) > 1


def test_affine_is_a_rotation_then_a_shift(x):
    """The shift also reads what the rotation alone moves out of the image, so the outermost pixels may differ."""
    rotated = np.asarray(random_affine(jax.random.key(3), x, 0, 10)).reshape(-1, 28, 28)
    moved = np.asarray(random_affine(jax.random.key(3), x, 1, 10)).reshape(-1, 28, 28)
    moves = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    seen = set()
    for before, after in zip(rotated, moved, strict=True):
        errors = [np.abs(np.roll(before, move, (0, 1)) - after)[2:-2, 2:-2].max() for move in moves]
        assert min(errors) < 1e-5
        seen.add(moves[int(np.argmin(errors))])
    assert seen == set(moves)


@pytest.mark.parametrize("augment", [random_shift, random_affine])
def test_result_is_a_function_of_the_key_and_zero_is_the_identity(x, augment):
    one, again, other = (augment(jax.random.key(seed), x) for seed in (0, 0, 1))
    assert (one == again).all()
    assert (one != other).any()
    zeros = (0, 0) if augment is random_affine else (0,)
    np.testing.assert_allclose(augment(jax.random.key(0), x, *zeros), x, atol=1e-5)


def test_other_image_shapes(x):
    wide = x[:, : 14 * 28]
    assert random_shift(jax.random.key(0), wide, 1, (14, 28)).shape == (200, 392)
    whole = x[:, : 27 * 28].reshape(200, 27, 28)
    turned = random_affine(jax.random.key(0), whole.reshape(200, -1), 0, 0, (27, 28))
    np.testing.assert_allclose(turned.reshape(200, 27, 28), whole, atol=1e-5)


LEARNER = Learner(mlp((784, 16, 1)), mnist_loss, optax.sgd(0.1), batch_size=8)


def test_each_step_has_its_own_key_and_a_resumed_run_the_same_keys(tiny):
    seen = []

    def augment(key, x):
        jax.debug.callback(lambda data: seen.append(tuple(data.tolist())), jax.random.key_data(key))
        return random_shift(key, x)

    learner = LEARNER._replace(augment=augment)
    state, _ = fit(jax.random.key(0), learner, tiny, epochs=3)
    jax.effects_barrier()
    assert len(set(seen)) == len(seen) == 12  # four batches in each epoch
    half, _ = fit(jax.random.key(0), learner, tiny, epochs=1)
    *_, (resumed, _) = fit_epochs(jax.random.key(9), learner, tiny, epochs=3, state=half)
    np.testing.assert_array_equal(resumed.params[0].weights, state.params[0].weights)


def test_validation_images_are_not_augmented(tiny):
    still = LEARNER._replace(optimizer=optax.sgd(0.0))
    plain, erased = (
        fit(jax.random.key(0), still._replace(augment=augment), tiny, epochs=1)[1]
        for augment in (None, lambda key, x: 0 * x)
    )
    assert plain.train_loss[0] != erased.train_loss[0]
    assert plain.valid_loss[0] == erased.valid_loss[0]


def test_augmentation_is_part_of_the_compiled_epoch(tiny):
    learner = LEARNER._replace(augment=random_shift)
    lowered = train_epoch.lower(learner, init_state(jax.random.key(0), learner), tiny.train)
    assert "dynamic_slice" in lowered.as_text() or "gather" in lowered.as_text()
