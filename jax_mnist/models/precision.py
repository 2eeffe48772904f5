"""Mixed precision: a model that computes in another dtype than that of its parameters."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..types import Model, Params


def mixed_precision(model: Model, dtype: Any = jnp.bfloat16) -> Model:
    """The model computing in `dtype`, while its parameters, their gradients and the scores keep their own.

    The scores come back in the dtype of x, so the loss is computed in it. An accelerator multiplies bfloat16 faster
    than float32; a CPU mostly does not.

    >>> from jax_mnist import linear
    >>> model = mixed_precision(linear())
    >>> params = model.init(jax.random.key(0))
    >>> params[0].weights.dtype, model.apply(params, jnp.ones((2, 784))).dtype
    (dtype('float32'), dtype('float32'))
    """

    def apply(params: Params, x: Float[Array, "b i"]) -> Any:
        lower = jax.tree.map(lambda p: p.astype(dtype) if jnp.issubdtype(p.dtype, jnp.floating) else p, params)
        return model.apply(lower, x.astype(dtype)).astype(x.dtype)

    return Model(model.init, apply)
