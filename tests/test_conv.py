import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from marks import slow

from jax_mnist.models.conv import Conv, conv2d, max_pool

pytestmark = pytest.mark.usefixtures("strict")

# Channel counts with and without shared patches, and a batch size that is not a multiple of the chunk size.
GEOMETRIES = [
    (*options, *sizes)
    for options in itertools.product((1, 2), ("SAME", "VALID"))
    for sizes in [((3, 3), (3, 8, 8, 2)), ((4, 2), (3, 7, 9, 9))]
]
GEOMETRIES += [
    (1, "SAME", (5, 4), (2, 10, 7, 1)),
    (1, "SAME", (1, 1), (2, 5, 4, 1)),
    (3, ((2, 0), (1, 3)), (2, 3), (2, 6, 8, 3)),
    (1, "SAME", (3, 3), (11, 28, 28, 8)),
]
LIMIT = 1e-12


def lax_conv(x, kernel, *, stride=1, padding="SAME"):
    return lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def lax_pool(x, window=2):
    shape = (1, window, window, 1)
    return lax.reduce_window(x, np.array(-np.inf, x.dtype), lax.max, shape, shape, "VALID")


def normal(seed, shape, dtype=float):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def with_ties(shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape).round())


def assert_close(ours, theirs, limit=LIMIT):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.dtype == b.dtype
        a, b = (np.asarray(array.astype(float) if array.dtype == jnp.bfloat16 else array) for array in (a, b))
        np.testing.assert_allclose(a, b, rtol=0, atol=limit * max(1, np.abs(b).max()))


def derivatives(function, *arguments):
    """Return the value, the VJP of a random cotangent and the JVP of a random tangent."""
    value, pullback = jax.vjp(function, *arguments)
    tangents = tuple(normal(7, a.shape, a.dtype) for a in arguments)
    return value, pullback(normal(8, value.shape, value.dtype)), jax.jvp(function, arguments, tangents)[1]


def loss(convolution, pool, x, kernel):
    return jnp.sum(jnp.square(pool(jnp.sin(convolution(x, kernel)))))


def together(*functions):
    """Return one compiled program that returns the results of all functions: one compilation for both sides."""
    return jax.jit(lambda *arguments: [function(*arguments) for function in functions])


QUICK = [GEOMETRIES[3], GEOMETRIES[4], GEOMETRIES[8], GEOMETRIES[10]]
SLOW = [slow(*geometry) for geometry in GEOMETRIES if geometry not in QUICK]


@pytest.mark.parametrize(("stride", "padding", "kernel_size", "shape"), QUICK + SLOW)
def test_conv2d_value_gradients_and_jvp_match_jax_lax(x64, stride, padding, kernel_size, shape):
    x, kernel = normal(0, shape), normal(1, (*kernel_size, shape[-1], 3))
    convolutions = (functools.partial(function, stride=stride, padding=padding) for function in (conv2d, lax_conv))
    assert_close(*together(*(functools.partial(derivatives, function) for function in convolutions))(x, kernel))


@pytest.mark.parametrize(("stride", "second"), [(1, jax.jacfwd), (2, jax.jacrev)])
@pytest.mark.slow
def test_second_derivatives_match_jax_lax(x64, stride, second):
    arguments = normal(0, (2, 5, 6, 2)), normal(1, (3, 2, 2, 2))

    def hessian(convolution, pool):
        function = functools.partial(loss, functools.partial(convolution, stride=stride), pool)
        return second(jax.grad(function, (0, 1)), (0, 1))

    ours, theirs = together(hessian(conv2d, max_pool), hessian(lax_conv, lax_pool))(*arguments)
    assert max(np.abs(block).max() for block in jax.tree.leaves(ours)) > 0.1
    assert_close(ours, theirs)


@pytest.mark.parametrize("window", [2, *map(slow, (1, 3))])
def test_max_pool_and_its_derivatives_match_jax_lax_also_at_ties(x64, window):
    pools = (functools.partial(pool, window=window) for pool in (max_pool, lax_pool))
    found = together(*(functools.partial(derivatives, pool) for pool in pools))(with_ties((3, 7, 8, 4)))
    assert_close(*found, limit=0)


def test_tied_maxima_send_the_whole_gradient_to_the_first_in_row_major_order():
    tiles = jnp.array([[[0, 1], [1, 1]], [[0, 0], [2, 2]], [[3, 3], [3, 3]], [[0, 0], [0, 5]]], jnp.float32)
    gradient = jax.grad(lambda x: jnp.sum(max_pool(x)))(tiles[..., None])[..., 0]
    np.testing.assert_array_equal(gradient, [[[0, 1], [0, 0]], [[0, 0], [1, 0]], [[1, 0], [0, 0]], [[0, 0], [0, 1]]])


def test_max_pool_propagates_nan():
    x = jnp.zeros((1, 4, 4, 1)).at[0, 1, 0, 0].set(jnp.nan)
    np.testing.assert_array_equal(jnp.isnan(max_pool(x))[0, :, :, 0], [[True, False], [False, False]])


