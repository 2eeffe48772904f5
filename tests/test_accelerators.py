"""The programs of the library, compiled for TPUs and GPUs that need not be there: nothing is run."""

import functools
import importlib.util
import re

import accelerators
import hlo
import jax
import jax.numpy as jnp
import pytest
from jax import NamedSharding, P

from jax_mnist import data_mesh
from jax_mnist.models import conv2d, max_pool

pytestmark = pytest.mark.slow


def needs(package, extra):
    is_missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(is_missing, reason=f"needs {package}, a compiler, which is in {extra}")


NEEDS = {"v5e": needs("libtpu", "jax_mnist[aot]"), "h100": needs("jax_cuda13_plugin", "jax_mnist[cuda13]")}
PROGRAMS = accelerators.programs()
TRAINING = "chapter", "mnist", "mnist-cnn"
UNROLLED = "chapter, unroll 8", "mnist, no augmentation, unroll 8"


def on(target, *names, counts=None):
    """Return the parameters of a test: programs, and the numbers of devices that they are compiled for."""
    # With `--dist loadgroup`, all tests of a program run in the worker that has compiled it.
    return [
        pytest.param(target, name, count, marks=(NEEDS[target], pytest.mark.xdist_group(f"{target} {name} {count}")))
        for name in names
        for count in counts or accelerators.TARGETS[target].device_counts
        if count == 1 or not PROGRAMS[name].one_device
    ]


ALL = [*on("v5e", *(name for name in PROGRAMS if name not in UNROLLED)), *on("h100", *PROGRAMS)]
CNN = "mnist-cnn", "evaluation of mnist-cnn", "exported mnist-cnn"


@functools.cache
def compiled(target, name, count):
    return accelerators.report(PROGRAMS[name], target, count)


@pytest.mark.parametrize(("target", "name", "count"), ALL)
def test_a_step_communicates_once_if_the_devices_train_one_net(target, name, count):
    found = compiled(target, name, count)
    steps = PROGRAMS[name].unroll if count > 1 and name in (*TRAINING, *UNROLLED) else 0
    assert [operation.opcode for operation in hlo.collectives(found.program, found.step)] == ["all-reduce"] * steps


@pytest.mark.parametrize(("target", "name", "count"), ALL)
def test_devices_share_the_work(target, name, count):
    """On four devices a product of a batch of 256 images is one of 64; of fit_many each device trains some members."""
    found, whole = compiled(target, name, count), PROGRAMS[name].batch_size
    whole = accelerators.MEMBERS if name.startswith("fit_many") else whole
    lines = "\n".join(operation.line for operation in hlo.inside(found.program, found.step))
    assert re.search(rf"(f32|bf16)\[([\d,]+,)?{whole // count}[,\]]", lines)


@pytest.mark.parametrize(("target", "name", "count"), ALL)
def test_nothing_is_exchanged_with_the_host(target, name, count):
    assert hlo.transfers(compiled(target, name, count).program, "ENTRY") == []


@pytest.mark.parametrize(("target", "name", "count"), ALL)
def test_nothing_is_float64(target, name, count):
    assert "f64" not in compiled(target, name, count).lowered


@pytest.mark.parametrize(("target", "name", "count"), ALL)
def test_memory_is_that_of_the_images_and_of_a_batch(target, name, count):
    program, memory = PROGRAMS[name], compiled(target, name, count).memory
    # A TPU stores the last two axes in tiles of 32 x 128 bytes, so a second copy of an image may take a whole one.
    images = program.images * (28 * 28 + (32 * 128 if target == "v5e" else 0))
    # The first layer of cnn makes 24 x 24 x 24 numbers of an image. The other nets read it twice, as float32.
    activations = 64_000 if "cnn" in name or name == "speedrun" else 10_000
    members = accelerators.MEMBERS if name.startswith("fit_many") else 1
    assert program.images * 28 * 28 < memory < images + members * program.batch_size * activations // count + 24e6
    assert memory < accelerators.TARGETS[target].memory


@pytest.mark.parametrize(("target", "name", "count"), [*on("v5e", *CNN, counts=[1]), *on("h100", *CNN, counts=[1])])
def test_convolutions_do_not_use_im2col(target, name, count):
    """Im2col is for CPUs only."""
    assert_no_cpu_branch(compiled(target, name, count).program)


def assert_no_cpu_branch(program):
    lines = [operation.line for operations in program.values() for operation in operations]
    chosen = re.findall(r'op_name="([^"]*cond/[^"]*)', "\n".join(lines))
    assert any("conv_general_dilated" in name for name in chosen)
    assert not any("dot_general" in name for name in chosen)


# Each kernel takes some microseconds to launch, which is most of the time of such a step.
@pytest.mark.parametrize(("target", "name", "count"), on("h100", *UNROLLED, counts=[1]))
def test_an_unrolled_step_is_a_few_kernels(target, name, count):
    assert compiled(target, name, count).kernels <= {UNROLLED[0]: 12, UNROLLED[1]: 15}[name]


def lower_on(count, function, *shapes):
    mesh = data_mesh(accelerators.devices("v5e", count))
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, spec)) for shape, spec in shapes]
    return jax.jit(function).lower(*arguments)


@NEEDS["v5e"]
def test_convolutions_of_a_users_module_do_not_use_im2col():
    shapes = ((64, 28, 28, 1), P()), ((5, 5, 1, 24), P())
    lowered = lower_on(1, lambda x, kernel: max_pool(conv2d(x, kernel)), *shapes)
    assert_no_cpu_branch(hlo.computations(lowered.compile().as_text()))


# What the tests above look for is found where it is.


def scanned(step):
    """Lower a loop over 8 batches, each sharded over four devices."""
    shapes = ((16, 16), P()), ((8, 64, 16), P(None, "data"))
    return lower_on(4, lambda w, xs: jax.lax.scan(lambda w, x: (step(w, x), None), w, xs)[0], *shapes)


@NEEDS["v5e"]
def test_a_second_collective_is_found():
    def step(w, x):
        y = x @ w
        return w + jnp.mean((y - y.mean(0, keepdims=True)) ** 2)  # needs the mean over all devices first

    program = hlo.computations(scanned(step).compile().as_text())
    (body,) = hlo.loop_bodies(program)
    assert len(hlo.collectives(program, body)) == 2


@NEEDS["v5e"]
def test_a_callback_is_found():
    def step(w, x):
        return w + jax.pure_callback(lambda value: value, jax.ShapeDtypeStruct((), jnp.float32), w[0, 0])

    assert hlo.transfers(hlo.computations(scanned(step).compile().as_text()), "ENTRY")


@NEEDS["v5e"]
def test_a_float64_is_found():
    with jax.enable_x64(True):
        assert "f64" in scanned(lambda w, x: w + x.astype(jnp.float64).sum().astype(jnp.float32)).as_text()


def test_im2col_is_found():
    names = "jit(f)/jit(per_platform)/cond/dot_general", "jit(f)/jit(per_platform)/cond/conv_general_dilated"
    program = {"ENTRY": [hlo.Operation("fusion", f'metadata={{op_name="{name}"}}') for name in names]}
    with pytest.raises(AssertionError):
        assert_no_cpu_branch(program)
