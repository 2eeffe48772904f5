"""Ensemble predictions and confidence intervals over the members of a sweep."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ..data.batches import map_batches
from ..metrics import class_probabilities
from ..pixels import check_pixels
from ..training.evaluation import EVALUATION_BATCH_SIZE
from ..types import ArrayLike, Batch, Dataset, Model, Params


def ensemble_labels(
    model: Model, stacked_params: Params, dataset: Dataset, *, batch_size: int = EVALUATION_BATCH_SIZE
) -> Int[Array, " n"]:
    """Return the labels that an ensemble predicts: the class with the highest mean of its members' probabilities.

    Unlike a majority vote, a mean of probabilities gives a confident member more weight, and an even number of members
    seldom ties. `stacked_params` is a pytree with a leading axis [k], such as the parameters of `fit_many`'s state.
    Returns int32 [n], so the accuracy is `(ensemble_labels(...) == dataset.labels).mean()`. Raises ValueError if
    `batch_size` is below 1, or if float pixels are in 0..255.

    >>> from jax_mnist import linear, load
    >>> params = jax.vmap(linear().init)(jax.random.split(jax.random.key(0), 3))
    >>> ensemble_labels(linear(), params, load("mnist_sample").valid).shape
    (2038,)
    """
    check_pixels(dataset.images)
    return _ensemble_labels(model, stacked_params, dataset, batch_size=batch_size)


@jax.jit(static_argnames=("model", "batch_size"))
def _ensemble_labels(model: Model, stacked_params: Params, dataset: Dataset, *, batch_size: int) -> Int[Array, " n"]:
    def batch_labels(batch: Batch) -> Array:
        probabilities = jax.vmap(lambda params: class_probabilities(model.apply(params, batch.x)))(stacked_params)
        return jnp.argmax(jnp.mean(probabilities, axis=0), axis=-1).astype(jnp.int32)

    return map_batches(batch_labels, dataset, batch_size)


class Summary(NamedTuple):
    """The mean and standard deviation of a sample, and the confidence interval (low, high) of its mean."""

    mean: float
    std: float
    interval: tuple[float, float]


def summarize(values: Float[ArrayLike, " k"] | Sequence[float], confidence: float = 0.95) -> Summary:
    """Return the mean, the standard deviation and the mean's confidence interval by Student's t of a sample.

    `values` [k] are such as the accuracies of k seeds, `confidence` is in (0, 1). The standard deviation divides by
    k - 1. Raises ValueError for fewer than two values, which have no standard deviation, and for a confidence outside
    (0, 1).

    >>> mean, std, (low, high) = summarize([0.97, 0.98, 0.99])
    >>> round(mean, 4), round(std, 4), round(low, 4), round(high, 4)
    (0.98, 0.01, 0.9552, 1.0048)
    """
    from scipy.special import stdtrit  # imported here, since it takes 0.15 s

    values = np.asarray(values, np.float64)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"values must be [k] with two or more values, got {list(values.shape)}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1), such as 0.95, got {confidence}")
    mean, std = float(values.mean()), float(values.std(ddof=1))
    half_width = float(stdtrit(len(values) - 1, (1 + confidence) / 2)) * std / len(values) ** 0.5
    return Summary(mean, std, (mean - half_width, mean + half_width))
