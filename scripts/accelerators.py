"""Compile the training programs for a TPU or GPU, which need not be present, and print what they consist of.

    python scripts/accelerators.py v5e     # Google's TPU; needs jax[tpu]
    python scripts/accelerators.py h100    # NVIDIA's GPU; needs jax[cuda13]; also: make accelerators, which runs both

The compilers are those of the devices. Nothing is run, and no time is measured: the last column is an estimate from
the figures in `TARGETS`. With a device present XLA would also try variants of its kernels and take the fastest.
"""

import argparse
import functools
import inspect
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import hlo
import jax
import jax.numpy as jnp
from jax import NamedSharding, P
from jax.experimental import topologies
from jax.sharding import Mesh
from rich.console import Console
from rich.table import Table

from jax_mnist import Dataset, Learner, Model, data_mesh, export_model, init_state, load_exported, speedrun, train_epoch
from jax_mnist.recipes import RECIPES, make_learner
from jax_mnist.training.evaluation import ACCELERATOR_BATCH_SIZE, evaluate_params
from jax_mnist.training.sweeps import init_many, train_many


class Target(NamedTuple):
    """A kind of device: JAX's name of its platform, how many the programs are compiled for, and figures of one device.

    `memory` is in bytes, `flops` in operations a second on float32 inputs at JAX's default precision, `bandwidth` in
    bytes a second. `launch` and `collective` are assumptions: the seconds that starting a kernel takes, and a small
    all-reduce.
    """

    platform: str
    device_counts: tuple[int, ...]
    memory: float
    flops: float
    bandwidth: float
    launch: float
    collective: float


TARGETS = {
    # In bfloat16, to which a TPU rounds the inputs of a product.
    "v5e": Target("tpu", (1, 4), memory=16e9, flops=197e12, bandwidth=819e9, launch=1e-6, collective=5e-6),
    # In TF32, to which an H100 rounds the inputs of a product.
    "h100": Target("cuda", (1, 8), memory=80e9, flops=495e12, bandwidth=3.35e12, launch=2e-6, collective=15e-6),
}

