"""Flax NNX modules as Models: the MLP, a convolutional net, and any module of the user's."""

import functools
import inspect
import itertools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray, Shaped

from ..chapter.from_scratch import check_sizes
from ..types import ArrayLike, Model, Params
from .batch_last import Window, convolve_and_pool
from .conv import conv_general_dilated

Activation = Callable[[Array], Array]
"""A function of every number of an array, such as `nnx.relu`."""

_STREAMS = nnx.RngState
_PARAMS = nnx.Not(nnx.Any(_STREAMS, nnx.Intermediate))


def from_flax(make: Callable[[nnx.Rngs], nnx.Module], input_shape: Sequence[int] | None = None) -> Model:
    """Wrap a Flax NNX module as a Model.

    `make(rngs)` builds the module. Its call takes x float [b, h*w*c] with pixels in [0, 1], or, with `input_shape`,
    `x [b, *input_shape]`, such as (28, 28, 1) for convolutions. It may have a parameter `rngs`, which is passed while
    training, and must need no other argument. The Model's parameters are a plain nested dict, as from
    `nnx.to_pure_dict`. An `nnx.Conv` is computed by `conv2d`, which is faster on a CPU, if `conv2d` supports its
    options. The same `make` and `input_shape` return the same Model, so that it compiles once.

    Dropout and batch statistics work as after `module.train()` in a training step and as after `module.eval()`
    elsewhere. The statistics are those of the whole batch, over all devices. If the images do not fill the last batch,
    it is padded with the epoch's first images, and if the devices do not divide a batch, with its own first images;
    padding affects batch statistics only. The statistics are stored among the parameters: a step overwrites them, and
    no gradient reaches them or any other variable that is not an `nnx.Param`.

    Raises ValueError if the module holds arrays that are not an `nnx.Variable` or not float, RNG counters excepted, and
    in a step if the module writes to an `nnx.Param` while it is called, as `nnx.SpectralNorm` does.

    >>> class Net(nnx.Module):
    ...     def __init__(self, rngs):
    ...         self.hidden, self.out = nnx.Linear(784, 30, rngs=rngs), nnx.Linear(30, 10, rngs=rngs)
    ...         self.norm, self.dropout = nnx.BatchNorm(30, rngs=rngs), nnx.Dropout(0.1, rngs=rngs)
    ...
    ...     def __call__(self, x):
    ...         return self.out(self.dropout(nnx.relu(self.norm(self.hidden(x)))))
    >>> model = from_flax(Net)
    >>> params = model.init(jax.random.key(0))
    >>> model.apply(params, jnp.zeros((2, 784))).shape, sorted(params["norm"])
    ((2, 10), ['bias', 'mean', 'scale', 'var'])
    """
    if isinstance(make, nnx.Module):
        raise ValueError(f"make must build the module, such as lambda rngs: Net(rngs), got a {type(make).__name__}")
    return _from_flax(make, None if input_shape is None else tuple(input_shape))


@functools.cache
def _from_flax(make: Callable[[nnx.Rngs], nnx.Module], input_shape: tuple[int, ...] | None) -> Model:
    graph, abstract_params, abstract_streams = jax.eval_shape(lambda: _split(make(nnx.Rngs(0))))
    _check_floats(abstract_params)
    is_statistic = nnx.to_pure_dict(
        nnx.map_state(lambda path, variable: not isinstance(variable, nnx.Param), abstract_params)
    )
    paths = {path for path, _ in nnx.to_flat_state(abstract_params)}
    module = nnx.merge(graph, abstract_params, abstract_streams)
    call = getattr(module, "__call__", None)  # noqa: B004, for its signature
    takes_rngs = call is not None and "rngs" in inspect.signature(call).parameters
    # Evaluation merges streams but draws nothing from them. Made here, outside any trace, they keep `apply` free of
    # random primitives, which exporters such as jax2onnx refuse.
    with jax.ensure_compile_time_eval():
        unused_streams = _seed_streams(abstract_streams, jax.random.key(0))

    @jax.jit
    def init(key: PRNGKeyArray) -> Params:
        return nnx.to_pure_dict(nnx.state(make(nnx.Rngs(key)), _PARAMS))

    def call_module(params: Params, x: ArrayLike, streams: Any, training: bool, **options: Any) -> tuple[Any, Any]:
        if not jnp.issubdtype(x.dtype, jnp.floating):  # Flax would compute with pixels in 0..255
            raise ValueError(
                f"x must be float [b, i] with pixels in [0, 1], got {x.dtype} {list(x.shape)}; "
                "make_batch(images).x converts images to this form"
            )
        params = jax.tree.map(lambda fixed, leaf: lax.stop_gradient(leaf) if fixed else leaf, is_statistic, params)
        module: Any = nnx.merge(graph, params, streams)
        module.train() if training else module.eval()
        return module(x if input_shape is None else x.reshape(x.shape[0], *input_shape), **options), (module, params)

    def apply(params: Params, x: Shaped[ArrayLike, "b i"]) -> Any:
        return call_module(params, x, unused_streams, training=False)[0]

    def apply_train(params: Params, x: Shaped[ArrayLike, "b i"], key: PRNGKeyArray) -> tuple[Any, Params]:
        streams_key, call_key = jax.random.split(key)
        options = {"rngs": nnx.Rngs(call_key)} if takes_rngs else {}
        streams = _seed_streams(abstract_streams, streams_key)
        logits, (module, before) = call_module(params, x, streams, training=True, **options)
        after = nnx.to_pure_dict(nnx.state(module, lambda path, _: tuple(path) in paths))
        return logits, jax.tree_util.tree_map_with_path(_update_of, is_statistic, before, after)

    differs = takes_rngs or any(jax.tree.leaves(is_statistic)) or jax.tree.leaves(abstract_streams)
    return Model(init, apply, apply_train if differs else None)


