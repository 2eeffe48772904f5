"""A Flax NNX module as a Model: split when it is initialized, merged when it is applied."""

import inspect
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from ..types import Model, Params
from .conv import Conv, conv_general_dilated, max_pool

_STREAMS = nnx.RngState
_HELD = nnx.Not(nnx.Any(_STREAMS, nnx.Intermediate))


def from_flax(make: Callable[[nnx.Rngs], nnx.Module], input_shape: Sequence[int] | None = None) -> Model:
    """A Flax NNX module of one's own as a Model.

    `make(rngs)` builds it. Its call takes x float [b, h*w*c] with pixels in [0, 1], or, with `input_shape`,
    `x [b, *input_shape]`, such as (28, 28, 1) for convolutions; it may name `rngs`, which it gets while it trains, and
    needs no other argument. Parameters are a plain nested dict, as from `nnx.to_pure_dict`.

    Dropout and batch statistics work as after `module.train()` in a step and as after `module.eval()` elsewhere. The
    statistics are those of the whole batch, over all devices; where the images do not fill the last batch, the epoch's
    first ones do, in the statistics alone. They lie among the parameters, where a step overwrites them and, as with all
    that is no `nnx.Param`, no gradient reaches them. An `nnx.Conv` is computed by `conv2d`, which a CPU runs faster,
    where `conv2d` has what it asks for.

    Raises ValueError for a module that holds arrays that are no `nnx.Variable` or no floats, beside those that count
    random numbers; and in a step for one that writes an `nnx.Param` while it is called, as `nnx.SpectralNorm` does.

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
        raise ValueError(f"give what makes the module, such as lambda rngs: Net(rngs), not a {type(make).__name__}")
    graph, held, streams = jax.eval_shape(lambda: _split(make(nnx.Rngs(0))))
    _check_floats(held)
    fixed = nnx.to_pure_dict(nnx.map_state(lambda path, variable: not isinstance(variable, nnx.Param), held))
    paths = {path for path, _ in nnx.to_flat_state(held)}
    call = getattr(nnx.merge(graph, held, streams), "__call__", None)  # noqa: B004, its signature is what is asked
    takes_rngs = call is not None and "rngs" in inspect.signature(call).parameters

    def init(key: PRNGKeyArray) -> Params:
        return nnx.to_pure_dict(nnx.state(make(nnx.Rngs(key)), _HELD))

    def merge(params: Params, key: PRNGKeyArray) -> Any:
        moved = jax.tree.map(lambda fixed, leaf: lax.stop_gradient(leaf) if fixed else leaf, fixed, params)
        return nnx.merge(graph, moved, _seeded(streams, key))

    def shaped(x: Float[Array, "b i"]) -> Array:
        return x if input_shape is None else x.reshape(x.shape[0], *input_shape)

    def apply(params: Params, x: Float[Array, "b i"]) -> Any:
        module = merge(params, jax.random.key(0))
        module.eval()
        return module(shaped(x))

    def train(params: Params, x: Float[Array, "b i"], key: PRNGKeyArray) -> tuple[Any, Params]:
        streams_key, call_key = jax.random.split(key)
        module = merge(params, streams_key)
        module.train()
        logits = module(shaped(x), **({"rngs": nnx.Rngs(call_key)} if takes_rngs else {}))
        after = nnx.to_pure_dict(nnx.state(module, lambda path, _: tuple(path) in paths))
        return logits, jax.tree_util.tree_map_with_path(_change, fixed, params, after)

    differs = takes_rngs or any(jax.tree.leaves(fixed)) or jax.tree.leaves(streams)
    return Model(init, apply, train if differs else None)


def _split(module: Any) -> tuple[Any, Any, Any]:
    """The module's structure, with fast convolutions, its parameters and statistics, and its random streams."""
    if not isinstance(module, nnx.Module):
        raise ValueError(f"a Flax NNX module is needed, not a {type(module).__name__}")
    parts = list(nnx.iter_modules(module))
    for _, part in parts:
        if isinstance(part, nnx.Conv) and part.conv_general_dilated is lax.conv_general_dilated:
            part.conv_general_dilated = conv_general_dilated
    graph, held, streams, _ = nnx.split(module, _HELD, _STREAMS, ...)
    # Flax takes a traced array that is no variable for a constant of the structure, which would outlive its trace.
    found = {path for path, _ in nnx.to_flat_state(held)}
    arrays = [(*path, name) for path, part in parts for name, leaf in vars(part).items() if isinstance(leaf, jax.Array)]
    if plain := [".".join(map(str, path)) for path in arrays if path not in found]:
        raise ValueError(
            f"the module holds arrays that are no nnx.Variable: {', '.join(plain)}; make them nnx.Variable"
        )
    return graph, held, streams


def _check_floats(held: Any) -> None:
    others = [
        f"{jax.tree_util.keystr(path, simple=True, separator='.')} ({leaf.dtype})"
        for path, leaf in jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(held))
        if not jnp.issubdtype(leaf.dtype, jnp.floating)
    ]
    if others:
        raise ValueError(f"a Model's parameters and statistics are floats; the module holds {', '.join(others)}")


def _seeded(streams: Any, key: PRNGKeyArray) -> Any:
    """The module's random streams from their start, each with a key of its own."""
    leaves, structure = jax.tree.flatten(streams)
    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(structure, [_seeded_leaf(leaf, keys[i]) for i, leaf in enumerate(leaves)])


