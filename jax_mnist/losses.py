"""Per-example losses. The caller reduces them, and so decides which examples count."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Integer, Num, Shaped

from .labels import check_labels, is_class
from .types import ArrayLike

__all__ = ["mnist_loss", "l1", "mse", "binary_cross_entropy", "softmax_cross_entropy"]  # noqa: RUF022, in the chapter's order


def _one_column(logits: ArrayLike, labels: ArrayLike) -> tuple[Array, Array]:
    """Drop the last axis of logits [..., 1] and cast the labels to their dtype. Raise ValueError on other shapes."""
    # Without the check, logits [b, 1] and labels [b] would silently broadcast to [b, b].
    logits, labels = jnp.asarray(logits), jnp.asarray(labels)
    if logits.shape == (*labels.shape, 1):
        logits = logits[..., 0]
    if logits.shape != labels.shape:
        hint = "; softmax_cross_entropy takes a column for each class" if logits.shape[:-1] == labels.shape else ""
        raise ValueError(
            f"logits must be [..., 1] or [...] for labels [...], got logits {logits.shape} and labels {labels.shape}"
            + hint
        )
    return logits, labels.astype(logits.dtype)


def _only_valid(losses: Array, labels: ArrayLike, valid: ArrayLike, expected: str) -> Array:
    """Return the losses, with NaN for labels that are not valid, or raise ValueError if the labels are not traced."""
    check_labels(labels, valid, expected)
    # A factor makes the gradient NaN too; that of `jnp.where(valid, losses, nan)` would be 0.
    return losses * jnp.where(jnp.asarray(valid), 1, jnp.nan).astype(losses.dtype)


def mnist_loss(logits: Float[ArrayLike, "..."], labels: Shaped[ArrayLike, "..."]) -> Float[Array, "..."]:
    """Return the distance between the sigmoid of each logit and its label: the chapter's `mnist_loss`.

    `logits` is float [..., 1] or [...], before the sigmoid, and `labels` [...] with values 0 and 1. Returns [...] in
    [0, 1], or NaN for other labels inside `jax.jit`. Raises ValueError if the shapes do not match, or for other labels
    elsewhere. From the chapter's section "The MNIST Loss Function".

    >>> mnist_loss(jnp.array([[0.0], [100.0]]), jnp.array([1, 0]))
    Array([0.5, 1. ], dtype=float32)
    """
    logits, labels = _one_column(logits, labels)
    predictions = jax.nn.sigmoid(logits)
    losses = jnp.where(labels == 1, 1 - predictions, predictions)
    return _only_valid(losses, labels, (labels == 0) | (labels == 1), "0 or 1")


def l1(predictions: Float[ArrayLike, "..."], targets: Num[ArrayLike, "..."]) -> Float[Array, "..."]:
    """Return the absolute difference between each prediction and its target.

    `predictions` is float [...] or [..., 1], `targets` [...] of any numeric dtype. Returns [...]. With predictions in
    [0, 1] and targets 0 and 1, this is the chapter's first `mnist_loss`, the version without a sigmoid. Raises
    ValueError if the shapes do not match.

    >>> l1(jnp.array([0.9, 0.4, 0.2]), jnp.array([1, 0, 1])).mean().round(4)
    Array(0.4333, dtype=float32)
    """
    predictions, targets = _one_column(predictions, targets)
    return jnp.abs(predictions - targets)


def mse(predictions: Float[ArrayLike, "..."], targets: Num[ArrayLike, "..."]) -> Float[Array, "..."]:
    """Return the squared difference between each prediction and its target.

    `predictions` is float [...] or [..., 1], `targets` [...] of any numeric dtype. Returns [...]. Its mean is the mean
    squared error, and the square root of that is the chapter's L2 norm. Raises ValueError if the shapes do not match.

    >>> mse(jnp.array([1.0, 2.0]), jnp.array([3, 2]))
    Array([4., 0.], dtype=float32)
    """
    predictions, targets = _one_column(predictions, targets)
    return jnp.square(predictions - targets)


def binary_cross_entropy(logits: Float[ArrayLike, "..."], labels: Num[ArrayLike, "..."]) -> Float[Array, "..."]:
    """Return the negative log-likelihood of each label under the sigmoid of its logit, in nats.

    `logits` is float [..., 1] or [...], before the sigmoid, and `labels` [...] with values 0 and 1, or probabilities
    of 1. Returns [...], finite for every finite logit, or NaN for other labels inside `jax.jit`. Raises ValueError if
    the shapes do not match, or for other labels elsewhere.

    >>> binary_cross_entropy(jnp.array([[0.0]]), jnp.array([1]))
    Array([0.6931472], dtype=float32)
    """
    logits, labels = _one_column(logits, labels)
    losses = optax.sigmoid_binary_cross_entropy(logits, labels)
    return _only_valid(losses, labels, (labels >= 0) & (labels <= 1), "in [0, 1]")


def softmax_cross_entropy(
    logits: Float[ArrayLike, "..."], labels: Integer[ArrayLike, "..."], *, label_smoothing: float = 0.0
) -> Float[Array, "..."]:
    """Return the negative log-likelihood of each label under the softmax of its logits, in nats.

    `logits` is float [..., c], before the softmax, and `labels` int [...] in 0..c-1. Returns [...], as
    `torch.nn.functional.cross_entropy(..., reduction="none")` does. `label_smoothing`, in [0, 1], is the fraction of
    the target spread evenly over all classes (Szegedy et al. 2016, arXiv 1512.00567). Raises ValueError if the shapes
    do not match or c is 1, or for labels out of range; inside `jax.jit` their loss is NaN.

    >>> softmax_cross_entropy(jnp.zeros((1, 10)), jnp.array([3]))
    Array([2.3025851], dtype=float32)
    """
    if logits.shape[:-1] != labels.shape:
        raise ValueError(f"labels must be {logits.shape[:-1]} for logits {logits.shape}, got {labels.shape}")
    if logits.shape[-1] < 2:
        raise ValueError(
            f"softmax_cross_entropy needs a column of logits for each class, got {logits.shape}; for two classes in "
            "one column, use mnist_loss or binary_cross_entropy"
        )
    classes, valid = logits.shape[-1], is_class(labels, logits.shape[-1])
    logits, indices = jnp.asarray(logits), jnp.asarray(labels, jnp.int32)
    if label_smoothing:
        one_hot = jax.nn.one_hot(indices, classes, dtype=logits.dtype)
        losses = optax.softmax_cross_entropy(logits, optax.smooth_labels(one_hot, label_smoothing))
    else:
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, indices)
    return _only_valid(losses, labels, valid, f"in 0..{classes - 1}")
