"""What the members of a sweep say together: their ensemble's accuracy, and the spread of their figures."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy.special import stdtrit

from ..data.batches import epoch_indices, take_batch
from ..metrics import class_probabilities
from ..training.evaluation import EVALUATION_BATCH
from ..types import ArrayLike, Dataset, Model, Params


def ensemble_labels(
    model: Model, stacked_params: Params, dataset: Dataset, batch_size: int = EVALUATION_BATCH
) -> Int[Array, " n"]:
    """The labels that an ensemble agrees on: the class with the highest mean of its members' probabilities.

    A mean of probabilities, unlike a majority, weighs a sure member more than one in doubt, and an even number of
    members seldom ties. `stacked_params` is a pytree with a leading axis [k], as in the state of `fit_many`. Returns
    int32 [n], so that `(ensemble_labels(...) == dataset.labels).mean()` is the accuracy. Raises ValueError for a batch size
    below 1.

    >>> from jax_mnist import linear, load
    >>> params = jax.vmap(linear().init)(jax.random.split(jax.random.key(0), 3))
    >>> ensemble_labels(linear(), params, load("mnist_sample").valid).shape
    (2038,)
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more, not {batch_size}")
    return _vote(stacked_params, jax.device_put(dataset), model=model, batch_size=batch_size)


@jax.jit(static_argnames=("model", "batch_size"))
def _vote(stacked_params: Params, dataset: Dataset, *, model: Model, batch_size: int) -> Int[Array, " n"]:
    def one_batch(places: tuple[Array, Array]) -> Array:
        x = take_batch(dataset, *places).x
        probabilities = jax.vmap(lambda params: class_probabilities(model.apply(params, x)))(stacked_params)
        return jnp.argmax(jnp.mean(probabilities, axis=0), axis=-1).astype(jnp.int32)

    places = epoch_indices(jax.random.key(0), 0, len(dataset), batch_size, shuffle=False)
    return jax.lax.map(one_batch, places).reshape(-1)[: len(dataset)]


class Spread(NamedTuple):
    """A sample's mean and standard deviation, and the interval in which its distribution's mean lies."""

    mean: float
    std: float
    interval: tuple[float, float]


def spread(values: Float[ArrayLike, " k"] | Sequence[float], confidence: float = 0.95) -> Spread:
    """Mean, standard deviation and the mean's confidence interval by Student's t, such as of k seeds' accuracies.

    `values` [k], `confidence` in (0, 1). The deviation divides by k - 1. Returns Spread(mean, std, (low, high)).
    Raises ValueError for fewer than two values, which say nothing of their spread.

    >>> mean, std, (low, high) = spread([0.97, 0.98, 0.99])
    >>> round(mean, 4), round(std, 4), round(low, 4), round(high, 4)
    (0.98, 0.01, 0.9552, 1.0048)
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"a spread is that of two or more values, [k], not {list(values.shape)}")
    mean, std = float(values.mean()), float(values.std(ddof=1))
    half = float(stdtrit(len(values) - 1, (1 + confidence) / 2)) * std / len(values) ** 0.5
    return Spread(mean, std, (mean - half, mean + half))
