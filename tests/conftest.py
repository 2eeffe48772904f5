"""JAX as strict as it can be, for doctests too, and what many tests need."""

import importlib.util

import jax
import matplotlib
import numpy as np
import pytest

import jax_mnist
from jax_mnist import Dataset, Splits


def pytest_configure(config):
    jax.config.update("jax_numpy_rank_promotion", "raise")
    jax.config.update("jax_debug_key_reuse", True)
    matplotlib.use("Agg")
    matplotlib.rcParams["figure.max_open_warning"] = 0


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
