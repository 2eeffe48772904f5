"""Losses, one number per example: whoever calls takes the mean, and decides over which examples."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Integer, Num, Shaped

from .types import ArrayLike

__all__ = ["mnist_loss", "l1", "mse", "binary_cross_entropy", "softmax_cross_entropy"]  # noqa: RUF022, in the chapter's order


def _one_column(logits: ArrayLike, labels: ArrayLike) -> tuple[Array, Array]:
    """Drop the last axis of logits [..., 1] and give the labels their dtype; broadcasting the two would be silent."""
    logits, labels = jnp.asarray(logits), jnp.asarray(labels)
    if logits.shape == (*labels.shape, 1):
        logits = logits[..., 0]
    if logits.shape != labels.shape:
        raise ValueError(
            f"logits of shape {logits.shape} do not fit labels of shape {labels.shape}: "
            "give logits [..., 1] (or [...]) and labels [...]"
        )
    return logits, labels.astype(logits.dtype)


def mnist_loss(logits: Float[ArrayLike, "..."], labels: Shaped[ArrayLike, "..."]) -> Float[Array, "..."]:
    """The chapter's loss: how far the sigmoid of the logit is from its label.

    `logits` float [..., 1] (or [...]) before the sigmoid, `labels` [...] of 0 and 1; returns [...] in [0, 1].
    Raises ValueError where the shapes do not fit. From the chapter's section "The MNIST Loss Function".

    >>> mnist_loss(jnp.array([[0.0], [100.0]]), jnp.array([1, 0]))
    Array([0.5, 1. ], dtype=float32)
    """
    logits, labels = _one_column(logits, labels)
    predictions = jax.nn.sigmoid(logits)
    return jnp.where(labels == 1, 1 - predictions, predictions)


def l1(predictions: Float[ArrayLike, "..."], targets: Num[ArrayLike, "..."]) -> Float[Array, "..."]:
    """The absolute difference between a prediction and its target.

    `predictions` float [...] (or [..., 1]), `targets` [...] of any number type; returns [...]. With predictions
    that are already in [0, 1] it is the chapter's first `mnist_loss`, the one before the sigmoid. Raises
    ValueError where the shapes do not fit.

    >>> l1(jnp.array([0.9, 0.4, 0.2]), jnp.array([1, 0, 1])).mean().round(4)
    Array(0.4333, dtype=float32)
    """
    predictions, targets = _one_column(predictions, targets)
    return jnp.abs(predictions - targets)


def mse(predictions: Float[ArrayLike, "..."], targets: Num[ArrayLike, "..."]) -> Float[Array, "..."]:
    """The squared difference between a prediction and its target; the mean of it is the mean squared error.

    `predictions` float [...] (or [..., 1]), `targets` [...] of any number type; returns [...]. The root of its
    mean is the chapter's L2 norm. Raises ValueError where the shapes do not fit.

    >>> mse(jnp.array([1.0, 2.0]), jnp.array([3, 2]))
    Array([4., 0.], dtype=float32)
    """
    predictions, targets = _one_column(predictions, targets)
    return jnp.square(predictions - targets)


def binary_cross_entropy(logits: Float[ArrayLike, "..."], labels: Num[ArrayLike, "..."]) -> Float[Array, "..."]:
    """The negative log likelihood of a label under the sigmoid of its logit, in nats.

    `logits` float [..., 1] (or [...]) before the sigmoid, `labels` [...] of 0 and 1; returns [...], finite for
    every finite logit. Raises ValueError where the shapes do not fit.

    >>> binary_cross_entropy(jnp.array([[0.0]]), jnp.array([1]))
    Array([0.6931472], dtype=float32)
    """
    return optax.sigmoid_binary_cross_entropy(*_one_column(logits, labels))


def softmax_cross_entropy(
    logits: Float[ArrayLike, "..."], labels: Integer[ArrayLike, "..."], *, label_smoothing: float = 0.0
) -> Float[Array, "..."]:
    """The negative log likelihood of a class under the softmax of the logits, in nats.

    `logits` float [..., c] before the softmax, `labels` int [...] in 0..c-1; returns [...]. The loss for more
    than two classes, as `torch.nn.functional.cross_entropy(..., reduction="none")`. With `label_smoothing`, in
    [0, 1], that share of the label is spread evenly over all classes (Szegedy et al. 2016, arXiv 1512.00567). Raises
    ValueError where the shapes do not fit, and for one column of logits.

    >>> softmax_cross_entropy(jnp.zeros((1, 10)), jnp.array([3]))
    Array([2.3025851], dtype=float32)
    """
    if logits.shape[:-1] != labels.shape:
        raise ValueError(f"logits of shape {logits.shape} need labels of shape {logits.shape[:-1]}, not {labels.shape}")
    if logits.shape[-1] < 2:
        raise ValueError(
            "softmax_cross_entropy needs a column of logits for each class; for the one column of two classes take "
            "mnist_loss or binary_cross_entropy"
        )
    logits, labels = jnp.asarray(logits), jnp.asarray(labels)
    if not label_smoothing:
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    one_hot = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    return optax.softmax_cross_entropy(logits, optax.smooth_labels(one_hot, label_smoothing))
