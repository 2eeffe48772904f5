"""Conversion of parameters to and from a PyTorch state_dict of NumPy arrays, without PyTorch."""

import inspect
import itertools
import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_mnist import Layer, flax_mlp, from_flax, from_state_dict, init_params, mlp, to_state_dict

SIZES = (784, 30, 1)


class Convolutions(nnx.Module):
    """Two convolutions and two dense layers whose names sort in forward order."""

    def __init__(self, rngs):
        self.conv1 = nnx.Conv(1, 4, (3, 3), rngs=rngs)
        self.conv2 = nnx.Conv(4, 6, (3, 3), strides=2, rngs=rngs)
        self.linear1 = nnx.Linear(6 * 14 * 14, 8, rngs=rngs)
        self.linear2 = nnx.Linear(8, 10, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.conv2(nnx.relu(self.conv1(x))))
        return self.linear2(nnx.relu(self.linear1(x.reshape(len(x), -1))))


class Twins(nnx.Module):
    """Two layers of equal shape whose names sort in reverse order."""

    def __init__(self, rngs):
        self.second = nnx.Linear(4, 4, rngs=rngs)
        self.first = nnx.Linear(4, 4, rngs=rngs)


def abstract_params(model):
    """Return the shapes and dtypes of the model's parameters."""
    return jax.eval_shape(model.init, jax.random.key(0))


def numbered(*shapes):
    """Return a random state_dict for weights of these shapes, with the names of an nn.Sequential with ReLUs."""
    rng = np.random.default_rng(0)
    return {
        f"{2 * i}.{name}": rng.normal(size=size).astype(np.float32)
        for i, shape in enumerate(shapes)
        for name, size in (("weight", shape), ("bias", shape[:1]))
    }


def assert_equal(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("make", [mlp, flax_mlp])
def test_dense_layers_are_transposed_and_round_trip(make):
    state_dict = numbered((30, 784), (1, 30))
    params = from_state_dict(state_dict, abstract_params(make(SIZES)))
    first, second = params if make is mlp else (Layer(p["kernel"], p["bias"]) for p in params["layers"].values())
    np.testing.assert_array_equal(first.weights, state_dict["0.weight"].T)
    np.testing.assert_array_equal(first.bias, state_dict["0.bias"])
    np.testing.assert_array_equal(second.weights, state_dict["2.weight"].T)
    assert_equal(to_state_dict(params), state_dict)
    assert list(to_state_dict(params)) == list(state_dict)


def test_ten_or_more_layers_round_trip_from_alphabetical_order():
    random, sizes = np.random.default_rng(0), [12, *[4] * 10, 1]
    layers = (Layer(random.normal(size=(i, o)), random.normal(size=o)) for i, o in itertools.pairwise(sizes))
    params = jax.tree.map(np.float32, tuple(layers))
    state_dict = to_state_dict(params)
    assert list(state_dict)[-2:] == ["20.weight", "20.bias"]
    alphabetical = dict(sorted(state_dict.items()))  # "10" comes before "2"
    assert_equal(from_state_dict(alphabetical, params), params)


def test_params_have_the_dtypes_of_like():
    like = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), init_params(jax.random.key(0), (3, 2)))
    params = from_state_dict(numbered((2, 3)), like)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.bfloat16.dtype}


def test_state_dict_arrays_are_writable_and_contiguous():
    assert all(
        array.flags.writeable and array.flags.c_contiguous
        for array in to_state_dict(mlp(SIZES).init(jax.random.key(0))).values()
    )