# The properties that XLA would ask a GPU for, if there were one: a GpuTargetConfigProto in text form.
H100 = """
gpu_device_info {
  name: "NVIDIA H100 80GB HBM3"
  cuda_compute_capability { major: 9 }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  device_memory_size: 84942979072
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  registers_per_block_limit: 65536
  registers_per_core_limit: 65536
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  runtime_version: "13.0.0"
  driver_version: "13.0.0"
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 12 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


def devices(target: str, count: int) -> list[Any]:
    """Return `count` devices of a target to compile for; for a TPU, set the environment variables of its compiler."""
    if target == "h100":
        topology = topologies.get_topology_desc(platform="cuda", target_config=H100, topology=f"1x{count}x1")
    else:
        # Without these, libtpu asks the machine which TPU it has, and locks it.
        os.environ |= {
            "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
            "TPU_SKIP_MDS_QUERY": "1",
            "TPU_ACCELERATOR_TYPE": "v5litepod-4",
            "TPU_WORKER_HOSTNAMES": "localhost",
        }
        topology = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2")
    return topology.devices[:count]


class Program(NamedTuple):
    """A program and the data that it is compiled for.

    `trace(mesh)` traces it for all `images`. Its loop takes a batch of `batch_size` of them in each step, and `unroll`
    steps in an iteration. `trace_share(count)` traces one step as one of `count` devices computes it, without its loop
    and its collectives. `one_device` says that the program takes no mesh.
    """

    trace: Callable[[Mesh], jax.stages.Traced]
    trace_share: Callable[[int], jax.stages.Traced]
    images: int
    batch_size: int
    unroll: int = 1
    one_device: bool = False


MEMBERS = 64  # of fit_many, its default on these devices


def programs() -> dict[str, Program]:
    """Return the programs by name: the training of three nets, and the other loops of the library."""
    nets = {preset: _learner(preset) for preset in ("chapter", "mnist", "mnist-cnn")}
    nets["chapter, unroll 8"] = nets["chapter"]._replace(unroll=8)
    nets["mnist, no augmentation, unroll 8"] = nets["mnist"]._replace(augment=None, unroll=8)
    return {name: _training(learner, _images(name)) for name, learner in nets.items()} | {
        "evaluation of mnist-cnn": _evaluation(nets["mnist-cnn"], 10_000),
        f"fit_many, {MEMBERS} chapter nets": _many(nets["chapter"], _images("chapter")),
        "speedrun": _speedrun(),
        "exported mnist-cnn": _exported(nets["mnist-cnn"].model, 1024),
    }


def _images(name: str) -> int:
    return 12_396 if name.startswith("chapter") else 60_000  # of the training set


def _learner(preset: str) -> Learner:
    return make_learner(RECIPES[preset], _images(preset), 2 if preset == "chapter" else 10)


def _shapes(tree: Any, mesh: Mesh | None, *axes: str) -> Any:
    sharding = None if mesh is None else NamedSharding(mesh, P(*axes))
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)


def _dataset(mesh: Mesh | None, images: int) -> Dataset:
    shapes = jax.ShapeDtypeStruct((images, 28, 28), jnp.uint8), jax.ShapeDtypeStruct((images,), jnp.int32)
    return Dataset(*_shapes(shapes, mesh))


def _training(learner: Learner, images: int) -> Program:
    def trace(learner: Learner, mesh: Mesh | None, images: int) -> jax.stages.Traced:
        state = jax.eval_shape(lambda key: init_state(key, learner), jax.random.key(0))
        return train_epoch.trace(learner, _shapes(state, mesh), _dataset(mesh, images), mesh=mesh)

    def trace_share(count: int) -> jax.stages.Traced:
        batch_size = -(-learner.batch_size // count)
        return trace(learner._replace(batch_size=batch_size, unroll=1), None, batch_size)

    return Program(lambda mesh: trace(learner, mesh, images), trace_share, images, learner.batch_size, learner.unroll)


def _evaluation(learner: Learner, images: int) -> Program:
    batch_size = ACCELERATOR_BATCH_SIZE

    def trace(mesh: Mesh | None, images: int, **options: Any) -> jax.stages.Traced:
        params = _shapes(jax.eval_shape(learner.model.init, jax.random.key(0)), mesh)
        dataset = _dataset(mesh, images)
        return evaluate_params.trace(learner.model, learner.loss_fn, params, dataset, mesh=mesh, **options)

    def trace_share(count: int) -> jax.stages.Traced:
        return trace(None, batch_size // count, batch_size=batch_size // count)

    return Program(lambda mesh: trace(mesh, images), trace_share, images, batch_size)


def _many(learner: Learner, images: int) -> Program:
    def trace(mesh: Mesh | None, members: int, images: int) -> jax.stages.Traced:
        init = functools.partial(init_many, learner=learner, same_order=False)
        keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), members))
        states = _shapes(jax.eval_shape(init, keys, None, jax.random.key(0)), mesh, "data")
        return train_many.trace(learner, states, _dataset(mesh, images), same_order=False)

    def trace_share(count: int) -> jax.stages.Traced:
        return trace(None, MEMBERS // count, learner.batch_size)

    return Program(lambda mesh: trace(mesh, MEMBERS, images), trace_share, images, learner.batch_size)


def _speedrun() -> Program:
    options = {name: value.default for name, value in inspect.signature(speedrun.train).parameters.items()}
    images = options["steps"] * options["batch_size"]

    def trace(mesh: Mesh | None, steps: int) -> jax.stages.Traced:
        key, dataset = _shapes(jax.eval_shape(lambda: jax.random.key(0)), mesh), _dataset(mesh, images)
        return speedrun.train.trace(key, dataset.images, dataset.labels, steps=steps)

    trace_all, trace_share = (lambda mesh: trace(mesh, options["steps"])), (lambda count: trace(None, 1))
    return Program(trace_all, trace_share, images, options["batch_size"], one_device=True)


def _exported(model: Model, images: int) -> Program:
    def trace(mesh: Mesh) -> jax.stages.Traced:
        with tempfile.TemporaryDirectory() as directory:
            file = Path(directory) / "model.jaxexport"
            export_model(file, model, model.init(jax.random.key(0)), tuple("0123456789"))
            return jax.jit(load_exported(file).logits).trace(_dataset(mesh, images).images)

    def trace_share(count: int) -> jax.stages.Traced:  # XLA cannot count the operations of the exported program
        params = jax.eval_shape(model.init, jax.random.key(0))
        return jax.jit(model.apply).trace(params, jax.ShapeDtypeStruct((images, 784), jnp.float32))

    return Program(trace, trace_share, images, images, one_device=True)


class Report(NamedTuple):
    """The contents of a compiled program; `step` is the computation that holds a step, or `unroll` of them.

    `kernels` and `collectives` are the numbers that a step launches, `flops` and `bytes` are those of a step on one
    device, and `memory` is the peak on a device in bytes: arguments, results and intermediate values. `lowered`
    is the text of the program before it is compiled: a TPU's compiler replaces float64 by pairs of float32.
    """

    lowered: str
    program: dict[str, list[hlo.Operation]]
    step: str
    kernels: float
    collectives: float
    flops: float
    bytes: float
    memory: int


def report(program: Program, target: str, count: int) -> Report:
    """Compile a program for `count` devices of a target, and read what its step consists of."""
    lowered = program.trace(data_mesh(devices(target, count))).lower()
    compiled: Any = lowered.compile()
    computations = hlo.computations(compiled.as_text())
    # The longest loop is the one over the batches; sorting may be a loop too. Without a loop there is only one batch.
    bodies = hlo.loop_bodies(computations)
    step = max(bodies, key=lambda body: hlo.kernels(computations, body), default="ENTRY")
    # XLA counts the operations of a loop once.
    share = program.trace_share(count).lower(lowering_platforms=(TARGETS[target].platform,))
    cost: Any = share.cost_analysis()
    return Report(
        lowered=lowered.as_text(),
        program=computations,
        step=step,
        kernels=hlo.kernels(computations, step) / program.unroll,
        collectives=len(hlo.collectives(computations, step)) / program.unroll,
        flops=cost["flops"],
        bytes=hlo.bytes_moved(computations, step) / program.unroll,
        memory=compiled.memory_analysis().peak_memory_in_bytes,
    )


def estimate(found: Report, target: str) -> float:
    """Return the seconds of a step from the figures in `TARGETS`: the roofline, the launches and the collectives."""
    device = TARGETS[target]
    roofline = max(found.flops / device.flops, found.bytes / device.bandwidth)
    return roofline + found.kernels * device.launch + found.collectives * device.collective


def rows(target: str) -> Iterator[tuple[str, ...]]:
    """Compile each program for each number of devices, and yield the rows of the table."""
    for name, program in programs().items():
        for count in (1,) if program.one_device else TARGETS[target].device_counts:
            found = report(program, target, count)
            yield (
                name,
                f"{count} {target}",
                f"{found.flops / 1e6:,.1f}",
                f"{found.bytes / 1e6:,.1f}",
                f"{found.kernels:.1f}",
                f"{found.collectives:.0f}",
                f"{found.memory / 1e6:,.0f}",
                f"{1e6 * estimate(found, target):,.0f}",
            )


def main() -> None:
    """Print the table of a target."""
    parser = argparse.ArgumentParser(description="Compile the training programs for devices that need not be present.")
    parser.add_argument("target", choices=TARGETS, help="the kind of device to compile for")
    target = parser.parse_args().target
    jax.config.update("jax_platforms", "cpu")  # for tracing; the compilers are chosen by name
    table = Table("program", "devices", "MFLOP a step", "MB a step", "kernels a step", "collectives", "memory, MB",
                  "estimate, us", title=f"compiled with jax {jax.__version__}, not run")  # fmt: skip
    for column in table.columns[2:]:
        column.justify = "right"
    with Console(stderr=True).status("compiling"):
        for row in rows(target):
            table.add_row(*row)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
