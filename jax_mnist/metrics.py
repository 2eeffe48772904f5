"""Metrics of logits: per example first, so that whoever sums decides over which examples."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Integer

from .types import ArrayLike

__all__ = [  # noqa: RUF022, from the logits to the summaries
    "predicted_labels",
    "class_probabilities",
    "correct",
    "accuracy",
    "confusion_matrix",
    "per_class",
    "PerClass",
    "calibration",
    "Calibration",
]


class PerClass(NamedTuple):
    """For each class, arrays [c]: how many examples have its label, and the precision and recall in [0, 1]."""

    counts: Any
    precision: Any
    recall: Any


class Calibration(NamedTuple):
    """For each bin of confidence, arrays [bins]: its examples, their mean confidence and the share that is right.

    `error`, a number, is the expected calibration error.
    """

    counts: Any
    confidence: Any
    accuracy: Any
    error: Any


def predicted_labels(logits: Float[ArrayLike, "*b c"]) -> Int[Array, "*b"]:
    """The label that a model's logits stand for.

    `logits` float [..., c], before sigmoid or softmax. One column: 1 where the logit is above 0 (which is a
    sigmoid above 0.5), else 0. More columns: the place of the largest. Returns int32 [...].

    >>> predicted_labels(jnp.array([[-2.0], [3.0]])), predicted_labels(jnp.array([[0.1, 0.7, 0.2]]))
    (Array([0, 1], dtype=int32), Array([1], dtype=int32))
    """
    logits = jnp.asarray(logits)
    if logits.shape[-1] == 1:
        return (logits[..., 0] > 0).astype(jnp.int32)
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)


def class_probabilities(logits: Float[ArrayLike, "*b c"]) -> Float[Array, "*b k"]:
    """The probability of each class: the logits' softmax, or one column's sigmoid and what it leaves of 1.

    `logits` float [..., c], before sigmoid or softmax; returns [..., max(c, 2)] in [0, 1], which sum to 1.

    >>> class_probabilities(jnp.array([[0.0]]))
    Array([[0.5, 0.5]], dtype=float32)
    """
    logits = jnp.asarray(logits)
    if logits.shape[-1] > 1:
        return jax.nn.softmax(logits)
    return jax.nn.sigmoid(jnp.concatenate([-logits, logits], axis=-1))


def correct(logits: Float[ArrayLike, "..."], labels: Integer[ArrayLike, "..."]) -> Bool[Array, "..."]:
    """Whether each example's logits point to its label.

    `logits` float [..., c], `labels` int [...]; returns bool [...].

    >>> correct(jnp.array([[-2.0], [3.0]]), jnp.array([0, 0]))
    Array([ True, False], dtype=bool)
    """
    if logits.shape[:-1] != labels.shape:
        raise ValueError(f"logits of shape {logits.shape} need labels of shape {logits.shape[:-1]}, not {labels.shape}")
    return predicted_labels(logits) == labels


def accuracy(logits: Float[ArrayLike, "..."], labels: Integer[ArrayLike, "..."]) -> Float[Array, ""]:
    """The share of examples whose logits point to their label: the chapter's `batch_accuracy`.

    `logits` float [..., c] before the sigmoid or softmax, `labels` int [...]; returns a float in [0, 1].
    Raises ValueError where the shapes do not fit.

    >>> accuracy(jnp.array([[-2.0], [3.0], [1.0], [-1.0]]), jnp.array([0, 1, 0, 0]))
    Array(0.75, dtype=float32)
    """
    return jnp.mean(correct(logits, labels))


def confusion_matrix(logits: Float[ArrayLike, "..."], labels: Integer[ArrayLike, "..."]) -> Int[Array, "k k"]:
    """How often each label (row) was taken for each class (column).

    `logits` float [..., c] before sigmoid or softmax, `labels` int [...] in 0..k-1; returns int32 [k, k] with k =
    max(c, 2), which sums to the number of labels. The diagonal is what was right. Raises ValueError where the
    shapes do not fit.

    >>> confusion_matrix(jnp.array([[-2.0], [3.0], [1.0], [-1.0]]), jnp.array([0, 1, 0, 0]))
    Array([[2, 1],
           [0, 1]], dtype=int32)
    """
    correct(logits, labels)  # it checks the shapes
    classes = max(logits.shape[-1], 2)
    return jnp.zeros((classes, classes), jnp.int32).at[labels, predicted_labels(logits)].add(1)


def per_class(confusion: Integer[ArrayLike, "k k"]) -> PerClass:
    """Precision and recall of each class, from a confusion matrix.

    `confusion` int [k, k], a row a label and a column a prediction. Precision is the share of a column that is
    right, recall that of a row; where a column or a row is empty it is NaN.

    >>> per_class(jnp.array([[2, 1], [0, 1]])).precision
    Array([1. , 0.5], dtype=float32)
    """
    right = jnp.diagonal(jnp.asarray(confusion))
    counts = jnp.sum(confusion, axis=1)
    return PerClass(counts, right / jnp.sum(confusion, axis=0), right / counts)


def calibration(logits: Float[ArrayLike, "..."], labels: Integer[ArrayLike, "..."], bins: int = 15) -> Calibration:
    """Whether a model is right as often as it says: its confidence against its accuracy, in bins of equal width.

    The confidence is the probability of the predicted class; bin i of `bins` holds those in (i/bins, (i+1)/bins].
    `logits` float [..., c] before sigmoid or softmax, `labels` int [...]. Returns Calibration; an empty bin's means
    are NaN. The error is the mean over the examples of `|accuracy - confidence|` of their bin, in [0, 1]: the
    expected calibration error of Guo et al., "On Calibration of Modern Neural Networks" (2017). Raises ValueError
    where the shapes do not fit or `bins` is below 1.

    >>> result = calibration(jnp.array([[4.0], [4.0], [4.0], [-4.0]]), jnp.array([1, 1, 0, 0]), bins=5)
    >>> result.counts, result.accuracy[-1], round(float(result.error), 3)
    (Array([0, 0, 0, 0, 4], dtype=int32), Array(0.75, dtype=float32), 0.232)
    """
    if bins < 1:
        raise ValueError(f"bins must be 1 or more, not {bins}")
    right = correct(logits, labels)
    confidence = jnp.max(class_probabilities(logits), axis=-1)
    places = jnp.clip(jnp.ceil(confidence * bins).astype(jnp.int32) - 1, 0, bins - 1)
    sums = (jnp.ones_like(confidence), confidence, right.astype(confidence.dtype))
    counts, confidences, rights = (jnp.zeros(bins, confidence.dtype).at[places].add(x) for x in sums)
    error = jnp.sum(jnp.abs(rights - confidences)) / labels.size
    return Calibration(counts.astype(jnp.int32), confidences / counts, rights / counts, error)
