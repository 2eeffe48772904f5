"""JAX as strict as it can be, for doctests too, and what many tests need."""

import importlib.util
import os

import jax
import matplotlib
import numpy as np
import pytest
from compilations import FAST_COMPILATION

import jax_mnist
from jax_mnist import Dataset, Splits

QUICK_CPU_MINUTES = 4  # of all processes on a quiet machine; the quick tests fail at twice as many

CPU_SECONDS = pytest.StashKey[float]()


def is_quick(config):
    return config.option.markexpr == "not slow"


def pytest_configure(config):
    jax.config.update("jax_numpy_rank_promotion", "raise")
    jax.config.update("jax_debug_key_reuse", True)
    matplotlib.use("Agg")
    matplotlib.rcParams["figure.max_open_warning"] = 0
    if is_quick(config):
        # Compiling is two thirds of the time. The slow tests compile as users do. Workers and the processes that
        # tests start inherit the flags.
        os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *FAST_COMPILATION])


def pytest_sessionfinish(session):
    """Let each worker report its CPU time, and the quick tests fail if all took more than twice the budget."""
    config, (own, system, *children) = session.config, os.times()[:4]
    if hasattr(config, "workeroutput"):
        config.workeroutput["cpu_seconds"] = own + system + sum(children)
    elif is_quick(config) and not config.getoption("cov_source", None):  # coverage takes time too
        in_workers = config.stash.get(CPU_SECONDS, None)
        minutes = (own + system + (sum(children) if in_workers is None else in_workers)) / 60
        limit = 2 * QUICK_CPU_MINUTES
        print(f"\n{minutes:.1f} CPU-minutes, at most {limit} are allowed")
        if minutes > limit:
            print("The quick tests take too long: make the slowest below smaller, or mark them slow.")
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    stash = node.config.stash
    stash[CPU_SECONDS] = stash.get(CPU_SECONDS, 0.0) + getattr(node, "workeroutput", {}).get("cpu_seconds", 0.0)


def pytest_collection_modifyitems(items):
    """PyTorch and grain are not for every platform: where one is missing, the doctests that show it are skipped."""
    missing = [name for name in ("torch", "grain") if importlib.util.find_spec(name) is None]
    for item in items:
        code = "".join(example.source for example in item.dtest.examples) if hasattr(item, "dtest") else ""
        for name in missing:
            if f"import {name}" in code or f"from {name}" in code:
                item.add_marker(pytest.mark.skip(reason=f"{name} is not installed"))


@pytest.fixture
def strict():
    """Strict dtype promotion: for our own functions, since parts of optax do not run under it."""
    with jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def sample() -> Splits:
    return jax_mnist.load("mnist_sample")


@pytest.fixture(scope="session")
def mnist() -> Splits:
    return jax_mnist.load("mnist")


@pytest.fixture
def tiny() -> Splits:
    """Forty noisy images of two classes, brighter below (0) or above (1): learnt in a few steps."""
    labels = np.arange(40, dtype=np.int32) % 2
    images = np.random.default_rng(0).integers(0, 128, (40, 28, 28), np.uint8)
    images[labels == 0, 14:] += 127
    images[labels == 1, :14] += 127
    return Splits(Dataset(images[:30], labels[:30]), Dataset(images[30:], labels[30:]))
