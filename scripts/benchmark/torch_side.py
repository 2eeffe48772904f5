"""PyTorch's side of a comparison: our models as modules, trained at the settings that are fastest on this machine."""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from jax_mnist import Dataset, Splits, to_state_dict
from jax_mnist.recipes import Recipe

from . import torch_scripts
from .jax_side import Task
from .timing import Side, time_in_turns

# torch comes from torch_scripts, which prints how to install it if it is missing.
from .torch_scripts import BATCH_SIZE, Settings, describe, nn, tensors_of, torch, train


class TorchLearner(NamedTuple):
    """A module on its device, its optimizer, and loss(logits, y) -> mean loss; PyTorch changes the first two."""

    module: Any
    optimizer: Any
    loss: Callable[[Any, Any], Any]


def choose_device(platform: str) -> str:
    """Return PyTorch's name of JAX's platform; on a GPU turn TF32 off, so that both compute in full float32."""
    if platform == "cpu":
        return "cpu"
    if platform != "gpu" or not torch.cuda.is_available():
        raise ValueError(f"PyTorch finds no {platform} on this machine, which JAX uses; choose --platform cpu")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return "cuda"


def version() -> str:
    """Return PyTorch's version, and its GPU if there is one."""
    return f"torch {torch.__version__}" + (f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else "")


def make_learner(task: Task) -> TorchLearner:
    """Return the task's SGD on a module with its parameters: those of a dense net or of our `cnn`."""
    arrays = [torch.from_numpy(array) for array in to_state_dict(task.state.params).values()]
    weights = [array for array in arrays if array.ndim > 1]
    kernels = [weight.shape for weight in weights if weight.ndim == 4]
    layers = [nn.Unflatten(1, (1, 28, 28))] if kernels else []
    for n, (o, i, height, width) in enumerate(kernels):
        layers += [nn.Conv2d(i, o, (height, width), stride=2 if n == 1 else 1)]
        layers += [nn.MaxPool2d(2), nn.Hardswish()] if n == 0 else [nn.Hardswish()]
    layers += [nn.Flatten()] if kernels else []
    for o, i in (weight.shape for weight in weights[len(kernels) :]):
        layers += [nn.Linear(i, o), nn.Hardswish() if kernels else nn.ReLU()]
    module = nn.Sequential(*layers[:-1]).to(arrays[0].dtype)
    module.load_state_dict(dict(zip(module.state_dict(), arrays, strict=True)))
    module.to(choose_device(task.platform))
    loss = torch_scripts.chapter_loss if len(arrays[-1]) == 1 else nn.functional.cross_entropy
    return TorchLearner(module, torch.optim.SGD(module.parameters(), lr=task.learning_rate), loss)


def flat_tensors(dataset: Dataset, learner: TorchLearner) -> tuple[Any, Any]:
    """Return x [n, 784] in [0, 1] and y [n] int64, on the module's device and x in its dtype."""
    like = next(learner.module.parameters())
    x = torch.from_numpy(np.asarray(dataset.images)).to(like).div(255).view(len(dataset), -1)
    return x, torch.from_numpy(np.asarray(dataset.labels)).long().to(like.device)


def evaluate(learner: TorchLearner, x: Any, y: Any) -> tuple[float, int]:
    """Return the mean loss and the number of correct answers."""
    with torch.no_grad():
        logits = learner.module(x)
        correct = (logits[:, 0] > 0) == (y == 1) if logits.shape[1] == 1 else logits.argmax(1) == y
        return learner.loss(logits, y).item(), int(correct.sum())


WAYS = "DataLoader", "sliced tensors"


def epoch_side(task: Task, way: str, settings: Settings) -> Side:
    """Return an epoch of the task, its batches made in one of WAYS."""
    learner, batch_size, shuffle = make_learner(task), task.learner.batch_size, task.learner.shuffle
    if settings.channels_last:
        learner.module.to(memory_format=torch.channels_last)
    forward = torch.compile(learner.module) if settings.compiled else learner.module
    (x, y), valid = (flat_tensors(dataset, learner) for dataset in task.splits)
    loader = torch_scripts.data_loader(x, y, batch_size, shuffle) if way == "DataLoader" else None

    def work() -> None:
        batches = loader or torch_scripts.slices(x, y, batch_size, shuffle)
        with threads(settings.threads):
            train(forward, learner.loss, learner.optimizer, batches)

    name = f"PyTorch, {way} ({describe(settings)})"
    return Side(name, work, lambda: evaluate(learner, *valid)[1] / len(task.splits.valid))


