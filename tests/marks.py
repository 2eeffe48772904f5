"""Parameters of tests that only the whole suite runs."""

import pytest


def slow(*values):
    """Return a parameter set for `pytest.mark.parametrize` that is marked slow."""
    return pytest.param(*values, marks=pytest.mark.slow)
