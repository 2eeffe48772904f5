"""Metrics of scores: per example first, so that whoever sums decides over which examples."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Integer

from .types import ArrayLike


def predicted_labels(scores: Float[ArrayLike, "*b c"]) -> Int[Array, "*b"]:
    """The label that a model's scores stand for.

    `scores` float [..., c], before sigmoid or softmax. One column: 1 where the score is above 0 (which is a
    sigmoid above 0.5), else 0. More columns: the place of the largest. Returns int32 [...].

    >>> predicted_labels(jnp.array([[-2.0], [3.0]])), predicted_labels(jnp.array([[0.1, 0.7, 0.2]]))
    (Array([0, 1], dtype=int32), Array([1], dtype=int32))
    """
    scores = jnp.asarray(scores)
    if scores.shape[-1] == 1:
        return (scores[..., 0] > 0).astype(jnp.int32)
    return jnp.argmax(scores, axis=-1).astype(jnp.int32)


def class_probabilities(scores: Float[ArrayLike, "*b c"]) -> Float[Array, "*b k"]:
    """The probability of each class: the scores' softmax, or one column's sigmoid and what it leaves of 1.

    `scores` float [..., c], before sigmoid or softmax; returns [..., max(c, 2)] in [0, 1], which sum to 1.

    >>> class_probabilities(jnp.array([[0.0]]))
    Array([[0.5, 0.5]], dtype=float32)
    """
    scores = jnp.asarray(scores)
    if scores.shape[-1] > 1:
        return jax.nn.softmax(scores)
    return jax.nn.sigmoid(jnp.concatenate([-scores, scores], axis=-1))


def correct(scores: Float[ArrayLike, "..."], labels: Integer[ArrayLike, "..."]) -> Bool[Array, "..."]:
    """Whether each example's scores point to its label.

    `scores` float [..., c], `labels` int [...]; returns bool [...].

    >>> correct(jnp.array([[-2.0], [3.0]]), jnp.array([0, 0]))
    Array([ True, False], dtype=bool)
    """
    if scores.shape[:-1] != labels.shape:
        raise ValueError(f"scores of shape {scores.shape} need labels of shape {scores.shape[:-1]}, not {labels.shape}")
    return predicted_labels(scores) == labels


def accuracy(scores: Float[ArrayLike, "..."], labels: Integer[ArrayLike, "..."]) -> Float[Array, ""]:
    """The share of examples whose scores point to their label: the chapter's `batch_accuracy`.

    `scores` float [..., c] before the sigmoid or softmax, `labels` int [...]; returns a float in [0, 1].
    Raises ValueError where the shapes do not fit.

    >>> accuracy(jnp.array([[-2.0], [3.0], [1.0], [-1.0]]), jnp.array([0, 1, 0, 0]))
    Array(0.75, dtype=float32)
    """
    return jnp.mean(correct(scores, labels))
