"""Error analysis: misclassifications, calibration, and per-example gradient norms."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Integer

from ..data.batches import map_batches
from ..metrics import (
    Calibration,
    PerClass,
    calibration,
    class_probabilities,
    confusion_matrix,
    per_class,
    predicted_labels,
)
from ..pixels import check_pixels
from ..training.evaluation import EVALUATION_BATCH_SIZE, check_model_and_data, evaluate
from ..types import ArrayLike, Batch, Dataset, Learner, Metrics, Model, Params, Splits


class ConfusedPair(NamedTuple):
    """The number of examples with this label for which another class was predicted."""

    label: int
    predicted: int
    count: int  # pyright: ignore[reportIncompatibleMethodOverride]


class Example(NamedTuple):
    """An image of a dataset, what the model predicts for it, and the value by which it was selected.

    `index` is its index in the dataset, `label` its label, `predicted` the predicted class and `probability` the
    model's probability of that class.
    """

    index: int  # pyright: ignore[reportIncompatibleMethodOverride]
    label: int
    predicted: int
    probability: float
    value: float


class Interpretation(NamedTuple):
    """The results of `interpret`.

    Of the validation images: `metrics`, the `confusion` matrix int [k, k], `per_class` precision and recall,
    `calibration`, `most_confused` pairs and the images with the `top_losses`. Of the training images: `gradient_norms`
    float [n], the images with the `largest_gradients`, and those that are `likely_mislabeled`, selected by the
    probability of their label, lowest first.
    """

    metrics: Metrics
    confusion: Any
    per_class: PerClass
    calibration: Calibration
    most_confused: list[ConfusedPair]
    top_losses: list[Example]
    gradient_norms: Any
    largest_gradients: list[Example]
    likely_mislabeled: list[Example]


def predict_logits(
    model: Model,
    params: Params,
    dataset: Dataset,
    *,
    batch_size: int = EVALUATION_BATCH_SIZE,
    mesh: Mesh | None = None,
) -> Float[Array, "n c"]:
    """Return the logits of all images of a dataset, computed in batches: float [n, c]. Labels are not needed.

    Raises ValueError if `batch_size` is below 1, or if float pixels are in 0..255.

    >>> from jax_mnist import linear, load
    >>> predict_logits(linear(), linear().init(jax.random.key(0)), load("mnist_sample").valid).shape
    (2038, 1)
    """
    check_pixels(dataset.images)
    return _predict_logits(model, params, dataset, batch_size=batch_size, mesh=mesh)


@jax.jit(static_argnames=("model", "batch_size", "mesh"))
def _predict_logits(model: Model, params: Params, dataset: Dataset, *, batch_size: int, mesh: Mesh | None) -> Array:
    return map_batches(lambda batch: model.apply(params, batch.x), dataset, batch_size, mesh)


def most_confused(confusion: Integer[ArrayLike, "k k"], min_count: int = 1) -> list[ConfusedPair]:
    """Return the pairs of classes that the model confuses, most frequent first: fastai's `most_confused`.

    `confusion` int [k, k], with a row for each label and a column for each prediction, is that of `confusion_matrix`.
    Pairs with fewer than `min_count` examples are left out; equal counts are ordered by label, then by prediction.

    >>> most_confused(np.array([[5, 2, 0], [1, 9, 0], [0, 3, 4]]), min_count=2)
    [ConfusedPair(label=2, predicted=1, count=3), ConfusedPair(label=0, predicted=1, count=2)]
    """
    pairs = [
        ConfusedPair(label, predicted, int(count))
        for (label, predicted), count in np.ndenumerate(np.asarray(confusion))
        if label != predicted and count >= min_count
    ]
    return sorted(pairs, key=lambda pair: -pair.count)


def top_losses(losses: Float[ArrayLike, " n"], count: int = 9) -> tuple[Float[Array, " k"], Int[Array, " k"]]:
    """Return the largest losses and their indices, largest first: fastai's `top_losses`.

    `losses` float [n] has one loss per example, as every loss function here returns. Returns float [k] and int32 [k]
    with k = min(count, n). NaN counts as the largest, and equal losses are ordered by index.

    >>> top_losses(jnp.array([0.1, 0.9, 0.4]), 2)[1].tolist()
    [1, 2]
    """
    largest, indices = jax.lax.top_k(jnp.asarray(losses), min(count, len(losses)))
    return largest, indices


def gradient_norms(learner: Learner, params: Params, dataset: Dataset, *, batch_size: int = 16) -> Float[Array, " n"]:
    """Return the norm of the gradient of each image's own loss, float [n]: how much that image alone changes the model.

    The model computes as in evaluation (`model.apply`): without dropout, with the stored batch statistics. `vmap(grad)`
    computes one gradient for each example of a batch, so `batch_size` copies of the parameters must fit into memory.
    Training learns most from images with large norms (Paul et al. 2021, "Deep Learning on a Data Diet").
    With `mnist_loss` an image far on the wrong side has a norm near 0, since the sigmoid is flat there. Raises
    ValueError if model, data and loss do not fit together.

    >>> from jax_mnist import linear, load, mnist_loss
    >>> learner = Learner(linear(), mnist_loss, optax.sgd(1.0))
    >>> norms = gradient_norms(learner, learner.model.init(jax.random.key(0)), load("mnist_sample").valid)
    >>> norms.shape, bool((norms > 0).all())
    ((2038,), True)
    """
    model, loss_fn = learner.model, learner.loss_fn
    check_model_and_data(model, loss_fn, params, dataset, batch_size)
    return _gradient_norms(model, loss_fn, params, dataset, batch_size=batch_size)


@jax.jit(static_argnames=("model", "loss_fn", "batch_size"))
def _gradient_norms(model: Model, loss_fn: Any, params: Params, dataset: Dataset, *, batch_size: int) -> Array:
    def example_loss(params: Params, x: Array, y: Array) -> Array:
        return loss_fn(model.apply(params, x[None]), y[None])[0]

    def batch_norms(batch: Batch) -> Array:
        gradients = jax.vmap(jax.grad(example_loss), in_axes=(None, 0, 0))(params, batch.x, batch.y)
        return jax.vmap(optax.tree.norm)(gradients)

    return map_batches(batch_norms, dataset, batch_size)


def interpret(learner: Learner, params: Params, splits: Splits, *, examples: int = 24) -> Interpretation:
    """Analyze a trained model's errors: all of this module, with the first `examples` images of each list.

    It evaluates `splits.valid` and looks in `splits.train` for the images that training learns most from and for those
    whose label the model finds least probable, which is what a wrong label looks like. Raises ValueError if model, data
    and loss do not fit together.

    >>> from jax_mnist import linear, load, mnist_loss
    >>> learner = Learner(linear(), mnist_loss, optax.sgd(1.0))
    >>> found = interpret(learner, learner.model.init(jax.random.key(0)), load("mnist_sample"))
    >>> int(found.confusion.sum()), len(found.top_losses), found.gradient_norms.shape
    (2038, 24, (12396,))
    """
    train, valid = splits
    metrics = evaluate(learner, params, valid)
    norms = gradient_norms(learner, params, train)
    logits, train_logits = (predict_logits(learner.model, params, dataset) for dataset in (valid, train))
    confusion = confusion_matrix(logits, valid.labels)
    label_probabilities = class_probabilities(train_logits)[jnp.arange(len(train)), train.labels]
    lowest, suspects = top_losses(-label_probabilities, examples)
    return Interpretation(
        metrics,
        confusion,
        per_class(confusion),
        calibration(logits, valid.labels),
        most_confused(confusion),
        _describe(logits, valid, *top_losses(learner.loss_fn(logits, valid.labels), examples)),
        norms,
        _describe(train_logits, train, *top_losses(norms, examples)),
        _describe(train_logits, train, -lowest, suspects),
    )


def _describe(logits: Array, dataset: Dataset, values: Array, indices: Array) -> list[Example]:
    """Return the examples at these indices, with the values by which they were selected."""
    predicted = predicted_labels(logits[indices]).tolist()
    probabilities = jnp.max(class_probabilities(logits[indices]), axis=-1).tolist()
    labels = np.asarray(dataset.labels)[indices].tolist()
    return list(map(Example, indices.tolist(), labels, predicted, probabilities, values.tolist()))
