"""Learning-rate search: a hundred short runs as one program."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import PRNGKeyArray, Real

from ..types import ArrayLike, Learner, Splits
from .sweeps import fit_many


class LrFindResult(NamedTuple):
    """The rates tried [k], the validation loss that each reached [k], the suggested rate, and the reason."""

    rates: np.ndarray
    losses: np.ndarray
    suggestion: float
    reason: str


def lr_find(
    key: PRNGKeyArray,
    learner: Learner,
    splits: Splits,
    *,
    epochs: int = 2,
    rates: Real[ArrayLike, " k"] | Sequence[float] | None = None,
) -> LrFindResult:
    """Train briefly at each of a hundred learning rates, all in one vmapped program, and suggest one.

    The learning rate must be in the optimizer's state, as for `fit_many`: `optax.inject_hyperparams(optax.sgd)(
    learning_rate=0.1)`. The rates are compared by the loss on `splits.valid`, so those must be held-out training
    images, as from `hold_out`. All runs start from the same parameters and see the same batches for `epochs` epochs, 1
    to 4; `rates` [k] are positive, by default a hundred from 1e-4 to 10. The suggestion is a third of the rate with
    the lowest loss, since the highest rate that still works in a short run fails in a long one.

    In fastai's lr_find, in the book's chapter 5, one run's rate rises (Smith 2017, arXiv 1506.01186); here each rate
    has its own run. Returns LrFindResult. Raises ValueError for other epochs or rates, and if no loss is finite.

    >>> import jax, optax
    >>> from jax_mnist import hold_out, linear, load, mnist_loss
    >>> splits = hold_out(jax.random.key(0), load("mnist_sample").train, 2000)
    >>> learner = Learner(linear(), mnist_loss, optax.inject_hyperparams(optax.sgd)(learning_rate=1.0))
    >>> found = lr_find(jax.random.key(0), learner, splits, epochs=1, rates=[0.001, 0.3, 0.6])
    >>> round(found.suggestion, 3)
    0.2
    """
    if not 1 <= epochs <= 4:
        raise ValueError(f"epochs of lr_find must be 1 to 4, got {epochs}")
    rates = np.geomspace(1e-4, 10, 100) if rates is None else np.asarray(rates, float)
    if rates.size == 0 or not ((rates > 0) & np.isfinite(rates)).all():
        raise ValueError(f"rates must be one or more finite positive numbers, got {rates.tolist()}")
    _, history = fit_many(key, learner, splits, epochs=epochs, learning_rates=rates, chunk=len(rates))
    losses = history.valid_loss[:, -1]
    finite = np.where(np.isfinite(losses), losses, np.inf)
    best = int(finite.argmin())
    if not np.isfinite(finite[best]):
        raise ValueError(f"no learning rate from {rates.min():g} to {rates.max():g} gives a finite loss")
    reason = f"a third of {rates[best]:.3g}, which had the lowest loss, {losses[best]:.4f}, after {epochs} epoch(s)"
    if rates[best] == rates.max():
        reason += "; it is the highest rate tried, and a better one may be above it"
    return LrFindResult(rates, losses, float(rates[best] / 3), reason)
