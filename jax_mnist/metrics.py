"""Classification metrics, computed from logits and labels."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Integer

from .labels import check_labels, is_class
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
    """Precision and recall of each class: the result of `per_class`."""

    counts: Any
    """int [c]: the number of examples with this label (scikit-learn's support)."""
    precision: Any
    """float [c] in [0, 1]: the fraction of the predictions of this class that are correct; NaN without predictions."""
    recall: Any
    """float [c] in [0, 1]: the fraction of the examples of this class predicted correctly; NaN without examples."""


class Calibration(NamedTuple):
    """A reliability diagram in numbers, one value per confidence bin: the result of `calibration`."""

    counts: Any
    """int32 [bins]: the number of examples in the bin."""
    confidence: Any
    """float [bins] in [0, 1]: their mean confidence; NaN in an empty bin."""
    accuracy: Any
    """float [bins] in [0, 1]: the fraction predicted correctly; NaN in an empty bin."""
    error: Any
    """float []: the expected calibration error over all bins, in [0, 1]."""


def predicted_labels(logits: Float[ArrayLike, "*b c"]) -> Int[Array, "*b"]:
    """Return the label predicted by the logits.

    `logits` is float [..., c], before the sigmoid or softmax. With one column, the label is 1 if the logit is above 0
    (a sigmoid above 0.5), else 0. With more columns, it is the index of the largest logit, the first in a tie.
    Returns int32 [...].

    >>> predicted_labels(jnp.array([[-2.0], [3.0]])), predicted_labels(jnp.array([[0.1, 0.7, 0.2]]))
    (Array([0, 1], dtype=int32), Array([1], dtype=int32))
    """
    logits = jnp.asarray(logits)
    if logits.shape[-1] == 1:
        return (logits[..., 0] > 0).astype(jnp.int32)
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)


def class_probabilities(logits: Float[ArrayLike, "*b c"]) -> Float[Array, "*b k"]:
    """Return the probability of each class: the softmax of the logits or, for one column, [1 - sigmoid, sigmoid].

    `logits` is float [..., c], before the sigmoid or softmax. Returns [..., max(c, 2)] in [0, 1], summing to 1.

    >>> class_probabilities(jnp.array([[0.0]]))
    Array([[0.5, 0.5]], dtype=float32)
    """
    logits = jnp.asarray(logits)
    if logits.shape[-1] > 1:
        return jax.nn.softmax(logits)
    return jax.nn.sigmoid(jnp.concatenate([-logits, logits], axis=-1))


def correct(logits: Float[ArrayLike, "..."], labels: Integer[ArrayLike, "..."]) -> Bool[Array, "..."]:
    """Return True for each example whose predicted label is correct.

    `logits` is float [..., c], before the sigmoid or softmax, and `labels` int [...] in 0..max(c, 2)-1. Returns bool
    [...]. Raises ValueError if the shapes do not match, or for labels out of range; inside `jax.jit` these are False.

    >>> correct(jnp.array([[-2.0], [3.0]]), jnp.array([0, 0]))
    Array([ True, False], dtype=bool)
    """
    _check_labels(logits, labels)
    return predicted_labels(logits) == labels


def _check_labels(logits: Float[ArrayLike, "..."], labels: Integer[ArrayLike, "..."]) -> Bool[Array, "..."]:
    """Return True for each label in range; raise ValueError if the shapes do not match, or as `check_labels` does."""
    if logits.shape[:-1] != labels.shape:
        raise ValueError(f"labels must be {logits.shape[:-1]} for logits {logits.shape}, got {labels.shape}")
    classes = max(logits.shape[-1], 2)
    valid = is_class(labels, classes)
    check_labels(labels, valid, f"in 0..{classes - 1}")
    return jnp.asarray(valid)


def accuracy(logits: Float[ArrayLike, "..."], labels: Integer[ArrayLike, "..."]) -> Float[Array, ""]:
    """Return the fraction of examples whose predicted label is correct: the chapter's `batch_accuracy`.

    `logits` is float [..., c], before the sigmoid or softmax, and `labels` int [...] in 0..max(c, 2)-1. Returns a float
    in [0, 1]. Raises ValueError if the shapes do not match, or for labels out of range; inside `jax.jit` the accuracy
    is then NaN.

    >>> accuracy(jnp.array([[-2.0], [3.0], [1.0], [-1.0]]), jnp.array([0, 1, 0, 0]))
    Array(0.75, dtype=float32)
    """
    valid = _check_labels(logits, labels)
    return jnp.where(jnp.all(valid), jnp.mean(predicted_labels(logits) == labels), jnp.nan)


