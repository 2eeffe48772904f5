"""Loss and accuracy over a dataset, and the check that model, data and loss fit together."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int

from ..data.batches import check_batch_size, map_batches
from ..metrics import predicted_labels
from ..pixels import check_pixels
from ..types import Batch, Dataset, Learner, LossFunction, Metrics, Model, Params
from .mesh import platform_of, replicate

EVALUATION_BATCH_SIZE = 1024  # on a CPU a larger batch leaves the caches
ACCELERATOR_BATCH_SIZE = 4096  # a GPU launches the kernels of each batch anew


def evaluate(
    learner: Learner,
    params: Params,
    dataset: Dataset,
    *,
    batch_size: int | None = None,
    mesh: Mesh | None = None,
) -> Metrics:
    """Return the mean loss and the accuracy over a dataset, with every image counted once.

    Only the learner's model and loss are used. `params` are the parameters to evaluate; for a TrainState, pass
    `evaluation_params(state)`. The result does not depend on `batch_size`, except for rounding; the default is 1,024 on
    a CPU and 4,096 on a GPU or TPU. With a `mesh`, such as `data_mesh()`, every batch is sharded over its devices.
    Returns Metrics(loss float, accuracy float in [0, 1], count int), each an array []. Raises ValueError if model,
    dataset and loss do not fit together.

    >>> import optax
    >>> from jax_mnist import linear, load, mnist_loss
    >>> learner = Learner(linear(), mnist_loss, optax.sgd(1.0))
    >>> params = jax.tree.map(jnp.zeros_like, learner.model.init(jax.random.key(0)))
    >>> metrics = evaluate(learner, params, load("mnist_sample").valid)
    >>> float(metrics.loss), int(metrics.count)
    (0.5, 2038)
    """
    batch_size = _default_batch_size(mesh) if batch_size is None else batch_size
    check_model_and_data(learner.model, learner.loss_fn, params, dataset, batch_size)
    params, dataset = replicate((params, dataset), mesh)
    return evaluate_params(learner.model, learner.loss_fn, params, dataset, batch_size=batch_size, mesh=mesh)[0]


@jax.jit(static_argnames=("model", "loss_fn", "batch_size", "mesh"))
def evaluate_params(
    model: Model,
    loss_fn: LossFunction,
    params: Params,
    dataset: Dataset,
    *,
    batch_size: int | None = None,
    mesh: Mesh | None = None,
) -> tuple[Metrics, Int[Array, " n"]]:
    """Return the metrics and the predicted labels from one compiled program, which `vmap` and `jit` can trace.

    Nothing is checked.
    """

    def evaluate_batch(batch: Batch) -> tuple[Array, Array]:
        logits = model.apply(params, batch.x)
        return loss_fn(logits, batch.y), predicted_labels(logits)

    batch_size = _default_batch_size(mesh) if batch_size is None else batch_size
    losses, predicted = map_batches(evaluate_batch, dataset, batch_size, mesh)
    accuracy = jnp.mean(predicted == dataset.labels)
    return Metrics(jnp.mean(losses), accuracy, jnp.asarray(len(dataset), jnp.int32)), predicted


def _default_batch_size(mesh: Mesh | None) -> int:
    return EVALUATION_BATCH_SIZE if platform_of(mesh) == "cpu" else ACCELERATOR_BATCH_SIZE


def check_model_and_data(
    model: Model, loss_fn: LossFunction, params: Params, dataset: Dataset, batch_size: int
) -> None:
    """Raise ValueError, saying what would fit, if model, dataset and loss do not fit together.

    No logits are computed: the shapes are traced, and the smallest and largest label and float pixel are looked up.
    """
    check_batch_size(batch_size)
    check_params(params)
    if len(dataset) == 0:
        raise ValueError("the dataset must have images, got 0 images")
    if dataset.labels is None:
        raise ValueError("the dataset must have labels, got only images; analysis.predict_logits needs none")
    if dataset.labels.shape != dataset.images.shape[:1]:
        raise ValueError(
            f"the dataset must have one label for each image, [n], got images {list(dataset.images.shape)} and labels "
            f"{list(dataset.labels.shape)}"
        )
    check_pixels(dataset.images)
    x = jax.ShapeDtypeStruct((batch_size, int(np.prod(dataset.images.shape[1:]))), jnp.result_type(float))
    labels = jax.ShapeDtypeStruct((batch_size,), dataset.labels.dtype)
    try:
        logits = jax.eval_shape(model.apply, params, x)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the model must take x of shape {list(x.shape)}: {error}") from error
    if getattr(logits, "shape", ())[:1] != (batch_size,) or len(logits.shape) != 2:
        found = list(logits.shape) if hasattr(logits, "shape") else type(logits).__name__
        raise ValueError(f"the model must return logits [b, c] for x {list(x.shape)}, got {found}")
    classes = max(logits.shape[1], 2)
    smallest, largest = int(dataset.labels.min()), int(dataset.labels.max())
    if smallest < 0 or largest >= classes:
        raise ValueError(
            f"labels must be in 0..{classes - 1} for a model with {logits.shape[1]} column(s) of logits, got "
            f"{smallest}..{largest}"
        )
    losses = jax.eval_shape(loss_fn, logits, labels)
    if losses.shape != (batch_size,):
        raise ValueError(f"loss_fn must return one loss per example, [{batch_size}], got {list(losses.shape)}")


def check_params(params: Params) -> None:
    """Raise ValueError, naming the leaf, if a leaf of the parameters is not an array or a number.

    >>> check_params({"weights": np.zeros(3), "activation": len})
    Traceback (most recent call last):
    ValueError: params must hold only arrays, got len at activation; of an Equinox module, params are the first of \
eqx.partition(module, eqx.is_array), and apply joins both with eqx.combine
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not hasattr(leaf, "dtype") and not isinstance(leaf, (bool, int, float, complex)):
            raise ValueError(
                f"params must hold only arrays, got {getattr(leaf, '__name__', type(leaf).__name__)} at "
                f"{jax.tree_util.keystr(path, simple=True, separator='.')}; of an Equinox module, params are the first "
                "of eqx.partition(module, eqx.is_array), and apply joins both with eqx.combine"
            )
