"""PyTorch's side of `compare_torch`: the model, an epoch and its variants. Torch is imported when it is asked for."""

import contextlib
import functools
import importlib
import timeit
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..export.pytorch import to_state_dict
from ..types import Dataset, Params


class TorchLearner(NamedTuple):
    """A module on its device with what trains it: PyTorch's objects, which change in place."""

    module: Any
    optimizer: Any
    loss: Callable[[Any, Any, Any], Any]
    """module, x, y -> the mean loss."""


def import_torch() -> Any:
    """The module torch. Raises ValueError, saying how to get it, where it is not installed."""
    try:
        return importlib.import_module("torch")
    except ImportError as error:
        raise ValueError('PyTorch is not installed; run: pip install "jax_mnist[compare]"') from error


def choose_device(platform: str) -> str:
    """PyTorch's name for JAX's platform. On a GPU it turns TF32 off, so that both compute in full float32."""
    torch = import_torch()
    if platform == "cpu":
        return "cpu"
    if platform != "gpu" or not torch.cuda.is_available():
        raise ValueError(f"PyTorch finds no {platform} here, where JAX runs; choose --platform cpu")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    return "cuda"


def version() -> str:
    """PyTorch's version, or that it is not installed."""
    try:
        return f"torch {import_torch().__version__}"
    except ValueError:
        return "torch not installed"


def describe(device: str) -> str:
    """PyTorch's version, device and precision: "torch 2.13.0 on cpu, 2 thread(s)"."""
    torch = import_torch()
    if device == "cpu":
        return f"torch {torch.__version__} on cpu, {torch.get_num_threads()} thread(s)"
    return f"torch {torch.__version__} on {torch.cuda.get_device_name()}; both in full float32, without TF32"


def make_learner(params: Params, learning_rate: float, device: str) -> TorchLearner:
    """SGD on the same chain of layers, in the dtype and with the values of our parameters."""
    torch = import_torch()
    arrays = [torch.from_numpy(array) for array in to_state_dict(params).values()]
    module = torch.nn.Sequential(*_layers([array for array in arrays if array.ndim > 1])).to(arrays[0].dtype)
    module.load_state_dict(dict(zip(module.state_dict(), arrays, strict=True)))
    module.to(device)
    loss = _mnist_loss if len(arrays[-1]) == 1 else _cross_entropy
    return TorchLearner(module, torch.optim.SGD(module.parameters(), lr=learning_rate), loss)


def _layers(weights: Sequence[Any]) -> list[Any]:
    """Convolutions, each with a pooling and a ReLU, then linear layers with ReLUs between; `cnn()` or `mlp`."""
    nn = import_torch().nn
    kernels = [weight for weight in weights if weight.ndim == 4]
    layers = [nn.Unflatten(1, (1, 28, 28))] if kernels else []
    for o, i, height, width in (kernel.shape for kernel in kernels):
        layers += [nn.Conv2d(i, o, (height, width), padding="same"), nn.MaxPool2d(2), nn.ReLU()]
    layers += [nn.Flatten()] if kernels else []
    for o, i in (weight.shape for weight in weights[len(kernels) :]):
        layers += [nn.Linear(i, o), nn.ReLU()]
    return layers[:-1]


def _mnist_loss(module: Any, x: Any, y: Any) -> Any:
    predictions = module(x).sigmoid().squeeze(1)
    return import_torch().where(y == 1, 1 - predictions, predictions).mean()


def _cross_entropy(module: Any, x: Any, y: Any) -> Any:
    return import_torch().nn.functional.cross_entropy(module(x), y)


def tensors_of(dataset: Dataset, learner: TorchLearner) -> tuple[Any, Any]:
    """The chapter's x [n, 784] in [0, 1], and y [n] int64, on the module's device and in its dtype."""
    torch = import_torch()
    like = next(learner.module.parameters())
    x = torch.from_numpy(np.asarray(dataset.images)).to(like).div(255).view(len(dataset), -1)
    return x, torch.from_numpy(np.asarray(dataset.labels)).long().to(like.device)


def step(learner: TorchLearner, x: Any, y: Any) -> Any:
    """Loss, gradients and one step; returns the loss before it."""
    loss = learner.loss(learner.module, x, y)
    learner.optimizer.zero_grad()
    loss.backward()
    learner.optimizer.step()
    return loss.detach()


def train_epoch(learner: TorchLearner, x: Any, y: Any, order: np.ndarray, batch_size: int) -> float:
    """One epoch over the images in the given order; returns their mean loss, each seen before its batch's step."""
    total = 0.0
    for places in import_torch().from_numpy(order).to(x.device).split(batch_size):
        total += float(step(learner, x[places], y[places])) * len(places)
    return total / len(order)


def evaluate(learner: TorchLearner, x: Any, y: Any) -> tuple[float, int]:
    """The mean loss over all images and the number of right answers."""
    with import_torch().no_grad():
        logits = learner.module(x)
        right = (logits[:, 0] > 0) == (y == 1) if logits.shape[1] == 1 else logits.argmax(1) == y
        return float(learner.loss(learner.module, x, y)), int(right.sum())


def epoch_of_data_loader(learner: TorchLearner, x: Any, y: Any, batch_size: int, shuffle: bool) -> Callable[[], None]:
    """The chapter's epoch, over a DataLoader of list(zip(x, y))."""
    pairs = list(zip(x, y, strict=True))
    loader = import_torch().utils.data.DataLoader(pairs, batch_size=batch_size, shuffle=shuffle)
    return lambda: _steps(learner, loader)


def epoch_of_slices(learner: TorchLearner, x: Any, y: Any, batch_size: int, shuffle: bool) -> Callable[[], None]:
    """The same without a DataLoader: the tensors shuffled, if at all, once an epoch, then sliced."""
    torch = import_torch()

    def epoch() -> None:
        order = torch.randperm(len(x), device=x.device) if shuffle else slice(None)
        _steps(learner, zip(x[order].split(batch_size), y[order].split(batch_size), strict=True))

    return epoch


def epoch_of_compiled_slices(
    learner: TorchLearner, x: Any, y: Any, batch_size: int, shuffle: bool
) -> Callable[[], None]:
    """The same with the forward and backward pass under torch.compile, all of which waits for the first call."""

    @functools.cache
    def epoch() -> Callable[[], None]:
        return epoch_of_slices(learner._replace(loss=import_torch().compile(learner.loss)), x, y, batch_size, shuffle)

    return lambda: epoch()()


def _steps(learner: TorchLearner, batches: Iterable[Any]) -> None:
    losses = [step(learner, *batch) for batch in batches]
    float(losses[-1])  # a GPU has then finished the epoch


@contextlib.contextmanager
def faster_threads(epoch: Callable[[], None]) -> Iterator[None]:
    """Inside, PyTorch has one thread or as many as it chose itself, whichever runs the epoch faster.

    Its threads wait for each other by spinning: where others use the cores too, two can be ten times slower than
    one, and the comparison would be with that.
    """
    torch = import_torch()
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(min({1, before}, key=lambda count: _seconds_with_threads(epoch, count)))
        yield
    finally:
        torch.set_num_threads(before)


def _seconds_with_threads(epoch: Callable[[], None], count: int) -> float:
    import_torch().set_num_threads(count)
    return min(timeit.repeat(epoch, number=1, repeat=3))