@pytest.mark.parametrize(("dtype", "limit"), [(jnp.float32, 1e-3), (jnp.bfloat16, 0.5)])
@pytest.mark.slow
def test_dtype_is_kept_and_rounding_is_no_worse_than_in_jax_lax(dtype, limit):
    x, kernel = normal(0, (16, 28, 28, 8), dtype), normal(1, (3, 3, 8, 4), dtype)

    def exact(x, kernel):
        return derivatives(lax_conv, x.astype(jnp.float32), kernel.astype(jnp.float32))

    sides = (functools.partial(derivatives, function) for function in (conv2d, lax_conv))
    for a, b, c in zip(*map(jax.tree.leaves, together(*sides, exact)(x, kernel)), strict=True):
        assert a.dtype == b.dtype == dtype
        error, others = (np.abs(np.asarray(value, np.float32) - np.asarray(c)).max() for value in (a, b))
        assert error <= limit + 2 * others
    assert max_pool(x).dtype == dtype


@pytest.mark.parametrize("shared", [slow(False), True])
def test_vmap_matches_a_loop(x64, shared):
    xs, kernels = normal(0, (3, 2, 8, 8, 2)), normal(1, (3, 3, 3, 2, 2))
    gradient = jax.grad(functools.partial(loss, conv2d, max_pool), (0, 1))

    def loop(xs, kernels):
        one_by_one = [gradient(xs if shared else xs[n], kernels[n]) for n in range(3)]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *one_by_one)

    vmapped = jax.vmap(gradient, (None if shared else 0, 0))
    assert_close(*together(vmapped, loop)(xs[0] if shared else xs, kernels))


def descend(convolution, pool, kernel, xs):
    def step(kernel, x):
        gradient, of_x = jax.grad(functools.partial(loss, convolution, pool), (1, 0))(x, kernel)
        return kernel - 0.001 * gradient, jnp.sum(of_x)

    return lax.scan(step, kernel, xs)


def test_gradients_inside_scan_are_correct_and_compile_to_no_convolution():
    xs, kernel = normal(0, (3, 4, 8, 8, 2), jnp.float32), normal(1, (3, 3, 2, 4), jnp.float32)
    slow = ("convolution(", "scatter(")

    def result_and_program(convolution, pool):
        compiled = jax.jit(functools.partial(descend, convolution, pool)).lower(kernel, xs).compile()
        return compiled(kernel, xs), str(compiled.as_text())

    (ours, program), (theirs, other) = result_and_program(conv2d, max_pool), result_and_program(lax_conv, lax_pool)
    assert_close(ours, theirs, limit=1e-4)
    assert "while(" in program
    assert [operation for operation in slow if operation in other] == list(slow)
    assert [operation for operation in slow if operation in program] == []


@pytest.mark.slow
def test_forward_over_reverse_compiles_to_no_convolution():
    arguments = normal(0, (2, 8, 8, 2), jnp.float32), normal(1, (3, 3, 2, 2), jnp.float32)
    hessian = jax.jit(jax.jacfwd(jax.grad(functools.partial(loss, conv2d, max_pool), 1), 1))
    assert "convolution(" not in str(hessian.lower(*arguments).compile().as_text())


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_other_platforms_use_plain_jax_lax(platform):
    arguments = jnp.zeros((2, 8, 8, 2)), jnp.zeros((3, 3, 2, 2))
    gradient = jax.jit(jax.grad(functools.partial(loss, conv2d, max_pool), (0, 1))).trace(*arguments)
    text = gradient.lower(lowering_platforms=(platform,)).as_text()
    assert text.count("stablehlo.convolution") == 3
    assert "stablehlo.select_and_scatter" in text
    assert "dot_general" not in text


@pytest.mark.slow
def test_one_exported_program_serves_every_platform_and_batch_size():
    kernel = normal(1, (3, 3, 2, 2), jnp.float32)
    function = jax.jit(lambda x: max_pool(conv2d(x, kernel)))
    (batch,) = jax.export.symbolic_shape("b")
    shape = jax.ShapeDtypeStruct((batch, 8, 8, 2), jnp.float32)
    exported = jax.export.export(function, platforms=("cpu", "cuda", "tpu"))(shape)
    for size in (1, 5):
        x = normal(size, (size, 8, 8, 2), jnp.float32)
        assert_close(exported.call(x), function(x), limit=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"padding": "same"},
        {"padding": "VALID", "kernel": (9, 3, 2, 4)},
        {"kernel": (3, 3, 1, 4)},
        {"kernel": (3, 2, 4)},
        {"x": (8, 8, 2)},
        {"stride": 0},
        {"dtype": jnp.bfloat16},
    ],
    ids=str,
)
def test_conv2d_rejects_invalid_arguments(change):
    x = jnp.zeros(change.pop("x", (1, 8, 8, 2)))
    kernel = jnp.zeros(change.pop("kernel", (3, 3, 2, 4)), change.pop("dtype", x.dtype))
    with pytest.raises(ValueError, match=r"must (be|fit|have)"):
        conv2d(x, kernel, **change)


