"""The contests: for each claim about speed, jax_mnist and its baselines."""

import functools
import importlib
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from jax_mnist import Learner, Model, Splits, cnn, fit, fit_many, from_flax, init_state, load, mlp, speedrun
from jax_mnist.losses import mnist_loss, softmax_cross_entropy
from jax_mnist.recipes import RECIPES, make_learner
from jax_mnist.training.sweeps import evaluate_many, init_many, train_many

from .jax_side import Task, epoch_side, make_task, steps_side
from .timing import Contest, Side


class Setup(NamedTuple):
    """The platform and options of a contest: `quick` takes small versions, `compiled` tries torch.compile."""

    platform: str = "cpu"
    quick: bool = False
    compiled: bool = False


SCRIPTS = Path(__file__).parents[1]
# None without PyTorch, whose sides are then left out.
torch_side: Any = importlib.import_module(".torch_side", __package__) if importlib.util.find_spec("torch") else None

CONTESTS: dict[str, Callable[[Setup], Contest]] = {
    # An epoch of a dense net, in the file's order as in the chapter or shuffled.
    "chapter_linear": lambda setup: dense_epoch(setup, "mnist_sample", (784, 1), 1.0),
    "chapter_net": lambda setup: dense_epoch(setup, "mnist_sample", (784, 30, 1), 0.1),
    "chapter_net_shuffled": lambda setup: dense_epoch(setup, "mnist_sample", (784, 30, 1), 0.1, shuffle=True),
    "dense": lambda setup: dense_epoch(setup, "mnist", (784, 1024, 1024, 10), 0.1, batch_size=128),
    # The net, batch size, optimizer and schedule of PyTorch's record recipe.
    "cnn_epoch": lambda setup: cnn_epoch(setup),
    "cnn_plain": lambda setup: cnn_plain(setup),
    # An epoch of the presets with convolutions.
    "mnist_cnn": lambda setup: preset_epoch(setup, "mnist-cnn"),
    "mnist_cnn_augmented": lambda setup: preset_epoch(setup, "mnist-cnn-augmented"),
    # From random weights to the accuracy, first with the data in memory, then as processes from the prompt.
    "fastest": lambda setup: fastest(setup),
    "whole_process": lambda setup: whole_process(setup),
    "whole_process_chapter": lambda setup: whole_process_chapter(setup),
    "many_models": lambda setup: many_models(setup),
    # How the time of an epoch grows. Quick ones stop after the second value.
    "grow_batch_sizes": lambda setup: grow(setup, "batch size", (16, 64, 256, 1024, 4096)),
    "grow_widths": lambda setup: grow(setup, "hidden units", (16, 64, 256, 1024, 2048), images=20_000),
    "grow_images": lambda setup: grow(setup, "images", (3_750, 7_500, 15_000, 30_000, 60_000)),
    "grow_seeds": lambda setup: grow_seeds(setup, (1, 4, 16, 32, 64)),
}
"""The contests by name. The functions follow in this order."""


def dense_epoch(
    setup: Setup, dataset: str, sizes: tuple[int, ...], rate: float, batch_size: int = 256, shuffle: bool = False
) -> Contest:
    """Compare an epoch of SGD: in one program, a step at a time, and in PyTorch with DataLoader and sliced tensors."""
    splits = load(dataset) if dataset == "mnist_sample" else some_digits(6_000 if setup.quick else 60_000)
    task = make_task(mlp(sizes), splits, rate, batch_size=batch_size, shuffle=shuffle, platform=setup.platform)
    sides = [epoch_side(task), steps_side(task)]
    if torch_side:
        for way in torch_side.WAYS:
            sides.append(torch_side.epoch_side(task, way, torch_side.fastest_epoch(task, way, setup.compiled)))
    name = f"an epoch of {'-'.join(map(str, sizes))}{', shuffled' if shuffle else ''}"
    return Contest(name, "epoch", sides, 0.7 if setup.quick else 0.94)


def some_digits(count: int) -> Splits:
    """Return the ten digits with only the first `count` training images."""
    train, valid = load("mnist")
    return Splits(train[:count], valid)


def cnn_epoch(setup: Setup) -> Contest:
    """Compare the record recipe from random weights, with our `cnn` and in PyTorch."""
    splits = some_digits(5_120 if setup.quick else 60_000)
    sides = [record_epoch(setup, "JAX, cnn() in train_epoch", record_net(), splits)]
    if torch_side:
        settings = torch_side.fastest_record(splits, setup.platform, setup.compiled)
        sides.append(torch_side.record_side(splits, setup.platform, settings))
    return Contest("the record recipe's net", "epoch", sides, 0.7 if setup.quick else 0.98)


def record_net() -> Model:
    """Return the record recipe's net as a `cnn`."""
    return cnn((24, 32), (5, 3), strides=(1, 1), pools=(2, 2), hidden=(256,), activation=jax.nn.relu)