def test_convolutions_and_the_flattened_feature_map_are_reordered():
    model = from_flax(lambda rngs: Convolutions(rngs), (28, 28, 1))
    shapes = {"conv1": (4, 1, 3, 3), "conv2": (6, 4, 3, 3), "linear1": (8, 6 * 14 * 14), "linear2": (10, 8)}
    rng = np.random.default_rng(0)
    state_dict = {
        f"{layer}.{name}": rng.normal(size=size).astype(np.float32)
        for layer, shape in shapes.items()
        for name, size in (("weight", shape), ("bias", shape[:1]))
    }
    params = from_state_dict(state_dict, abstract_params(model))
    np.testing.assert_array_equal(params["conv2"]["kernel"][1, 2, 3, 5], state_dict["conv2.weight"][5, 3, 1, 2])
    h, w, c, o = 3, 9, 5, 7
    in_torch = state_dict["linear1.weight"][o, c * 14 * 14 + h * 14 + w]
    np.testing.assert_array_equal(params["linear1"]["kernel"][h * 14 * 6 + w * 6 + c, o], in_torch)
    assert_equal(to_state_dict(params), state_dict)

    as_sequential = dict(zip(shapes, ("0", "2", "5", "7"), strict=True))
    renamed = {f"{as_sequential[name.split('.')[0]]}.{name.split('.')[1]}": a for name, a in state_dict.items()}
    assert_equal(from_state_dict(renamed, abstract_params(model)), params)
    assert_equal(to_state_dict(params, names=as_sequential), renamed)


def test_feature_map_that_is_not_square_must_be_passed():
    like = {"conv": {"kernel": np.zeros((3, 3, 1, 2))}, "dense": {"kernel": np.zeros((2 * 3 * 4, 1))}}
    state_dict = {"0.weight": np.zeros((2, 1, 3, 3)), "2.weight": np.arange(24.0).reshape(1, 24)}
    with pytest.raises(ValueError, match=r"'2' takes 24 values .* 2 channels; expected 2 \* h \* w.*feature_map"):
        from_state_dict(state_dict, like)
    with pytest.raises(ValueError, match="feature_map"):
        from_state_dict(state_dict, like, feature_map=(4, 4))
    params = from_state_dict(state_dict, like, feature_map=(3, 4))
    np.testing.assert_array_equal(params["dense"]["kernel"][:3, 0], [0, 12, 1])
    assert_equal(to_state_dict(params, names={"conv": "0", "dense": "2"}, feature_map=(3, 4)), state_dict)
    kept = from_state_dict(state_dict, like, feature_map=[1, 1])
    np.testing.assert_array_equal(kept["dense"]["kernel"][:, 0], np.arange(24))


def test_single_layer_without_bias():
    like = {"kernel": np.zeros((3, 2), np.float32)}
    assert_equal(to_state_dict(like), {"weight": np.zeros((2, 3), np.float32)})
    assert from_state_dict({"weight": np.ones((2, 3))}, like)["kernel"].shape == (3, 2)
    with pytest.raises(ValueError, match=r"unexpected bias; .*weight"):
        from_state_dict({"weight": np.ones((2, 3)), "bias": np.ones(2)}, like)


def test_ambiguous_layers_need_names():
    like = abstract_params(from_flax(lambda rngs: Twins(rngs)))
    state_dict = numbered((4, 4), (4, 4))
    with pytest.raises(ValueError, match=r"'first' and 'second' have the same shape.*names="):
        from_state_dict(state_dict, like)
    params = from_state_dict(state_dict, like, names={"second": "2", "first": "0"})
    np.testing.assert_array_equal(params["second"]["bias"], state_dict["2.bias"])
    own_names = {f"{'first' if name[0] == '0' else 'second'}{name[1:]}": array for name, array in state_dict.items()}
    assert_equal(from_state_dict(own_names, like), params)
    with pytest.raises(ValueError, match="names must map each of the layers"):
        from_state_dict(state_dict, like, names={"first": "0"})
    with pytest.raises(ValueError, match="names must map each of the layers"):
        to_state_dict(params, names={"first": "0", "second": "0"})


