"""Times that the library keeps on a quiet machine; a busy one fails them, so only `make soak` runs them."""

import subprocess
import sys
import time

import jax
import optax
import pytest

from jax_mnist import Learner, fit, load, lr_find, mlp, mnist_loss

pytestmark = [pytest.mark.slow, pytest.mark.soak]


def test_import_takes_a_tenth_of_a_second_of_cpu_time():
    used = "import jax_mnist; jax_mnist.load, jax_mnist.mlp, jax_mnist.fit, jax_mnist.load_run"
    code = f"import jax, optax, jaxtyping, time; t = time.process_time(); {used}; print(time.process_time() - t)"

    def seconds():
        return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)

    assert min(seconds() for _ in range(5)) <= 0.1


def test_mnist_loads_in_half_a_second_of_cpu_time():
    def seconds():
        start = time.process_time()
        load("mnist")
        return time.process_time() - start

    assert min(seconds() for _ in range(5)) < 0.5


def test_learning_rate_search_takes_less_than_six_times_as_long_as_a_run(sample):
    learner = Learner(mlp((784, 30, 1)), mnist_loss, optax.inject_hyperparams(optax.sgd)(learning_rate=0.1))
    start = time.perf_counter()
    found = lr_find(jax.random.key(0), learner, sample)
    between = time.perf_counter()
    fit(jax.random.key(1), learner._replace(optimizer=optax.sgd(found.suggestion)), sample, epochs=40)
    assert between - start < 6 * (time.perf_counter() - between)