def confusion_matrix(logits: Float[ArrayLike, "..."], labels: Integer[ArrayLike, "..."]) -> Int[Array, "k k"]:
    """Count the examples of each label (row) that were predicted as each class (column).

    `logits` is float [..., c], before the sigmoid or softmax, and `labels` int [...] in 0..k-1 with k = max(c, 2).
    Returns int32 [k, k], which sums to the number of labels; the diagonal counts the correct predictions. Raises
    ValueError if the shapes do not match, or for labels out of range; inside `jax.jit` every count is then -1, since an
    integer cannot be NaN.

    >>> confusion_matrix(jnp.array([[-2.0], [3.0], [1.0], [-1.0]]), jnp.array([0, 1, 0, 0]))
    Array([[2, 1],
           [0, 1]], dtype=int32)
    """
    valid = _check_labels(logits, labels)
    classes = max(logits.shape[-1], 2)
    rows = jnp.asarray(labels, jnp.int32)  # bool labels would be a mask
    counts = jnp.zeros((classes, classes), jnp.int32).at[rows, predicted_labels(logits)].add(1)
    return jnp.where(jnp.all(valid), counts, -1)


def per_class(confusion: Integer[ArrayLike, "k k"]) -> PerClass:
    """Return the precision and recall of each class, from a confusion matrix.

    `confusion` is int [k, k] from `confusion_matrix`, with labels as rows and predictions as columns. Precision is the
    fraction of a column on the diagonal, recall the fraction of a row; both are NaN if that column or row is all zero,
    or if its counts are negative, which they are for labels out of range. Returns PerClass, with arrays [k].

    >>> per_class(jnp.array([[2, 1], [0, 1]])).precision
    Array([1. , 0.5], dtype=float32)
    """
    true_positives = jnp.diagonal(jnp.asarray(confusion)).clip(0)  # so that 0 / 0 is NaN
    predicted, counts = (jnp.sum(confusion, axis=axis) for axis in (0, 1))
    return PerClass(counts, true_positives / predicted.clip(0), true_positives / counts.clip(0))


def calibration(logits: Float[ArrayLike, "..."], labels: Integer[ArrayLike, "..."], bins: int = 15) -> Calibration:
    """Compare the confidence of predictions with their accuracy, in bins of equal width.

    `logits` is float [..., c], before the sigmoid or softmax, and `labels` int [...]. The confidence of a prediction is
    the probability of the predicted class; bin i of `bins` holds the confidences in (i/bins, (i+1)/bins]. Returns
    Calibration, with NaN means in empty bins. Its `error` is `|accuracy - confidence|` averaged over the bins, weighted
    by their counts: the expected calibration error of Guo et al., "On Calibration of Modern Neural Networks" (2017).
    Raises ValueError if the shapes do not match or `bins` is below 1, or for labels out of range; inside `jax.jit` the
    accuracy of their bins and the error are then NaN.

    >>> result = calibration(jnp.array([[4.0], [4.0], [4.0], [-4.0]]), jnp.array([1, 1, 0, 0]), bins=5)
    >>> result.counts, result.accuracy[-1], round(float(result.error), 3)
    (Array([0, 0, 0, 0, 4], dtype=int32), Array(0.75, dtype=float32), 0.232)
    """
    if bins < 1:
        raise ValueError(f"bins must be 1 or more, got {bins}")
    valid = _check_labels(logits, labels)
    confidence = jnp.max(class_probabilities(logits), axis=-1)
    # Bins are closed above, so that a confidence of exactly 1 falls into the last one.
    indices = jnp.clip(jnp.ceil(confidence * bins).astype(jnp.int32) - 1, 0, bins - 1)
    confidence = confidence.astype(jnp.promote_types(confidence.dtype, jnp.float32))  # bfloat16 cannot count past 256
    is_correct = jnp.where(valid, (predicted_labels(logits) == labels).astype(confidence.dtype), jnp.nan)
    summands = (jnp.ones_like(confidence), confidence, is_correct)
    counts, confidences, hits = (jnp.zeros(bins, confidence.dtype).at[indices].add(x) for x in summands)
    error = jnp.sum(jnp.abs(hits - confidences)) / labels.size
    return Calibration(counts.astype(jnp.int32), confidences / counts, hits / counts, error)