def record_side(splits: Splits, platform: str, settings: Settings) -> Side:
    """Return the record recipe, each run from another seed."""
    nets = []
    training, valid = (tensors_of(part.images, part.labels, choose_device(platform)) for part in splits)

    def work() -> None:
        with threads(settings.threads):
            nets.append(torch_scripts.train_record(len(nets), *training, settings.channels_last, settings.compiled))

    name = f"PyTorch, the record recipe ({describe(settings)})"
    return Side(name, work, lambda: torch_scripts.record_accuracy(nets[-1], *valid))


def preset_side(recipe: Recipe, splits: Splits, platform: str, settings: Settings) -> Side:
    """Return an epoch of a preset with convolutions, each run the next one."""
    device = choose_device(platform)
    training, valid = (tensors_of(part.images, part.labels, device, normalized=False) for part in splits)
    steps = recipe.epochs * -(-len(splits.train) // recipe.batch_size)
    torch.manual_seed(0)
    preset = torch_scripts.make_preset(recipe.filters, recipe.learning_rate, recipe.betas, steps, device)
    if settings.channels_last:
        preset.net.to(memory_format=torch.channels_last)
    forward = torch.compile(preset.net) if settings.compiled else preset.net

    def work() -> None:
        batches = torch_scripts.slices(*training, recipe.batch_size, shuffle=True)
        with threads(settings.threads):
            torch_scripts.train_preset(preset, forward, batches, recipe.shift, recipe.rotation)

    name = f"PyTorch, the same net and training ({describe(settings)})"
    return Side(name, work, lambda: torch_scripts.record_accuracy(preset.net, *valid))


def fastest_preset(recipe: Recipe, splits: Splits, platform: str, compiled: bool = False) -> Settings:
    """Return the settings at which ten batches of `preset_side` are fastest; `compiled` tries torch.compile too."""
    few = Splits(splits.train[: 10 * recipe.batch_size], splits.valid)
    return _fastest(lambda settings: preset_side(recipe, few, platform, settings), True, compiled)


def fastest_epoch(task: Task, way: str, compiled: bool = False) -> Settings:
    """Return the settings at which ten batches of `epoch_side` are fastest; `compiled` tries torch.compile too."""
    few = task._replace(splits=Splits(task.splits.train[: 10 * task.learner.batch_size], task.splits.valid))
    has_kernels = any(array.ndim == 4 for array in to_state_dict(task.state.params).values())
    return _fastest(lambda settings: epoch_side(few, way, settings), has_kernels, compiled)


def fastest_record(splits: Splits, platform: str, compiled: bool = False) -> Settings:
    """Return the settings at which ten batches of `record_side` are fastest; `compiled` tries torch.compile too."""
    few = Splits(splits.train[: 10 * BATCH_SIZE], splits.valid)
    return _fastest(lambda settings: record_side(few, platform, settings), True, compiled)


def _fastest(make: Callable[[Settings], Side], has_kernels: bool, compiled: bool) -> Settings:
    """Return the settings whose side has the fastest of five runs, in turns with the others and after a first run."""
    # PyTorch's threads wait by spinning: if others use the cores too, one can be ten times as fast as two.
    counts = sorted({1, torch.get_num_threads()})
    layouts, compiling = ([False, True] if tried else [False] for tried in (has_kernels, compiled))
    candidates = [Settings(*values) for values in itertools.product(counts, layouts, compiling)]
    try:
        times = time_in_turns([make(settings).work for settings in candidates], 5)
    except Exception as error:  # torch.compile fails in as many ways as there are compilers
        if not compiled:
            raise
        reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        raise ValueError(f"--compile: torch.compile fails on this machine ({reason}); leave it out") from error
    return min(zip(times, candidates, strict=True), key=lambda pair: min(pair[0][1:]))[1]


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Give PyTorch this number of threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
