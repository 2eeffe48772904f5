import jax
import jax.numpy as jnp
import numpy as np

from jax_mnist.chapter.parabola import Quadratic, descend, measured_speeds, quadratic, quadratic_loss


def test_measured_speeds_are_the_parabola_plus_noise_of_std_3():
    time = jnp.full(20_000, 2.0)
    speed = measured_speeds(jax.random.key(0), time)
    assert abs(float(speed.mean()) - (0.75 * 7.5**2 + 1)) < 0.1
    assert abs(float(speed.std()) - 3) < 0.1


def test_quadratic_matches_numpy_polyval():
    time = np.linspace(-2, 2, 9, dtype=np.float32)
    np.testing.assert_allclose(quadratic(Quadratic(2.0, -1.0, 0.5), time), np.polyval([2, -1, 0.5], time), rtol=1e-6)


def test_descend_returns_the_start_and_every_step():
    path, losses = descend(lambda x: x**2, jnp.array(1.0), 0.25, 3)
    np.testing.assert_allclose(path, [1, 0.5, 0.25, 0.125])
    np.testing.assert_allclose(losses, np.square(path))


def test_descend_converges_to_the_least_squares_fit(x64):
    time = jnp.linspace(-1, 1, 20)
    speed = measured_speeds(jax.random.key(0), time)
    path, _ = descend(lambda p: quadratic_loss(p, time, speed), Quadratic(*jnp.zeros(3)), 0.3, 2000)
    np.testing.assert_allclose([array[-1] for array in path], np.polyfit(time, speed, 2), rtol=1e-6)
