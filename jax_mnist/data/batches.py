"""From a dataset to the batches of an epoch: the order, the padding, and uint8 to float."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Integer, Num, PRNGKeyArray

from ..pixels import to_float
from ..training.mesh import ShardedDataset, take_sharded
from ..types import ArrayLike, Batch, Dataset


def make_batch(
    images: Num[ArrayLike, "b h w"], labels: Integer[ArrayLike, "..."], mask: Bool[ArrayLike, " b"] | None = None
) -> Batch:
    """A batch of the given images: flattened, in [0, 1], with the mask that says which of them count.

    `images` [b, h, w] uint8 or float in [0, 1], `labels` int [b], `mask` bool [b], by default all True. Returns
    Batch(x [b, h*w], y [b], mask [b]). Raises ValueError where their numbers differ.

    >>> import numpy as np
    >>> make_batch(np.zeros((2, 28, 28), np.uint8), np.array([1, 0], np.int32)).x.shape
    (2, 784)
    """
    if labels.shape != images.shape[:1]:
        raise ValueError(f"images {images.shape} need labels of shape {images.shape[:1]}, not {labels.shape}")
    pixels = to_float(images)
    mask = jnp.ones(labels.shape, bool) if mask is None else jnp.asarray(mask)
    return Batch(pixels.reshape(len(pixels), -1), jnp.asarray(labels), mask)


def epoch_indices(
    key: PRNGKeyArray, epoch: Integer[ArrayLike, ""] | int, count: int, batch_size: int, shuffle: bool = True
) -> tuple[Int[Array, "steps b"], Bool[Array, "steps b"]]:
    """Which image stands where in an epoch: a function of (key, epoch) alone.

    `count` is the number of images. Returns int32 [steps, b], the places 0..count-1 each exactly once, and the
    mask [steps, b]: False where the last batch is filled up, with the epoch's first places again.

    >>> indices, mask = epoch_indices(jax.random.key(0), 0, 26, 6)
    >>> indices.shape, mask.sum(axis=1).tolist()
    ((5, 6), [6, 6, 6, 6, 2])
    """
    order = jnp.arange(count)
    if shuffle:
        # One sort by random numbers takes half the time of jax.random.permutation, which sorts twice so that
        # equal 32-bit numbers do not matter; here they leave two images in file order.
        order = jnp.argsort(jax.random.bits(jax.random.fold_in(key, epoch), (count,)))
    steps = -(-count // batch_size)
    shape = (steps, batch_size)
    return jnp.resize(order, shape).astype(jnp.int32), (jnp.arange(steps * batch_size) < count).reshape(shape)


@jax.jit
def take_batch(dataset: Dataset | ShardedDataset, indices: Int[ArrayLike, " b"], mask: Bool[ArrayLike, " b"]) -> Batch:
    """The batch of the images at the given places, those without mask included.

    From a dataset that is split over devices comes a batch that is, padded to divide evenly.

    >>> import numpy as np
    >>> dataset = Dataset(np.zeros((5, 28, 28), np.uint8), np.arange(5, dtype=np.int32))
    >>> take_batch(dataset, jnp.array([4, 2]), jnp.array([True, True])).y
    Array([4, 2], dtype=int32)
    """
    if isinstance(dataset, ShardedDataset):
        return make_batch(*take_sharded(dataset, indices, mask))
    return make_batch(jnp.asarray(dataset.images)[indices], jnp.asarray(dataset.labels)[indices], mask)


def batches(
    dataset: Dataset, batch_size: int, key: PRNGKeyArray | None = None, epoch: Integer[ArrayLike, ""] | int = 0
) -> Iterator[Batch]:
    """The batches of one epoch, one after another, all of one size: the chapter's DataLoader.

    Without a key they come in the dataset's order, with one in an order drawn from (key, epoch). The last batch
    is padded and its mask says so. Raises ValueError for a batch size below 1.

    >>> import numpy as np
    >>> dataset = Dataset(np.zeros((5, 28, 28), np.uint8), np.arange(5, dtype=np.int32))
    >>> [batch.y[batch.mask].tolist() for batch in batches(dataset, 2)]
    [[0, 1], [2, 3], [4]]
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more, not {batch_size}")
    order_key = jax.random.key(0) if key is None else key
    on_device = jax.device_put(dataset)
    for indices, mask in zip(
        *epoch_indices(order_key, epoch, len(dataset), batch_size, shuffle=key is not None), strict=True
    ):
        yield take_batch(on_device, indices, mask)
