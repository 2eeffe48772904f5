"""One device, many, or many processes: the mesh, what lies where on it, and how a batch is fetched from there."""

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import NamedSharding, P
from jax.sharding import AxisType, Mesh
from jaxtyping import Array, Bool, Int

from ..types import ArrayLike, Dataset

_AXIS = "data"

Tree = TypeVar("Tree")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class ShardedDataset:
    """A Dataset in equal shares on the devices of a mesh, blank images making up the last ones.

    `images` uint8 [n', h, w] and `labels` int32 [n'] are split along their first axis; `len()` counts the images
    that are real, which come first.
    """

    images: Any
    labels: Any
    count: int = dataclasses.field(metadata={"static": True})
    mesh: Mesh = dataclasses.field(metadata={"static": True})

    def __len__(self) -> int:
        return self.count


def data_mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh of one axis, "data", over these devices: by default all there are, those of other processes included.

    Raises ValueError for no devices.

    >>> data_mesh(jax.devices()[:1]).shape["data"]
    1
    """
    devices = jax.devices() if devices is None else devices
    if not devices:
        raise ValueError("a mesh needs one device or more")
    return jax.make_mesh((len(devices),), (_AXIS,), axis_types=(AxisType.Auto,), devices=tuple(devices))


def replicate(tree: Tree, mesh: Mesh | None) -> Tree:
    """The same pytree with every array whole on each device of the mesh; without a mesh as it is.

    In several processes all must call it, with the same values.

    >>> replicate({"weights": np.ones(3)}, data_mesh())["weights"].is_fully_replicated
    True
    """
    return tree if mesh is None else _place(tree, mesh, P())


def split(tree: Tree, mesh: Mesh | None) -> Tree:
    """The same pytree with every array split along its first axis, which the number of devices must divide.

    >>> split(np.ones((2, 3)), data_mesh(jax.devices()[:1])).sharding.spec
    P('data',)
    """
    return tree if mesh is None else _place(tree, mesh, P(_AXIS))


def to_local(tree: Tree) -> Tree:
    """The same pytree with every array, whole on each device, on one of this process alone.

    What other processes hold a part of cannot be saved or computed with by one of them.

    >>> weights = replicate(np.ones(3), data_mesh())
    >>> to_local({"weights": weights})["weights"].devices() == {jax.local_devices()[0]}
    True
    """
    return jax.tree.map(lambda leaf: leaf.addressable_data(0) if isinstance(leaf, jax.Array) else leaf, tree)


def _place(tree: Tree, mesh: Mesh, spec: P) -> Tree:
    # Not jax.device_put, which takes no random keys to devices of other processes.
    return jax.jit(_identity, out_shardings=NamedSharding(mesh, spec))(tree)


def _identity(tree: Any) -> Any:
    return tree


def shard_dataset(dataset: Dataset, mesh: Mesh | None) -> Dataset | ShardedDataset:
    """The dataset on the devices: a share on each of the mesh, or all of it on one without a mesh.

    In several processes each gives the whole dataset and puts onto its devices their shares alone.

    >>> from jax_mnist import load
    >>> len(shard_dataset(load("mnist_sample").valid, data_mesh()))
    2038
    """
    if mesh is None:
        return jax.device_put(dataset)
    images, labels = (_split_rows(np.asarray(array), mesh) for array in (dataset.images, dataset.labels))
    return ShardedDataset(images, labels, len(dataset), mesh)


def _split_rows(array: np.ndarray, mesh: Mesh) -> Array:
    rows = len(array) + -len(array) % mesh.size

    def share(index: Any) -> np.ndarray:
        found = array[index]
        missing = len(range(*index[0].indices(rows))) - len(found)
        return np.pad(found, [(0, missing), *[(0, 0)] * (array.ndim - 1)])

    return jax.make_array_from_callback((rows, *array.shape[1:]), NamedSharding(mesh, P(_AXIS)), share)


def take_sharded(
    dataset: ShardedDataset, indices: Int[ArrayLike, " b"], mask: Bool[ArrayLike, " b"]
) -> tuple[Array, Array, Array]:
    """The images, labels and mask at the given places, split along the batch.

    A batch that the devices do not divide is filled up with its first places, whose mask is False there. Every
    device looks up what it has of the whole batch, and the sum of what they found is scattered over them: per batch,
    one image's bytes travel for each image.

    >>> from jax_mnist import load
    >>> dataset = shard_dataset(load("mnist_sample").valid, data_mesh())
    >>> take_sharded(dataset, jnp.array([0, 2037]), jnp.array([True, True]))[1].tolist()
    [1, 0]
    """
    mesh = dataset.mesh
    missing = -len(indices) % mesh.size
    indices = jnp.resize(jnp.asarray(indices), (len(indices) + missing,))
    mask = jnp.pad(jnp.asarray(mask), (0, missing))
    rows = P(_AXIS)
    look_up = jax.shard_map(_look_up, mesh=mesh, in_specs=(rows, P()), out_specs=rows)
    images, labels = look_up((dataset.images, dataset.labels), indices)
    return images, labels, jax.lax.with_sharding_constraint(mask, NamedSharding(mesh, rows))


def _look_up(shares: tuple[Array, Array], indices: Array) -> tuple[Array, Array]:
    images, labels = shares
    places = indices - jax.lax.axis_index(_AXIS) * len(labels)
    here = (places >= 0) & (places < len(labels))
    images = jnp.where(here[:, None, None], images.at[places].get(mode="clip"), 0)
    labels = jnp.where(here, labels.at[places].get(mode="clip"), 0)
    return jax.lax.psum_scatter((images, labels), _AXIS, tiled=True)
