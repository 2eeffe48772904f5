"""The choice between code for a CPU and code for other platforms, including a batch that is sharded over devices."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax import P, lax
from jax.sharding import AxisType
from jaxtyping import Array


@jax.jit(static_argnums=(0, 1, 2), static_argnames="batch_axis")
def per_platform(on_cpu: Callable, elsewhere: Callable, window: Any, *arrays: Array, batch_axis: int = 0) -> Array:
    """Return `on_cpu(window, *arrays)` on a CPU and `elsewhere(window, *arrays)` on other platforms.

    The axis `batch_axis` of the first array and of the result is that of the images.
    """

    # The choice is made when the program is lowered, so that one exported program serves every platform.
    def compute(*arrays: Array) -> Array:
        on_cpu_, elsewhere_ = functools.partial(on_cpu, window), functools.partial(elsewhere, window)
        return lax.platform_dependent(*arrays, cpu=on_cpu_, default=elsewhere_)

    # The batch may be sharded (see `use_mesh`). Each device then computes its own images. Otherwise the partitioner
    # would send all images to every device, since patches are cut from chunks of the batch, or lie side by side in one
    # matrix.
    mesh = jax.sharding.get_abstract_mesh()
    is_sharded = not mesh.empty and set(mesh.axis_types) == {AxisType.Auto}
    if not is_sharded or arrays[0].shape[batch_axis] % mesh.size:
        return compute(*arrays)
    images = P(*[None] * batch_axis, mesh.axis_names)
    specs = images, *[P()] * (len(arrays) - 1)
    return jax.shard_map(compute, in_specs=specs, out_specs=images, check_vma=False)(*arrays)