def _seeded_leaf(leaf: Any, key: PRNGKeyArray) -> Array:
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.random.split(key, leaf.shape) if is_key else jnp.zeros(leaf.shape, leaf.dtype)


def _change(path: Any, fixed: bool, before: Array, after: Array) -> Array | None:
    if not fixed and after is not before:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        raise ValueError(f"the module writes its parameter {name} while it is called, which a Model cannot carry")
    return after.astype(before.dtype) if fixed else None


class Mlp(nnx.Module):
    """Linear layers with ReLUs between: x [b, sizes[0]] -> logits [b, sizes[-1]]."""

    def __init__(self, sizes: Sequence[int], rngs: nnx.Rngs):
        self.layers = nnx.List(
            [nnx.Linear(i, o, param_dtype=jnp.result_type(float), rngs=rngs) for i, o in itertools.pairwise(sizes)]
        )

    def __call__(self, x: Float[Array, "*b i"]) -> Float[Array, "*b c"]:
        *hidden, last = self.layers
        for layer in hidden:
            x = nnx.relu(layer(x))
        return last(x)


class Cnn(nnx.Module):
    """Convolutions with max pooling and ReLU, then linear layers: x [b, h, w, c] -> logits [b, classes]."""

    def __init__(
        self,
        image_shape: Sequence[int],
        filters: Sequence[int],
        kernels: Sequence[int],
        hidden: Sequence[int],
        classes: int,
        padding: str,
        rngs: nnx.Rngs,
    ):
        options = {"padding": padding, "param_dtype": jnp.result_type(float), "rngs": rngs}
        sides = zip(itertools.pairwise((image_shape[2], *filters)), kernels, strict=True)
        self.convolutions = nnx.List([Conv(i, o, (k, k), **options) for (i, o), k in sides])
        height, width = (_pooled(side, kernels, padding) for side in image_shape[:2])
        self.dense = Mlp((height * width * filters[-1], *hidden, classes), rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b classes"]:
        for convolution in self.convolutions:
            x = nnx.relu(max_pool(convolution(x)))
        return self.dense(x.reshape(x.shape[0], -1))


def _pooled(side: int, kernels: Sequence[int], padding: str) -> int:
    """What convolutions, each with a pooling, leave of an image's side; 0 or less where nothing."""
    for kernel in kernels:
        side = (side - kernel + 1 if padding == "VALID" else side) // 2
    return side


def flax_mlp(sizes: Sequence[int]) -> Model:
    """The chapter's net as a Flax NNX module, as a Model: the same chain of layers as `mlp`, started as Flax does.

    Parameters are {"layers": {0: {"kernel": [i, o], "bias": [o]}, ...}}. Raises ValueError for sizes that make
    no layer.

    >>> import jax
    >>> flax_mlp((784, 30, 1)).init(jax.random.key(0))["layers"][0]["kernel"].shape
    (784, 30)
    """
    if len(sizes) < 2 or any(size < 1 for size in sizes):
        raise ValueError(f"sizes must hold two or more positive integers, such as (784, 30, 1), not {tuple(sizes)}")
    return from_flax(lambda rngs: Mlp(tuple(sizes), rngs))


def cnn(
    filters: Sequence[int] = (24, 32),
    kernels: Sequence[int] = (5, 3),
    hidden: Sequence[int] = (256,),
    classes: int = 10,
    image_shape: Sequence[int] = (28, 28, 1),
    padding: str = "SAME",
) -> Model:
    """A small convolutional net, as a Model: convolution, 2 x 2 max pooling and ReLU, again, then linear layers.

    Each of `filters` is a convolution's number of output channels and each of `kernels` the side of its kernel;
    `hidden` are the sizes of the linear layers before the last, which has `classes` outputs; `padding` is "SAME" or
    "VALID". x arrives flat, [b, h*w*c] for `image_shape` (h, w, c). With "VALID" the defaults are the net of the
    published recipe that reaches 99% in one epoch; how they are trained best, `docs/choices.md` says. Raises
    ValueError where nothing is left after the poolings, for sizes below 1, and for another padding.

    >>> import jax
    >>> params = cnn().init(jax.random.key(0))
    >>> params["convolutions"][0]["kernel"].shape, params["dense"]["layers"][0]["kernel"].shape
    ((5, 5, 1, 24), (1568, 256))
    """
    sizes = (*filters, *kernels, *hidden, classes, *image_shape)
    if not filters or len(filters) != len(kernels) or any(size < 1 for size in sizes) or len(image_shape) != 3:
        raise ValueError(
            f"cnn takes a kernel for each of its filters and positive sizes, not filters={filters}, kernels={kernels}, "
            f"hidden={hidden}, classes={classes}, image_shape={image_shape}"
        )
    if padding not in ("SAME", "VALID"):
        raise ValueError(f'padding must be "SAME" or "VALID", not {padding!r}')
    if _pooled(min(image_shape[:2]), kernels, padding) < 1:
        raise ValueError(
            f"{len(filters)} convolutions and poolings leave nothing of an image of {tuple(image_shape[:2])}"
        )
    options = (tuple(image_shape), tuple(filters), tuple(kernels), tuple(hidden), classes, padding)
    return from_flax(lambda rngs: Cnn(*options, rngs), tuple(image_shape))
