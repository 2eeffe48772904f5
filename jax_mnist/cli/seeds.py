"""`train --seeds`: the same recipe from further seeds, and what they say together."""

import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from .. import evaluation_params, fit_many
from ..analysis import ensemble_labels, summarize
from ..training.mesh import replicate, to_local
from ..types import Learner, Params, Splits


def train_further(
    first: Params,
    accuracy: float,
    seeds: range,
    learner: Learner,
    splits: Splits,
    epochs: int,
    mesh: Mesh | None,
) -> dict[str, Any]:
    """Train all seeds but the first, which is trained, and return what result.json says of all of them.

    `first` and `accuracy` are the first seed's parameters and their accuracy. Every seed is the run that `train --seed`
    makes of it, in its own order. Returns accuracies, accuracy_mean, accuracy_std, accuracy_interval (95%, of the
    mean), ensemble_accuracy, and further_seconds, the wall-clock time of the further seeds with their compilation.
    """
    start = time.perf_counter()
    keys = jax.vmap(jax.random.key)(jnp.array(seeds[1:]))
    states, history = fit_many(keys, learner, splits, epochs=epochs, mesh=mesh)
    seconds = time.perf_counter() - start
    further = to_local(replicate(jax.vmap(evaluation_params)(states), mesh))
    params = jax.tree.map(lambda one, more: jnp.concatenate([one[None], more]), first, further)
    accuracies = [accuracy, *history.accuracy[:, -1].tolist()]
    mean, std, interval = summarize(accuracies)
    right = ensemble_labels(learner.model, params, splits.valid) == splits.valid.labels
    return {
        "accuracies": accuracies,
        "accuracy_mean": mean,
        "accuracy_std": std,
        "accuracy_interval": interval,
        "ensemble_accuracy": float(right.mean()),
        "further_seconds": seconds,
    }


def describe_seeds(result: dict[str, Any], seeds: range) -> str:
    """What all seeds say together, in words."""
    low, high = result["accuracy_interval"]
    return (
        f"{len(seeds)} seeds, {seeds[0]} to {seeds[-1]}: accuracy mean {result['accuracy_mean']:.4f}, "
        f"standard deviation {result['accuracy_std']:.4f}, 95% interval of the mean {low:.4f} to {high:.4f}; "
        f"their ensemble {result['ensemble_accuracy']:.4f}; {result['further_seconds']:.2f} s for the further seeds"
    )
