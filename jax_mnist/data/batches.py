"""Batches of a dataset: the order of an epoch, padding, and uint8 pixels to float."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import NamedSharding, P
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Int, Integer, Num, PRNGKeyArray

from ..pixels import check_pixels, to_float
from ..types import ArrayLike, Batch, Dataset


def make_batch(
    images: Num[ArrayLike, "b h w"],
    labels: Integer[ArrayLike, "..."] | None = None,
    mask: Bool[ArrayLike, " b"] | None = None,
) -> Batch:
    """Return a batch of the given images, flattened, with pixels in [0, 1].

    `images` [b, h, w] are uint8 or float in [0, 1], `labels` int [b], which a prediction does not need; `mask` bool [b]
    is False for padding, by default True for all. Returns Batch(x [b, h*w], y [b] or None, mask [b]). Raises
    ValueError if the lengths differ or float pixels are in 0..255.

    >>> import numpy as np
    >>> make_batch(np.zeros((2, 28, 28), np.uint8), np.array([1, 0], np.int32)).x.shape
    (2, 784)
    """
    if labels is not None and labels.shape != images.shape[:1]:
        raise ValueError(f"labels must be [{len(images)}] for images {list(images.shape)}, got {list(labels.shape)}")
    check_pixels(images)
    pixels = to_float(images)
    mask = jnp.ones(len(images), bool) if mask is None else jnp.asarray(mask)
    return Batch(pixels.reshape(len(pixels), -1), None if labels is None else jnp.asarray(labels), mask)


@jax.jit(static_argnames="count")
def random_order(key: PRNGKeyArray, count: int) -> Int[Array, " n"]:
    """Return the numbers 0..count-1 in a random order drawn from the key, int32 [count].

    Each of two passes sorts single numbers with fresh random high bits and the index in the low bits, which takes less
    than half the time of an argsort (`jax.random.permutation` does two of those). Equal high bits keep a pair in its
    earlier order, so the bias that is left is small: a pair that ties in both passes stays in ascending order. For
    60,000 images that is one pair in 2**32, for a million one in 2**24.

    >>> sorted(random_order(jax.random.key(0), 5).tolist())
    [0, 1, 2, 3, 4]
    """
    index_mask = jnp.uint32(2 ** max(count - 1, 1).bit_length() - 1)
    positions = jnp.arange(count, dtype=jnp.uint32)
    order = positions
    for pass_key in jax.random.split(key):
        random_bits = jax.random.bits(pass_key, (count,), jnp.uint32)
        order = order[jnp.sort(random_bits & ~index_mask | positions) & index_mask]
    return order.astype(jnp.int32)


def epoch_indices(
    key: PRNGKeyArray | None,
    epoch: Integer[ArrayLike, ""] | int,
    count: int,
    batch_size: int,
    mesh: Mesh | None = None,
) -> tuple[Int[Array, "steps b"], Bool[Array, "steps b"]]:
    """Return the image indices of an epoch's batches and their mask, a function of (key, epoch) only.

    `count` is the number of images. Returns int32 [steps, b] with each index 0..count-1 exactly once where the mask,
    bool [steps, b], is True. It is False where the last batch is filled up, with the epoch's first images again.
    Without a key the order is the dataset's. With a `mesh` every batch is sharded over its devices, and padded with its
    own first images if they do not divide `batch_size`.

    >>> indices, mask = epoch_indices(jax.random.key(0), 0, 26, 6)
    >>> indices.shape, mask.sum(axis=1).tolist()
    ((5, 6), [6, 6, 6, 6, 2])
    """
    order = jnp.arange(count) if key is None else random_order(jax.random.fold_in(key, epoch), count)
    steps = -(-count // batch_size)
    shape = (steps, batch_size)
    indices = jnp.resize(order, shape).astype(jnp.int32)
    mask = (jnp.arange(steps * batch_size) < count).reshape(shape)
    if mesh is None:
        return indices, mask
    padding = -batch_size % mesh.size
    indices, mask = jnp.pad(indices, ((0, 0), (0, padding)), "wrap"), jnp.pad(mask, ((0, 0), (0, padding)))
    # The second constraint distributes the work: without it every device computes the whole batch. The first one keeps
    # the order on every device, where computing it takes less time than sending it.
    replicated = jax.lax.with_sharding_constraint((indices, mask), NamedSharding(mesh, P()))
    return jax.lax.with_sharding_constraint(replicated, NamedSharding(mesh, P(None, mesh.axis_names)))


@jax.jit
def take_batch(dataset: Dataset, indices: Int[ArrayLike, " b"], mask: Bool[ArrayLike, " b"]) -> Batch:
    """Return the batch of the images at the given indices, masked ones included.

    >>> import numpy as np
    >>> dataset = Dataset(np.zeros((5, 28, 28), np.uint8), np.arange(5, dtype=np.int32))
    >>> take_batch(dataset, jnp.array([4, 2]), jnp.array([True, True])).y
    Array([4, 2], dtype=int32)
    """
    images, labels = jax.tree.map(lambda array: jnp.asarray(array)[indices], (dataset.images, dataset.labels))
    return make_batch(images, labels, mask)


def map_batches(function: Callable[[Batch], Any], dataset: Dataset, batch_size: int, mesh: Mesh | None = None) -> Any:
    """Apply a function to a dataset batch by batch, in the dataset's order, as one compiled loop.

    `function` maps a Batch of b images to a pytree of arrays [b, ...]. It must treat every image by itself, since the
    last batch is padded. Returns the same pytree of arrays [n, ...], one row for each image. With a `mesh` every batch
    is sharded over its devices. Raises ValueError if `batch_size` is below 1.

    >>> import numpy as np
    >>> dataset = Dataset(np.full((5, 28, 28), 255, np.uint8), np.arange(5, dtype=np.int32))
    >>> map_batches(lambda batch: (batch.x.mean(axis=1), 2 * batch.y), dataset, batch_size=2)
    (Array([1., 1., 1., 1., 1.], dtype=float32), Array([0, 2, 4, 6, 8], dtype=int32))
    """
    check_batch_size(batch_size)
    if mesh is not None:
        batch_size += -batch_size % mesh.size  # so that no padding lies between the rows
    batch_indices = epoch_indices(None, 0, len(dataset), batch_size, mesh=mesh)
    with use_mesh(mesh):
        results = jax.lax.map(lambda indices: function(take_batch(dataset, *indices)), batch_indices)
    return jax.tree.map(lambda rows: rows.reshape(-1, *rows.shape[2:])[: len(dataset)], results)


def batches(
    dataset: Dataset, batch_size: int, key: PRNGKeyArray | None = None, epoch: Integer[ArrayLike, ""] | int = 0
) -> Iterator[Batch]:
    """Yield the batches of one epoch, all of the same size: the chapter's DataLoader.

    Without a key they come in the dataset's order, with a key in an order drawn from (key, epoch). The last batch is
    padded and its mask says so. Raises ValueError if `batch_size` is below 1, or if float pixels are in 0..255.

    >>> import numpy as np
    >>> dataset = Dataset(np.zeros((5, 28, 28), np.uint8), np.arange(5, dtype=np.int32))
    >>> [batch.y[batch.mask].tolist() for batch in batches(dataset, 2)]
    [[0, 1], [2, 3], [4]]
    """
    check_batch_size(batch_size)
    check_pixels(dataset.images)
    on_device = jax.device_put(dataset)
    indices, masks = epoch_indices(key, epoch, len(dataset), batch_size)
    for batch_indices, mask in zip(indices, masks, strict=True):
        yield take_batch(on_device, batch_indices, mask)


def use_mesh(mesh: Mesh | None) -> contextlib.AbstractContextManager[Any]:
    """Return a context in which functions that are traced know the mesh over which the batch is sharded, if any.

    Only convolutions and poolings ask for it, with `jax.sharding.get_abstract_mesh`; see `models/platforms.py`.
    """
    return contextlib.nullcontext() if mesh is None else jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def check_batch_size(batch_size: int) -> None:
    """Raise ValueError if a batch size is below 1."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more, got {batch_size}")