def _split(module: Any) -> tuple[Any, Any, Any]:
    """Return the module's graph with fast convolutions, its parameters and statistics, and its random streams."""
    if not isinstance(module, nnx.Module):
        raise ValueError(f"make must return a Flax NNX module, got a {type(module).__name__}")
    parts = list(nnx.iter_modules(module))
    for _, part in parts:
        if isinstance(part, nnx.Conv) and part.conv_general_dilated is lax.conv_general_dilated:
            part.conv_general_dilated = conv_general_dilated
    graph, params, streams, _ = nnx.split(module, _PARAMS, _STREAMS, ...)
    # Flax takes a traced array that is not a variable for a constant of the graph, which would outlive its trace.
    found = {path for path, _ in nnx.to_flat_state(params)}
    arrays = [(*path, name) for path, part in parts for name, leaf in vars(part).items() if isinstance(leaf, jax.Array)]
    if plain := [".".join(map(str, path)) for path in arrays if path not in found]:
        raise ValueError(f"the module's arrays must be nnx.Variable, got plain arrays: {', '.join(plain)}")
    return graph, params, streams


def _check_floats(params: Any) -> None:
    others = [
        f"{jax.tree_util.keystr(path, simple=True, separator='.')} ({leaf.dtype})"
        for path, leaf in jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(params))
        if not jnp.issubdtype(leaf.dtype, jnp.floating)
    ]
    if others:
        raise ValueError(f"the module's parameters and statistics must be float, got {', '.join(others)}")


def _seed_streams(streams: Any, key: PRNGKeyArray) -> Any:
    """Return the module's random streams at their start, each with its own key."""
    leaves, structure = jax.tree.flatten(streams)
    keys = jax.random.split(key, len(leaves)) if leaves else ()
    seeded = [
        jax.random.split(key, leaf.shape)
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        else jnp.zeros(leaf.shape, leaf.dtype)  # a stream's counter
        for leaf, key in zip(leaves, keys, strict=True)
    ]
    return jax.tree.unflatten(structure, seeded)


def _update_of(path: Any, is_statistic: bool, before: Array, after: Array) -> Array | None:
    if not is_statistic and after is not before:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        raise ValueError(f"the module must not write to its parameter {name} while it is called")
    return after.astype(before.dtype) if is_statistic else None


class Mlp(nnx.Module):
    """Linear layers with an activation between them: x [b, sizes[0]] -> logits [b, sizes[-1]]."""

    def __init__(self, sizes: Sequence[int], rngs: nnx.Rngs, activation: Activation = nnx.relu):
        dtype = jnp.result_type(float)  # float64 if JAX's x64 mode is on when the parameters are made
        self.layers = nnx.List([nnx.Linear(i, o, param_dtype=dtype, rngs=rngs) for i, o in itertools.pairwise(sizes)])
        self.activation = activation

    def __call__(self, x: Float[Array, "*b i"]) -> Float[Array, "*b c"]:
        *hidden, last = self.layers
        for layer in hidden:
            x = self.activation(layer(x))
        return last(x)


