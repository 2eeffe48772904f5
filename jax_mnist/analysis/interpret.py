"""A look at what a trained model does: its mistakes, its confidence, and what each image would teach it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Integer

from ..data.batches import epoch_indices, take_batch
from ..metrics import (
    Calibration,
    PerClass,
    calibration,
    class_probabilities,
    confusion_matrix,
    per_class,
    predicted_labels,
)
from ..training.evaluation import LossFunction, check_fit, evaluate
from ..types import ArrayLike, Dataset, Metrics, Model, Params, Splits


class Confused(NamedTuple):
    """How many examples with the label were taken for another class."""

    label: int
    predicted: int
    examples: int


class Example(NamedTuple):
    """One image: its place in the dataset, its label, what a model makes of it, and the value it was chosen by."""

    place: int
    label: int
    predicted: int
    probability: float
    """The model's, of the class that it predicts."""
    value: float


class Interpretation(NamedTuple):
    """What `examine` found: on the validation images, and, in the last three, on the training images."""

    metrics: Metrics
    confusion: Any
    per_class: PerClass
    calibration: Calibration
    confused: list[Confused]
    top_losses: list[Example]
    gradient_norms: Any
    teach_most: list[Example]
    """By gradient norm."""
    look_mislabelled: list[Example]
    """By the probability of their label."""


def predict_logits(model: Model, params: Params, dataset: Dataset, batch_size: int = 1024) -> Float[Array, "n c"]:
    """The logits of all of a dataset's images, computed in batches: float [n, c].

    >>> from jax_mnist import linear, load
    >>> predict_logits(linear(), linear().init(jax.random.key(0)), load("mnist_sample").valid).shape
    (2038, 1)
    """
    return _logits(params, dataset, model=model, batch_size=batch_size)


@jax.jit(static_argnames=("model", "batch_size"))
def _logits(params: Params, dataset: Dataset, *, model: Model, batch_size: int) -> Array:
    places = epoch_indices(jax.random.key(0), 0, len(dataset), batch_size, shuffle=False)
    logits = jax.lax.map(lambda places: model.apply(params, take_batch(dataset, *places).x), places)
    return logits.reshape(-1, logits.shape[-1])[: len(dataset)]


def most_confused(confusion: Integer[ArrayLike, "k k"], least: int = 1) -> list[Confused]:
    """The pairs of classes that are taken for each other, the most frequent first: fastai's `most_confused`.

    `confusion` int [k, k], a row a label and a column a prediction, as from `confusion_matrix`. Pairs with fewer
    than `least` examples are left out; equals come by label, then by prediction.

    >>> most_confused(np.array([[5, 2, 0], [1, 9, 0], [0, 3, 4]]), least=2)
    [Confused(label=2, predicted=1, examples=3), Confused(label=0, predicted=1, examples=2)]
    """
    pairs = [
        Confused(label, predicted, int(count))
        for (label, predicted), count in np.ndenumerate(np.asarray(confusion))
        if label != predicted and count >= least
    ]
    return sorted(pairs, key=lambda pair: -pair.examples)


def top_losses(losses: Float[ArrayLike, " n"], count: int = 9) -> tuple[Float[Array, " k"], Int[Array, " k"]]:
    """The largest losses and their places, largest first: fastai's `top_losses`.

    `losses` float [n], one an example, as every loss function here gives. Returns float [k] and int32 [k] with
    k = min(count, n); a NaN counts as the largest, and equals come by place.

    >>> top_losses(jnp.array([0.1, 0.9, 0.4]), 2)[1].tolist()
    [1, 2]
    """
    largest, places = jax.lax.top_k(jnp.asarray(losses), min(count, len(losses)))
    return largest, places


def gradient_norms(
    model: Model, params: Params, dataset: Dataset, loss_fn: LossFunction, batch_size: int = 16
) -> Float[Array, " n"]:
    """How much each image alone would change the model: the norm of its own loss's gradient, float [n].

    `vmap(grad)` gives a gradient for every example of a batch, so `batch_size` copies of the parameters must fit
    the memory. An image whose norm is large teaches much, Paul et al., "Deep Learning on a Data Diet" (2021).
    With `mnist_loss` an image far on the wrong side teaches nothing: the sigmoid is flat there. Raises ValueError
    where model, data and loss do not fit together.

    >>> from jax_mnist import linear, load, mnist_loss
    >>> norms = gradient_norms(linear(), linear().init(jax.random.key(0)), load("mnist_sample").valid, mnist_loss)
    >>> norms.shape, bool((norms > 0).all())
    ((2038,), True)
    """
    check_fit(model, params, dataset, loss_fn, batch_size)
    return _norms(params, dataset, model=model, loss_fn=loss_fn, batch_size=batch_size)


@jax.jit(static_argnames=("model", "loss_fn", "batch_size"))
def _norms(params: Params, dataset: Dataset, *, model: Model, loss_fn: LossFunction, batch_size: int) -> Array:
    def loss(params: Params, x: Array, y: Array) -> Array:
        return loss_fn(model.apply(params, x[None]), y[None])[0]

    def one_batch(places: tuple[Array, Array]) -> Array:
        batch = take_batch(dataset, *places)
        gradients = jax.vmap(jax.grad(loss), in_axes=(None, 0, 0))(params, batch.x, batch.y)
        return jax.vmap(optax.tree.norm)(gradients)

    places = epoch_indices(jax.random.key(0), 0, len(dataset), batch_size, shuffle=False)
    return jax.lax.map(one_batch, places).reshape(-1)[: len(dataset)]


def examine(model: Model, params: Params, splits: Splits, loss_fn: LossFunction, examples: int = 24) -> Interpretation:
    """All of the above for a trained model, with the first `examples` images of each list.

    Of the validation images: Metrics, the confusion matrix and what follows
    from it, calibration, and the top losses. Of the training images: those whose gradient is largest, and those
    whose label the model believes least, which is how a wrong label looks. Raises ValueError where model, data
    and loss do not fit together.

    >>> from jax_mnist import linear, load, mnist_loss
    >>> splits = load("mnist_sample")
    >>> findings = examine(linear(), linear().init(jax.random.key(0)), splits, mnist_loss)
    >>> int(findings.confusion.sum()), len(findings.top_losses), findings.gradient_norms.shape
    (2038, 24, (12396,))
    """
    train, valid = splits
    metrics = evaluate(model, params, valid, loss_fn)
    norms = gradient_norms(model, params, train, loss_fn)
    logits = predict_logits(model, params, valid)
    train_logits = predict_logits(model, params, train)
    confusion = confusion_matrix(logits, valid.labels)
    believed = class_probabilities(train_logits)[jnp.arange(len(train)), train.labels]
    doubts, doubted = top_losses(-believed, examples)
    return Interpretation(
        metrics,
        confusion,
        per_class(confusion),
        calibration(logits, valid.labels),
        most_confused(confusion),
        _examples(logits, valid, *top_losses(loss_fn(logits, valid.labels), examples)),
        norms,
        _examples(train_logits, train, *top_losses(norms, examples)),
        _examples(train_logits, train, -doubts, doubted),
    )


def _examples(logits: Array, dataset: Dataset, values: Array, places: Array) -> list[Example]:
    predicted = predicted_labels(logits[places]).tolist()
    shares = jnp.max(class_probabilities(logits[places]), axis=-1).tolist()
    labels = np.asarray(dataset.labels)[places].tolist()
    return list(map(Example, places.tolist(), labels, predicted, shares, values.tolist()))
