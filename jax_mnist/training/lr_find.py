"""A learning rate by trying: a hundred short runs as one program."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import optax
from jaxtyping import PRNGKeyArray, Real

from ..types import ArrayLike, Model, Splits
from .evaluation import LossFunction
from .sweeps import fit_many


class LrFindResult(NamedTuple):
    """The rates tried [k], the validation loss that each came to [k], and the rate to take, with the reason."""

    rates: np.ndarray
    losses: np.ndarray
    suggestion: float
    reason: str


def lr_find(
    key: PRNGKeyArray,
    model: Model,
    splits: Splits,
    *,
    loss_fn: LossFunction,
    optimizer: Callable[[Any], optax.GradientTransformation],
    epochs: int = 2,
    batch_size: int = 256,
    rates: Real[ArrayLike, " k"] | Sequence[float] | None = None,
) -> LrFindResult:
    """Train briefly at each of a hundred learning rates, all in one vmapped program, and suggest one.

    It chooses by the loss on `splits.valid`, which therefore must be training images set apart, as by `hold_out`. All
    start from the same parameters and see the same batches for `epochs` epochs, 1 to 4; `rates` [k] rise, by default
    from 1e-4 to 10. The suggestion is a third of the rate with the lowest loss, since the highest rate at which a
    short training succeeds is one at which a long one fails. fastai's lr_find, in the book's chapter 5, gives one run
    a rate that rises (Smith 2017, arXiv 1506.01186); here each rate has a run of its own. Raises ValueError for other
    epochs, and where no rate gives a loss.

    >>> import jax, optax
    >>> from jax_mnist import hold_out, linear, load, mnist_loss
    >>> splits = hold_out(jax.random.key(0), load("mnist_sample").train, 2000)
    >>> found = lr_find(jax.random.key(0), linear(), splits, loss_fn=mnist_loss, optimizer=optax.sgd, epochs=1,
    ...                 rates=[0.001, 0.3, 0.6])
    >>> round(found.suggestion, 3)
    0.2
    """
    if not 1 <= epochs <= 4:
        raise ValueError(f"lr_find trains for 1 to 4 epochs, not {epochs}")
    rates = np.geomspace(1e-4, 10, 100) if rates is None else np.asarray(rates, float)
    how = {"epochs": epochs, "loss_fn": loss_fn, "optimizer": optimizer, "batch_size": batch_size}
    _, history = fit_many(key, model, splits, learning_rates=rates, chunk=max(len(rates), 1), **how)
    losses = history.valid_loss[:, -1]
    finite = np.where(np.isfinite(losses), losses, np.inf)
    best = int(finite.argmin())
    if not np.isfinite(finite[best]):
        raise ValueError(f"no learning rate from {rates[0]:g} to {rates[-1]:g} gives a finite loss")
    reason = f"a third of {rates[best]:.3g}, which had the lowest loss, {losses[best]:.4f}, after {epochs} epoch(s)"
    if best == len(rates) - 1:
        reason += "; it is the highest tried, and a better one may lie beyond"
    return LrFindResult(rates, losses, float(rates[best] / 3), reason)
