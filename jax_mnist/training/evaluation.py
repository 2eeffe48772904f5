"""What a model is worth on a dataset, every image counted once, and whether model, data and loss fit together."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from ..data.batches import epoch_indices, take_batch
from ..metrics import correct
from ..types import Dataset, Metrics, Model, Params, TrainState
from .ema import apply_model_updates
from .mesh import ShardedDataset, replicate, shard_dataset

LossFunction = Callable[[Any, Any], Any]
"""logits [b, c], labels [b] -> one loss per example [b]."""

EVALUATION_BATCH = 1024


def evaluate(
    model: Model,
    params: Params,
    dataset: Dataset,
    loss_fn: LossFunction,
    batch_size: int = EVALUATION_BATCH,
    mesh: Mesh | None = None,
) -> Metrics:
    """The mean loss and the accuracy over a dataset, every image counted once whatever the batch size.

    With a `mesh`, such as `data_mesh()`, each batch is split over its devices. Returns Metrics(loss float, accuracy
    float in [0, 1], count int), each an array []. Raises ValueError where model, dataset and loss do not fit together.

    >>> from jax_mnist import linear, load, mnist_loss
    >>> params = jax.tree.map(jnp.zeros_like, linear().init(jax.random.key(0)))
    >>> metrics = evaluate(linear(), params, load("mnist_sample").valid, mnist_loss)
    >>> float(metrics.loss), int(metrics.count)
    (0.5, 2038)
    """
    check_fit(model, params, dataset, loss_fn, batch_size)
    params, placed = replicate(params, mesh), shard_dataset(dataset, mesh)
    return evaluate_epoch(params, placed, model=model, loss_fn=loss_fn, batch_size=batch_size)


@jax.jit(static_argnames=("model", "loss_fn", "batch_size"))
def evaluate_epoch(
    params: Params,
    dataset: Dataset | ShardedDataset,
    *,
    model: Model,
    loss_fn: LossFunction,
    batch_size: int = EVALUATION_BATCH,
) -> Metrics:
    """`evaluate` as one compiled program, for use inside `vmap` and `jit`, where nothing can be checked."""

    def one_batch(sums: tuple[Array, Array], places: tuple[Array, Array]) -> tuple[tuple[Array, Array], None]:
        batch = take_batch(dataset, *places)
        logits = model.apply(params, batch.x)
        loss_sum = jnp.sum(loss_fn(logits, batch.y), where=batch.mask)
        right = jnp.sum(correct(logits, batch.y), where=batch.mask, dtype=jnp.int32)
        return (sums[0] + loss_sum.astype(sums[0].dtype), sums[1] + right), None

    places = epoch_indices(jax.random.key(0), 0, len(dataset), batch_size, shuffle=False)
    (loss_sum, right), _ = jax.lax.scan(one_batch, (jnp.zeros(()), jnp.zeros((), jnp.int32)), places)
    count = len(dataset)
    return Metrics(loss_sum / count, right / count, jnp.asarray(count, jnp.int32))


def check_fit(model: Model, params: Params, dataset: Dataset, loss_fn: LossFunction, batch_size: int) -> None:
    """Raise ValueError, saying what would be right, where model, dataset and loss do not fit together.

    Nothing is computed: shapes are traced, and the largest label is looked up.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more, not {batch_size}")
    if len(dataset) == 0:
        raise ValueError("the dataset has no images")
    if dataset.labels.shape != dataset.images.shape[:1]:
        raise ValueError(
            f"the dataset must have a label for each image, [n], not images {dataset.images.shape} and labels "
            f"{dataset.labels.shape}"
        )
    x = jax.ShapeDtypeStruct((batch_size, int(np.prod(dataset.images.shape[1:]))), jnp.result_type(float))
    labels = jax.ShapeDtypeStruct((batch_size,), dataset.labels.dtype)
    try:
        logits = jax.eval_shape(model.apply, params, x)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the model does not take x of shape {x.shape}: {error}") from error
    if not hasattr(logits, "shape"):
        raise ValueError(f"the model must give an array of logits [b, c], not a {type(logits).__name__}")
    if len(logits.shape) != 2 or logits.shape[0] != batch_size:
        raise ValueError(f"the model must give logits [b, c] for x {x.shape}, not {logits.shape}")
    classes = max(logits.shape[1], 2)
    smallest, largest = int(dataset.labels.min()), int(dataset.labels.max())
    if smallest < 0 or largest >= classes:
        raise ValueError(
            f"labels {smallest}..{largest} do not fit a model with {logits.shape[1]} column(s) of logits, "
            f"which tells {classes} classes apart"
        )
    if model.train is not None:
        _check_train(model.train, params, x, logits)
    losses = jax.eval_shape(loss_fn, logits, labels)
    if losses.shape != (batch_size,):
        raise ValueError(f"loss_fn must give one loss per example, [{batch_size}], not {list(losses.shape)}")


def _check_train(train: Callable[..., Any], params: Params, x: Any, logits: Any) -> None:
    def trained(params: Params, x: Array) -> tuple[Any, Params]:
        found, changes = train(params, x, jax.random.key(0))
        return found, apply_model_updates(TrainState(params, (), jnp.zeros(()), jnp.zeros(())), changes).params

    found, after = jax.eval_shape(trained, params, x)
    kinds = [[(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)] for tree in (params, after)]
    if found.shape != logits.shape or kinds[0] != kinds[1]:
        raise ValueError(
            f"the model's train must give logits {list(logits.shape)} as its apply does, not {list(found.shape)}, and "
            "changes of the parameters' own shapes and dtypes"
        )