class Cnn(nnx.Module):
    """Convolutions with max pooling, then linear layers: x [b, h, w, c] -> logits [b, classes]."""

    def __init__(
        self,
        convolutions: Sequence[tuple[int, int, Window]],
        hidden: Sequence[int],
        classes: int,
        image_shape: Sequence[int],
        activation: Activation,
        rngs: nnx.Rngs,
    ):
        dtype = jnp.result_type(float)
        # Only their parameters are used: `convolve_and_pool` computes the convolutions.
        layers, (height, width, channels) = [], image_shape
        for filters, kernel, window in convolutions:
            layers.append(nnx.Conv(channels, filters, (kernel, kernel), param_dtype=dtype, rngs=rngs))
            height, width, channels = window.outputs(height, kernel), window.outputs(width, kernel), filters
        self.convolutions = nnx.List(layers)
        self.windows = tuple(window for *_, window in convolutions)
        self.dense = Mlp((height * width * channels, *hidden, classes), rngs, activation)
        self.activation = activation

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b classes"]:
        x = x.transpose(3, 1, 2, 0)  # batch last, until the dense layers
        for layer, window in zip(self.convolutions, self.windows, strict=True):
            x = convolve_and_pool(window, x, layer.kernel[...]) + layer.bias[...].reshape(-1, 1, 1, 1)
            x = self.activation(x)
        return self.dense(x.transpose(3, 1, 2, 0).reshape(x.shape[3], -1))


def flax_mlp(sizes: Sequence[int]) -> Model:
    """Return the MLP as a Flax NNX module: the layers of `mlp`, initialized as Flax does.

    Parameters are {"layers": {0: {"kernel": [i, o], "bias": [o]}, ...}}. The same sizes return the same Model, so that
    it compiles once. Raises ValueError if the sizes make no layer.

    >>> flax_mlp((784, 30, 1)).init(jax.random.key(0))["layers"][0]["kernel"].shape
    (784, 30)
    """
    sizes = tuple(map(operator.index, sizes))
    check_sizes(sizes)
    return _flax_mlp(sizes)


@functools.cache
def _flax_mlp(sizes: tuple[int, ...]) -> Model:
    return from_flax(functools.partial(Mlp, sizes))


def cnn(
    filters: Sequence[int] = (24, 64, 96),
    kernels: Sequence[int] | None = None,
    *,
    strides: Sequence[int] | None = None,
    pools: Sequence[int] | None = None,
    hidden: Sequence[int] = (),
    classes: int = 10,
    image_shape: Sequence[int] = (28, 28, 1),
    padding: str = "VALID",
    activation: Activation = nnx.hard_swish,
) -> Model:
    """Return a small convolutional net: convolutions with max pooling, then linear layers.

    `filters` are the numbers of output channels of the convolutions. For each of them, `kernels` has the side of the
    kernel, by default 5, 4, 3, 3 and so on, `strides` its stride, by default 1, 2, 1, 1, and `pools` the side of the
    max pooling after it, by default 2, 1, 1, where 1 is none. `padding` is "SAME" or "VALID", for all of them. `hidden`
    are the sizes of the linear layers before the last one, which has `classes` outputs. `activation` follows every
    layer but the last. x is flat, [b, h*w*c] for `image_shape` (h, w, c). The same arguments return the same Model, so
    that it compiles once. `docs/hyperparameters.md` says how the defaults were chosen and how they are trained best.
    Raises ValueError if nothing is left after the convolutions, for sizes below 1, and for another padding.

    >>> params = cnn().init(jax.random.key(0))
    >>> params["convolutions"][0]["kernel"].shape, params["dense"]["layers"][0]["kernel"].shape
    ((5, 5, 1, 24), (864, 10))
    """
    count = len(filters)
    kernels = (5, 4, *[3] * count)[:count] if kernels is None else kernels
    strides = (1, 2, *[1] * count)[:count] if strides is None else strides
    pools = (2, *[1] * count)[:count] if pools is None else pools
    filters, kernels, strides, pools, hidden, image_shape = (
        tuple(map(operator.index, sizes)) for sizes in (filters, kernels, strides, pools, hidden, image_shape)
    )
    sizes = (*filters, *kernels, *strides, *pools, *hidden, classes, *image_shape)
    lengths = {len(filters), len(kernels), len(strides), len(pools)}
    if not filters or len(lengths) != 1 or any(size < 1 for size in sizes) or len(image_shape) != 3:
        raise ValueError(
            "cnn must have one kernel, stride and pool for each of its filters and positive sizes, got "
            f"filters={filters}, kernels={kernels}, strides={strides}, pools={pools}, hidden={hidden}, "
            f"classes={classes}, image_shape={image_shape}"
        )
    if padding not in ("SAME", "VALID"):
        raise ValueError(f'padding must be "SAME" or "VALID", got {padding!r}')
    windows = [Window(stride, pool, padding) for stride, pool in zip(strides, pools, strict=True)]
    side = min(image_shape[:2])
    for kernel, window in zip(kernels, windows, strict=True):
        side = window.outputs(side, kernel)
        if side < 1:
            raise ValueError(f"{count} convolutions and poolings leave nothing of an image of {image_shape[:2]}")
    return _cnn(tuple(zip(filters, kernels, windows, strict=True)), hidden, int(classes), image_shape, activation)


@functools.cache
def _cnn(*arguments: Any) -> Model:
    image_shape = arguments[3]
    return from_flax(functools.partial(Cnn, *arguments), image_shape)
