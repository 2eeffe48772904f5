"""Checks of labels: that they are valid, and which are among the classes."""

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Bool, Shaped

from .types import ArrayLike


def check_labels(labels: Shaped[ArrayLike, "*b"], valid: Bool[ArrayLike, "*b"], expected: str) -> None:
    """Raise ValueError if one of the labels is not valid, unless they are traced, as in `jax.jit`, and have no values.

    >>> labels = np.array([0, 12])
    >>> check_labels(labels, labels < 10, "in 0..9")
    Traceback (most recent call last):
    ValueError: labels must be in 0..9, got 12
    """
    if not isinstance(valid, Tracer) and not valid.all():
        raise ValueError(f"labels must be {expected}, got {np.asarray(labels)[~np.asarray(valid)][0]}")


def is_class(labels: Shaped[ArrayLike, "*b"], classes: int) -> Bool[ArrayLike, "*b"]:
    """Return True for each label in 0..classes-1. Raise ValueError unless the labels are integers or bool.

    >>> is_class(np.array([0, 12]), 10)
    array([ True, False])
    """
    if not (jnp.issubdtype(labels.dtype, jnp.integer) or labels.dtype == bool):
        raise ValueError(f"labels must be integers, got {labels.dtype}")
    return (labels >= 0) & (labels < classes)
