"""What `benchmark` times beyond epochs of dense nets: convolutions, the speedrun, and whole processes."""

import contextlib
import functools
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from .. import speedrun
from ..losses import softmax_cross_entropy
from ..training.evaluation import evaluate
from ..training.loop import init_state, train_epoch
from ..types import Learner, Model, Splits
from . import contests, growth, torch_record, torch_side
from .contests import Contest, Side, has_torch, some_digits

_QUICK = 5120


def cnn_epoch(platform: str, quick: bool) -> Contest:
    """The PyTorch record recipe's net, batch, optimizer and schedule: one epoch from random weights, in file order."""
    from ..models.flax import cnn

    splits = some_digits(_QUICK if quick else None)
    sides = [_one_epoch("JAX, cnn() in train_epoch", cnn(padding="VALID"), splits)]
    return _against_torch("ten digits: the record recipe's net", "epoch", sides, splits, 0.7 if quick else 0.98)


def cnn_plain(platform: str, quick: bool) -> Contest:
    """The same net on `jax.lax`'s own convolution and pooling, in the same scan: ten batches, since it takes long."""
    from ..models.flax import cnn

    splits = some_digits(2560)
    sides = [
        _one_epoch("JAX, cnn()", cnn(padding="VALID"), splits),
        _one_epoch("JAX, the same on nnx.Conv and nnx.max_pool", _plain_cnn(), splits),
    ]
    return Contest("ten digits: ten batches of the record recipe's net", "run", sides, 0.3)


def fastest(platform: str, quick: bool) -> Contest:
    """From random weights to 99%: the speedrun, and the recipe in PyTorch that has the record; data in memory."""
    splits = some_digits(_QUICK if quick else None)
    steps = {"steps": 80} if quick else {}
    images, labels = (jax.device_put(array) for array in (splits.train.images, splits.train.labels))
    trained: list[Any] = []

    def work() -> None:
        key = jax.random.key(len(trained))
        trained.append(jax.block_until_ready(speedrun.train(key, images, labels, **steps)))

    def accuracy() -> float:
        logits = [speedrun.predict(params, splits.valid.images) for params in trained]
        return float(np.mean([np.asarray(s).argmax(axis=1) == splits.valid.labels for s in logits]))

    side = Side("JAX, speedrun", work, accuracy)
    return _against_torch("from random weights to 99%", "run", [side], splits, 0.8 if quick else 0.985)


def whole_process(platform: str, quick: bool) -> Contest:
    """The same two as processes of their own, from the shell's prompt to the end: imports and compilation count."""
    # As scripts/speedrun.py does it: `python -m jax_mnist` imports the other commands too.
    start = "import sys; from jax_mnist.cli.speedrun import main; sys.exit(main())"
    ours = [sys.executable, "-c", start, "--seeds", "1", "--platform", platform, "--json"]
    sides = [_process("JAX, speedrun", ours, "result.json")]
    if has_torch():
        theirs = [sys.executable, "-P", torch_record.__file__, "--runs", "1"]
        sides += [_process(f"PyTorch, {n} thread(s)", [*theirs, "--threads", str(n)], None) for n in (1, 2)]
    return Contest("from the prompt to 99%, a whole process", "process", sides, 0.985)


def _plain_cnn() -> Model:
    """`cnn(padding="VALID")` as one would write it in Flax, on `jax.lax`'s convolution and pooling."""
    from flax import nnx
    from jax import lax

    from ..models.flax import from_flax

    # Wrapped, since from_flax puts conv2d into the place of lax's own.
    conv = functools.partial(nnx.Conv, conv_general_dilated=functools.partial(lax.conv_general_dilated))

    def make(rngs: nnx.Rngs) -> nnx.Module:
        pool = functools.partial(nnx.max_pool, window_shape=(2, 2), strides=(2, 2))
        return nnx.Sequential(
            conv(1, 24, (5, 5), padding="VALID", rngs=rngs), pool, nnx.relu,
            conv(24, 32, (3, 3), padding="VALID", rngs=rngs), pool, nnx.relu,
            lambda x: x.reshape(len(x), -1),
            nnx.Linear(5 * 5 * 32, 256, rngs=rngs), nnx.relu, nnx.Linear(256, 10, rngs=rngs),
        )  # fmt: skip

    return from_flax(make, input_shape=(28, 28, 1))


def _one_epoch(name: str, model: Model, splits: Splits) -> Side:
    steps = -(-len(splits.train) // 256)
    optimizer = optax.adam(optax.cosine_onecycle_schedule(steps, 1e-2), b1=0.7, b2=0.9)
    learner = Learner(model, softmax_cross_entropy, optimizer, shuffle=False)
    start = init_state(jax.random.key(0), learner)
    train = jax.device_put(splits.train)
    state = start

    def work() -> None:
        nonlocal state
        state, _ = jax.block_until_ready(train_epoch(learner, start, train))

    return Side(name, work, lambda: float(evaluate(learner, state.params, splits.valid).accuracy))


def _against_torch(name: str, unit: str, sides: list[Side], splits: Splits, least_accuracy: float) -> Contest:
    around: Callable[[], Any] = contextlib.nullcontext
    if has_torch():
        train, valid = (torch_record.tensors_of(part.images, part.labels) for part in splits)
        nets: list[Any] = []

        def work() -> None:
            nets.append(torch_record.train(len(nets), *train))

        sides = [*sides, Side("PyTorch, the record recipe", work, lambda: torch_record.accuracy(nets[-1], *valid))]
        few = tuple(tensor[:2560] for tensor in train)
        around = functools.partial(torch_side.faster_threads, lambda: torch_record.train(0, *few))
    return Contest(name, unit, sides, least_accuracy, around)


def _process(name: str, command: list[str], result: str | None) -> Side:
    """A process that leaves its accuracy in a JSON file, whose name it is given last, or prints it."""
    accuracies: list[float] = []

    def work() -> None:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / (result or "")
            ended = subprocess.run([*command, str(file)] if result else command, capture_output=True, check=True)
            text = file.read_text() if result else ended.stdout
        accuracies.append(json.loads(text)["accuracy_mean"])

    return Side(name, work, lambda: float(np.mean(accuracies)))


ALL = {
    "chapter_linear": contests.chapter_linear,
    "chapter_net": contests.chapter_net,
    "dense": contests.dense,
    "cnn_epoch": cnn_epoch,
    "cnn_plain": cnn_plain,
    "fastest": fastest,
    "whole_process": whole_process,
    "many_models": growth.many_models,
    "grow_batch_sizes": growth.batch_sizes,
    "grow_widths": growth.widths,
    "grow_images": growth.images,
    "grow_seeds": growth.seeds,
}
"""Every contest by name: platform, quick -> Contest."""
