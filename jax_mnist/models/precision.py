"""The precision in which a model computes: that of its matrix products, or another dtype for all of it."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray, Shaped

from ..types import ArrayLike, Model, Params


def mixed_precision(model: Model, dtype: Any = jnp.bfloat16) -> Model:
    """Return a model that computes in `dtype`, while its parameters, their gradients and the logits keep their dtypes.

    The logits have the dtype of x, so the loss is computed in it. Batch statistics keep their dtype, since bfloat16
    would round away a running mean's small steps; layers after them then compute in float32, unless the `nnx.BatchNorm`
    has a dtype of its own. An accelerator multiplies bfloat16 faster than float32; a CPU mostly does not. The same
    arguments return the same Model, so that it compiles once.

    >>> from jax_mnist import linear
    >>> model = mixed_precision(linear())
    >>> params = model.init(jax.random.key(0))
    >>> params[0].weights.dtype, model.apply(params, jnp.ones((2, 784))).dtype
    (dtype('float32'), dtype('float32'))
    """
    return _mixed_precision(model, jnp.dtype(dtype))


@functools.cache
def _mixed_precision(model: Model, dtype: Any) -> Model:
    def cast(params: Params) -> Params:
        return jax.tree.map(lambda p: p.astype(dtype) if jnp.issubdtype(p.dtype, jnp.floating) else p, params)

    def cast_trained(params: Params, x: Shaped[ArrayLike, "b i"]) -> Params:
        """Cast the parameters that the optimizer trains, not those that the model updates itself."""
        if model.apply_train is None:
            return cast(params)
        _, updates = jax.eval_shape(lambda *args: model.apply_train(*args, jax.random.key(0)), params, x)  # pyright: ignore[reportOptionalCall]
        return jax.tree.map(
            lambda new, old: cast(old) if new is None else old, updates, params, is_leaf=lambda leaf: leaf is None
        )

    def cast_input(x: ArrayLike) -> ArrayLike:
        return x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x  # the model refuses pixels in 0..255

    def apply(params: Params, x: Shaped[ArrayLike, "b i"]) -> Any:
        return model.apply(cast_trained(params, x), cast_input(x)).astype(x.dtype)

    def apply_train(params: Params, x: Shaped[ArrayLike, "b i"], key: PRNGKeyArray) -> tuple[Any, Any]:
        logits, updates = model.apply_train(cast_trained(params, x), cast_input(x), key)  # pyright: ignore[reportOptionalCall]
        return logits.astype(x.dtype), updates

    return Model(model.init, apply, model.apply_train and apply_train)


def matmul_precision(model: Model, precision: str) -> Model:
    """Return a model whose matrix products and convolutions, and their gradients, have this precision.

    `precision` is one of `jax.default_matmul_precision`, such as "highest". It matters for float32 on accelerators: by
    default a TPU rounds the inputs to bfloat16 and a recent NVIDIA GPU to TF32, with 8 and 11 significant bits. A CPU
    always multiplies in float32. The same arguments return the same Model, so that it compiles once.

    >>> from jax_mnist import linear
    >>> model = matmul_precision(linear(), "highest")
    >>> x = jnp.ones((2, 784))
    >>> "HIGHEST" in str(jax.make_jaxpr(model.apply)(model.init(jax.random.key(0)), x))
    True
    """
    return _matmul_precision(model, precision)


@functools.cache
def _matmul_precision(model: Model, precision: str) -> Model:
    def within(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            with jax.default_matmul_precision(precision):
                return function(*args)

        return call

    return Model(model.init, within(model.apply), model.apply_train and within(model.apply_train))
