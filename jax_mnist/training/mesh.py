"""Device mesh and data placement: data parallelism over one process's devices or many processes'.

The dataset and the state are replicated: MNIST is 47 MB, and every process reads it anyway. Only batches are sharded
(see `epoch_indices`), so that a step communicates once, in the all-reduce of the gradients.
"""

from collections.abc import Sequence
from typing import Any, TypeVar

import jax
from jax import NamedSharding, P
from jax.sharding import AxisType, Mesh

Tree = TypeVar("Tree")


def data_mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """Return a mesh of one axis, "data", over the given devices, by default all devices of all processes.

    Raises ValueError if there are no devices.

    >>> data_mesh(jax.devices()[:1]).shape["data"]
    1
    """
    devices = jax.devices() if devices is None else devices
    if not devices:
        raise ValueError("a mesh must have at least 1 device, got 0")
    return jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=tuple(devices))


def platform_of(mesh: Mesh | None) -> str:
    """Return "cpu", "gpu" or "tpu": the platform of the mesh's devices, or without a mesh that of the default backend.

    >>> platform_of(data_mesh()) == platform_of(None)
    True
    """
    return jax.default_backend() if mesh is None else mesh.devices.flat[0].platform


def replicate(tree: Tree, mesh: Mesh | None) -> Tree:
    """Put every array of a pytree whole on each device of the mesh, or on the default device without a mesh.

    With several processes all of them must call it with the same values.

    >>> import numpy as np
    >>> replicate({"weights": np.ones(3)}, data_mesh())["weights"].is_fully_replicated
    True
    """
    return jax.device_put(tree) if mesh is None else _put(tree, NamedSharding(mesh, P()))


def shard(tree: Tree, mesh: Mesh | None) -> Tree:
    """Split every array of a pytree along its first axis, whose length the number of devices must divide.

    >>> import numpy as np
    >>> shard(np.ones((2, 3)), data_mesh(jax.devices()[:1])).sharding.shard_shape((2, 3))
    (2, 3)
    """
    return tree if mesh is None else _put(tree, NamedSharding(mesh, P(mesh.axis_names)))


def to_local(tree: Tree) -> Tree:
    """Return every replicated array of a pytree as an array on one device of this process.

    A single process cannot save or compute with arrays that are not fully addressable.

    >>> import numpy as np
    >>> weights = replicate(np.ones(3), data_mesh())
    >>> to_local({"weights": weights})["weights"].devices() == {jax.local_devices()[0]}
    True
    """
    return jax.tree.map(lambda leaf: leaf.addressable_data(0) if isinstance(leaf, jax.Array) else leaf, tree)


def _put(tree: Tree, sharding: NamedSharding) -> Tree:
    # Not jax.device_put, which cannot put PRNG keys on devices of other processes.
    return jax.jit(_identity, out_shardings=sharding)(tree)


def _identity(tree: Any) -> Any:
    return tree