@pytest.mark.parametrize(("shape", "window"), [((1, 8, 8), 2), ((1, 8, 8, 1), 0), ((1, 1, 8, 1), 2)])
def test_max_pool_rejects_windows_that_do_not_fit(shape, window):
    with pytest.raises(ValueError, match="max_pool"):
        max_pool(jnp.zeros(shape), window)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"strides": 2},
        {"strides": (2, 2), "padding": "VALID", "use_bias": False},
        {"padding": "CIRCULAR"},
        {"padding": ((0, 1), (2, 0))},
        {"dtype": jnp.bfloat16},
        {"mask": np.tri(3 * 3 * 2, 4, dtype=np.float32).reshape(3, 3, 2, 4)},
        {"kernel_init": nnx.initializers.ones, "bias_init": nnx.initializers.ones},
    ],
    ids=lambda options: "-".join(options) or "plain",
)
def test_layer_matches_nnx_conv(options):
    ours, theirs = (layer(2, 4, (3, 3), rngs=nnx.Rngs(3), **options) for layer in (Conv, nnx.Conv))
    parameters = [nnx.to_pure_dict(nnx.state(layer, nnx.Param)) for layer in (ours, theirs)]
    assert_close(*parameters, limit=0)
    x = normal(0, (2, 8, 9, 2), jnp.float32)
    assert_close(ours(x), theirs(x), limit=0.1 if options.get("dtype") else 1e-5)
    nnx.update(ours, nnx.state(theirs, nnx.Param))


@pytest.mark.parametrize("leading", [(), (3, 2)])
@pytest.mark.slow
def test_layer_takes_any_number_of_leading_axes(leading):
    layer = Conv(2, 4, (3, 3), rngs=nnx.Rngs(3))
    x = normal(0, (*leading, 8, 9, 2), jnp.float32)
    y = layer(x.reshape(-1, 8, 9, 2))
    assert_close(layer(x), y.reshape(*leading, 8, 9, 4), limit=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3},
        {"kernel_size": (3,)},
        {"kernel_size": (3, 3, 3)},
        {"strides": (1, 2)},
        {"padding": "CAUSAL"},
        {"padding": "Same"},
        {"input_dilation": 2},
        {"kernel_dilation": (1, 2)},
        {"feature_group_count": 2},
        {"precision": "highest"},
        {"preferred_element_type": jnp.float32},
        {"conv_general_dilated": lax.conv_general_dilated},
    ],
    ids=lambda options: "-".join(options),
)
def test_layer_rejects_unsupported_options_at_construction(options):
    arguments = {"in_features": 2, "out_features": 4, "kernel_size": (3, 3)} | options
    with pytest.raises(ValueError, match=r"Conv|kernel_size|strides|padding"):
        Conv(**arguments, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(("stride", "padding"), [(1, 2), (2, 0), (2, 1)])
@pytest.mark.slow
def test_conv2d_and_its_gradients_match_pytorch(x64, stride, padding):
    torch = pytest.importorskip("torch")
    x, kernel = np.array(normal(0, (3, 9, 8, 2))), np.array(normal(1, (5, 4, 2, 3)))
    theirs = [torch.tensor(x.transpose(0, 3, 1, 2)), torch.tensor(kernel.transpose(3, 2, 0, 1))]
    for tensor in theirs:
        tensor.requires_grad_()
    y = torch.nn.functional.conv2d(*theirs, stride=stride, padding=padding)
    torch.sin(y).sum().backward()
    pads = ((padding, padding), (padding, padding))
    ours = functools.partial(conv2d, stride=stride, padding=pads)
    value, pullback = jax.vjp(ours, jnp.asarray(x), jnp.asarray(kernel))
    of_x, of_kernel = pullback(jnp.cos(value))
    np.testing.assert_allclose(value, y.detach().numpy().transpose(0, 2, 3, 1), rtol=0, atol=LIMIT)
    np.testing.assert_allclose(of_x, theirs[0].grad.numpy().transpose(0, 2, 3, 1), rtol=0, atol=LIMIT)
    np.testing.assert_allclose(of_kernel, theirs[1].grad.numpy().transpose(2, 3, 1, 0), rtol=0, atol=LIMIT)


@pytest.mark.parametrize("window", [2, 3])
def test_max_pool_routes_tied_gradients_as_pytorch_does(window):
    torch = pytest.importorskip("torch")
    x = np.array(with_ties((3, 7, 8, 2)), np.float32)
    theirs = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    y = torch.nn.functional.max_pool2d(theirs, window)
    y.square().sum().backward()
    ours = jax.grad(lambda x: jnp.sum(jnp.square(max_pool(x, window))))(jnp.asarray(x))
    np.testing.assert_array_equal(ours, theirs.grad.numpy().transpose(0, 2, 3, 1))