def test_layers_out_of_forward_order_need_names():
    params = {"body": {"kernel": np.zeros((3, 3, 1, 2))}, "a_head": {"kernel": np.zeros((8, 1))}}
    with pytest.raises(ValueError, match=r"'body' is a convolution after a dense layer.*names="):
        to_state_dict(params)
    assert to_state_dict(params, names={"body": "0", "a_head": "2"})["2.weight"].shape == (1, 8)
    with pytest.raises(ValueError, match=r"'wide' takes 784 values, .* 10; .*names="):
        to_state_dict({"head": {"kernel": np.zeros((30, 10))}, "wide": {"kernel": np.zeros((784, 30))}})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("2.bias"), r"has no 2\.bias \[1\]; it holds 0\.weight, 0\.bias, 2\.weight"),
        (lambda d: d.pop("0.weight"), r"has no 0\.weight \[30, 784\]"),
        (lambda d: d.update({"2.scale": np.ones(1)}), r"unexpected 2\.scale; .*0\.weight"),
        (lambda d: d.update({"0.weight": np.ones((784, 30))}), r"0\.weight must be \[30, 784\], got \[784, 30\]"),
        (lambda d: d.update({"2.bias": np.ones(())}), r"2\.bias must be \[1\], got \[\]"),
        (lambda d: d.update({"2.bias": np.array(["x"])}), r"2\.bias must be .* numeric array, got ndarray"),
        (lambda d: d.update({"4.weight": np.ones((1, 1))}), r"holds 3 layers \(0, 2, 4\); expected 2.*\[784, 30\]"),
        (lambda d: d.clear(), r"holds 0 layers .*expected 2"),
    ],
)
def test_state_dict_that_does_not_fit_raises_with_the_entry(change, message):
    state_dict = numbered((30, 784), (1, 30))
    change(state_dict)
    with pytest.raises(ValueError, match=message):
        from_state_dict(state_dict, abstract_params(mlp(SIZES)))


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (lambda d: {"epoch": 3, "state_dict": d}, r"got \{'epoch': 'int', .*; give checkpoint\['state_dict'\]$"),
        (
            lambda d: {"model": d, "optimizer": {"state": {}, "param_groups": []}},
            r"got .*; give checkpoint\['model'\]$",
        ),
        (
            lambda d: {"state_dict": {f"model.{n}": a for n, a in d.items()}},
            r"got .*; give checkpoint\['state_dict'\]$",
        ),
        (lambda d: {**d, "step": 3}, r"got \{'step': 'int'\}$"),
        (lambda d: {"epoch": 3}, r"got \{'epoch': 'int'\}$"),
        (lambda d: list(d.items()), "got list$"),
        (lambda d: SimpleNamespace(state_dict=lambda: d), r"got SimpleNamespace; give module\.state_dict\(\)$"),
    ],
)
def test_what_holds_a_state_dict_is_refused_with_what_to_give(wrap, message):
    unchecked = inspect.unwrap(from_state_dict)  # without the tests' own check of argument types
    with pytest.raises(ValueError, match=r"state_dict must map names to tensors or arrays, " + message):
        unchecked(wrap(numbered((30, 784), (1, 30))), abstract_params(mlp(SIZES)))


def test_parameters_without_pytorch_equivalent_raise():
    with pytest.raises(ValueError, match=r"layers .* got norm\.scale"):
        to_state_dict({"norm": {"scale": np.ones(3), "bias": np.ones(3)}})
    with pytest.raises(ValueError, match=r"layer 'conv' must have weights .*, got weight \[3, 1, 2\]"):
        to_state_dict({"conv": {"kernel": np.ones((3, 1, 2))}})
    with pytest.raises(ValueError, match="layer 'norm' must have weights"):
        to_state_dict({"norm": {"bias": np.ones(3)}})


@pytest.mark.slow
def test_conversion_does_not_import_torch():
    code = "import jax_mnist.export.pytorch, sys; assert not {'torch', 'flax'} & set(sys.modules), 'imported'"
    subprocess.run([sys.executable, "-c", code], check=True)
