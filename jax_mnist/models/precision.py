"""Mixed precision: a model that computes in another dtype than that of its parameters."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ..types import Model, Params


def mixed_precision(model: Model, dtype: Any = jnp.bfloat16) -> Model:
    """The model computing in `dtype`, while its parameters, their gradients and the logits keep their own.

    The logits come back in the dtype of x, so the loss is computed in it. Batch statistics stay as they are, since an
    average that moves by a hundredth a step would be lost in rounding; what follows them is then computed in float32,
    unless the `nnx.BatchNorm` has a dtype of its own. An accelerator multiplies bfloat16 faster than float32; a CPU
    mostly does not.

    >>> from jax_mnist import linear
    >>> model = mixed_precision(linear())
    >>> params = model.init(jax.random.key(0))
    >>> params[0].weights.dtype, model.apply(params, jnp.ones((2, 784))).dtype
    (dtype('float32'), dtype('float32'))
    """

    def lower(params: Params) -> Params:
        return jax.tree.map(lambda p: p.astype(dtype) if jnp.issubdtype(p.dtype, jnp.floating) else p, params)

    def lower_moved(params: Params, x: Float[Array, "b i"]) -> Params:
        if model.train is None:
            return lower(params)
        _, changes = jax.eval_shape(model.train, params, x, jax.random.key(0))
        return jax.tree.map(
            lambda new, old: lower(old) if new is None else old, changes, params, is_leaf=lambda leaf: leaf is None
        )

    def apply(params: Params, x: Float[Array, "b i"]) -> Any:
        return model.apply(lower_moved(params, x), x.astype(dtype)).astype(x.dtype)

    def train(params: Params, x: Float[Array, "b i"], key: PRNGKeyArray) -> tuple[Any, Any]:
        logits, changes = model.train(lower_moved(params, x), x.astype(dtype), key)  # pyright: ignore[reportOptionalCall]
        return logits.astype(x.dtype), changes

    return Model(model.init, apply, model.train and train)