def record_epoch(setup: Setup, name: str, model: Model, splits: Splits) -> Side:
    """Return the record recipe's epoch of a model in JAX."""
    steps = -(-len(splits.train) // 256)
    optimizer = optax.adam(optax.cosine_onecycle_schedule(steps, 1e-2), b1=0.7, b2=0.9)
    learner = Learner(model, softmax_cross_entropy, optimizer, shuffle=False)
    task = Task(learner, 1e-2, init_state(jax.random.key(0), learner), splits, setup.platform)
    return epoch_side(task, name, restart=True)


def cnn_plain(setup: Setup) -> Contest:
    """Compare our convolution with JAX's own, in ten batches of the same net, since its `lax.scan` is slow."""
    from flax import nnx

    def make(conv: Any, rngs: nnx.Rngs) -> nnx.Module:
        pool = functools.partial(nnx.max_pool, window_shape=(2, 2), strides=(2, 2))
        return nnx.Sequential(
            conv(1, 24, (5, 5), padding="VALID", rngs=rngs), pool, nnx.relu,
            conv(24, 32, (3, 3), padding="VALID", rngs=rngs), pool, nnx.relu,
            lambda x: x.reshape(len(x), -1),
            nnx.Linear(5 * 5 * 32, 256, rngs=rngs), nnx.relu, nnx.Linear(256, 10, rngs=rngs),
        )  # fmt: skip

    # Wrapped in a partial, since from_flax replaces lax.conv_general_dilated itself by conv2d.
    plain = functools.partial(nnx.Conv, conv_general_dilated=functools.partial(jax.lax.conv_general_dilated))
    image_shape, splits = (28, 28, 1), some_digits(2_560)
    models = {
        "JAX, cnn()": record_net(),
        "JAX, the same net of nnx.Conv, by from_flax": from_flax(functools.partial(make, nnx.Conv), image_shape),
        "JAX, the same net of nnx.Conv, left as it is": from_flax(functools.partial(make, plain), image_shape),
    }
    sides = [record_epoch(setup, name, model, splits) for name, model in models.items()]
    return Contest("ten batches of the record recipe's net", "run", sides, 0.3)


def preset_epoch(setup: Setup, name: str) -> Contest:
    """Compare an epoch of a preset: the same net, optimizers, schedule and augmentation."""
    recipe, splits = RECIPES[name], some_digits(5_120 if setup.quick else 60_000)
    learner = make_learner(recipe, len(splits.train), 10)
    task = Task(learner, recipe.learning_rate, init_state(jax.random.key(0), learner), splits, setup.platform)
    sides = [epoch_side(task, f"JAX, {name}")]
    if torch_side:
        settings = torch_side.fastest_preset(recipe, splits, setup.platform, setup.compiled)
        sides.append(torch_side.preset_side(recipe, splits, setup.platform, settings))
    return Contest(f"the preset {name}", "epoch", sides, 0.7 if setup.quick else 0.99)


def fastest(setup: Setup) -> Contest:
    """Compare the speedrun with PyTorch's record recipe, with the data in memory."""
    splits = some_digits(5_120 if setup.quick else 60_000)
    images, labels = jax.device_put((splits.train.images, splits.train.labels))
    trained: list[Any] = []

    def work() -> None:
        steps = {"steps": 80} if setup.quick else {}
        trained.append(jax.block_until_ready(speedrun.train(jax.random.key(len(trained)), images, labels, **steps)))

    def accuracy() -> float:
        logits = [np.asarray(speedrun.predict(params, splits.valid.images)) for params in trained]
        return float(np.mean([x.argmax(axis=1) == splits.valid.labels for x in logits]))

    sides = [Side("JAX, speedrun", work, accuracy)]
    if torch_side:
        settings = torch_side.fastest_record(splits, setup.platform, setup.compiled)
        sides.append(torch_side.record_side(splits, setup.platform, settings))
    return Contest("from random weights to 99%", "run", sides, 0.8 if setup.quick else 0.985)


def whole_process(setup: Setup) -> Contest:
    """Compare the same two as processes, from the prompt to the accuracy: importing and compiling count."""
    sides = [process("speedrun.py", "--seeds", "1", "--platform", setup.platform, "--json", "result.json")]
    if torch_side:
        settings = torch_side.fastest_record(load("mnist"), setup.platform)
        sides.append(torch_process(setup, "the record recipe", settings, "record"))
    return Contest("from the prompt to 99%", "process", sides, 0.985)


def whole_process_chapter(setup: Setup) -> Contest:
    """Compare processes that train the chapter's net, from the prompt to the accuracy and the pictures."""
    epochs = ["--epochs", "4" if setup.quick else "40"]
    sides = [process("train.py", *epochs, "--platform", setup.platform, "--out", "run", result="run/result.json")]
    if torch_side:
        task = make_task(mlp((784, 30, 1)), load("mnist_sample"), 0.1, platform=setup.platform)
        for way, option in (("DataLoader", ["--data-loader"]), ("sliced tensors", [])):
            settings = torch_side.fastest_epoch(task, way)
            sides.append(torch_process(setup, way, settings, "chapter", *epochs, *option))
    return Contest("from the prompt to the chapter's net", "process", sides, 0.9 if setup.quick else 0.975)


def process(script: str, *options: str, name: str = "", result: str = "result.json") -> Side:
    """Return a process of a script in this repository, which leaves its accuracy in the file `result`."""
    accuracies: list[float] = []
    command = [sys.executable, str(SCRIPTS / script), *options]

    def work() -> None:
        with tempfile.TemporaryDirectory() as folder:
            ended = subprocess.run(command, cwd=folder, capture_output=True, text=True)
            if ended.returncode:
                raise ValueError(f"{' '.join(command)} failed: {ended.stderr.strip()}")
            written = json.loads((Path(folder) / result).read_text())
        accuracies.append(written["accuracy_mean"] if "accuracy_mean" in written else written["accuracy"])

    return Side(name or f"JAX, scripts/{script}", work, lambda: float(np.mean(accuracies)))


def torch_process(setup: Setup, name: str, settings: Any, *options: str) -> Side:
    """Return a process of torch_scripts.py at the given settings."""
    device = torch_side.choose_device(setup.platform)
    options = (*options, "--device", device, "--threads", str(settings.threads))
    layout = ["--channels-last"] if settings.channels_last else []
    name = f"PyTorch, {name} ({torch_side.describe(settings)})"
    return process("benchmark/torch_scripts.py", *options, *layout, name=name)


def many_models(setup: Setup) -> Contest:
    """Compare runs of the chapter's net from many seeds, at once and one by one."""
    splits, epochs, count = load("mnist_sample"), 4 if setup.quick else 40, 8 if setup.quick else 64
    learner = Learner(mlp((784, 30, 1)), mnist_loss, optax.sgd(0.1))
    accuracies: dict[str, float] = {}

    def side(name: str, members: int, run: Callable[[], Any]) -> Side:
        def work() -> None:
            accuracies[name] = float(run())

        return Side(f"JAX, {name}", work, lambda: accuracies[name], members)

    def at_once(members: int, same_order: bool) -> Any:
        keys = jax.random.split(jax.random.key(0), members)
        history = fit_many(keys, learner, splits, epochs=epochs, same_order=same_order)[1]
        return history.accuracy[:, -1].mean()

    def one_by_one(members: int) -> Any:
        runs = [fit(jax.random.key(seed), learner, splits, epochs=epochs)[1] for seed in range(members)]
        return np.mean([history.accuracy[-1] for history in runs])

    few = count // 8
    sides = [
        side("fit_many, in one order", count, lambda: at_once(count, same_order=True)),
        side("fit_many, in their own orders", few, lambda: at_once(few, same_order=False)),
        side("fit, one by one", few, lambda: one_by_one(few)),
    ]
    return Contest(f"{count} of the chapter's nets, {epochs} epochs", "model", sides, 0.9 if setup.quick else 0.975)


def grow(setup: Setup, quantity: str, values: Sequence[int], images: int = 60_000) -> Contest:
    """Compare epochs of a dense net on the ten digits, for growing values of one size."""
    sides = []
    for value in values[:2] if setup.quick else values:
        sizes = {"images": 10_000 if setup.quick else images, "hidden units": 128, "batch size": 256, quantity: value}
        model, splits = mlp((784, sizes["hidden units"], 10)), some_digits(sizes["images"])
        sides.append(epoch_side(make_task(model, splits, 0.1, batch_size=sizes["batch size"]), f"{value:,}"))
    return Contest(f"ten digits, growing {quantity}", "epoch", sides, 0.2, grows_with=quantity)


def grow_seeds(setup: Setup, counts: Sequence[int]) -> Contest:
    """Compare epochs of `fit_many`, without its evaluation, for growing numbers of members in one order."""
    train, valid = jax.device_put(load("mnist_sample"))
    learner = Learner(mlp((784, 30, 1)), mnist_loss, optax.sgd(0.1))

    def side(count: int) -> Side:
        keys = jax.random.split(jax.random.key(0), count)
        states = init_many(keys, None, jax.random.key(0), learner=learner, same_order=True)

        def work() -> None:
            nonlocal states
            states, _ = jax.block_until_ready(train_many(learner, states, train, same_order=True))

        def accuracy() -> float:
            return float(evaluate_many(learner.model, mnist_loss, states.params, valid).accuracy.mean())

        return Side(f"{count:,}", work, accuracy)

    sides = [side(count) for count in (counts[:2] if setup.quick else counts)]
    return Contest("784-30-1, growing number of seeds", "epoch", sides, 0.8, grows_with="seeds")
