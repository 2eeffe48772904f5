"""Record PyTorch for test_torch_parity.py in recorded/torch.npz: `python tests/record_torch.py`."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
from ladder import BATCH_SIZE, CHAPTER_EPOCHS, CHAPTER_RULE, EPOCHS, EVERY, RULES, Rule, flat, mixed, start

from jax_mnist import Dataset, load

FILE = Path(__file__).parent / "recorded" / "torch.npz"


def pytorch() -> Any:
    """Import PyTorch only when it is called: test_torch_parity.py imports this module and runs without PyTorch."""
    return importlib.import_module("torch")


def simple_net(dtype: str) -> Any:
    """Return the chapter's `simple_net` in float64 or float32, with the weights that both sides start from."""
    torch = pytorch()
    module = torch.nn.Sequential(torch.nn.Linear(784, 30), torch.nn.ReLU(), torch.nn.Linear(30, 1))
    module.to(getattr(torch, dtype)).load_state_dict({name: torch.from_numpy(a) for name, a in start().items()})
    return module


def sgd(module: Any, rule: Rule) -> Any:
    """Return PyTorch's optimizer."""
    return pytorch().optim.SGD(module.parameters(), **rule._asdict())


def tensors(dataset: Dataset, dtype: str) -> tuple[Any, Any]:
    """Return the chapter's x [n, 784] and y [n, 1]."""
    torch = pytorch()
    x = torch.from_numpy(dataset.images).to(getattr(torch, dtype)).div(255).view(-1, 784)
    return x, torch.from_numpy(dataset.labels).unsqueeze(1)


def mnist_loss(module: Any, x: Any, y: Any) -> Any:
    """Return the chapter's loss of a batch."""
    predictions = module(x).sigmoid()
    return pytorch().where(y == 1, 1 - predictions, predictions).mean()


def train_epoch(module: Any, optimizer: Any, x: Any, y: Any) -> list[float]:
    """Train for the chapter's epoch in the order of the data; return the loss before every step."""
    losses = []
    for i in range(0, len(x), BATCH_SIZE):
        loss = mnist_loss(module, x[i : i + BATCH_SIZE], y[i : i + BATCH_SIZE])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def gradients(module: Any, x: Any, y: Any) -> dict[str, np.ndarray]:
    """Return the gradients of the loss of a batch, by parameter name."""
    module.zero_grad()
    mnist_loss(module, x, y).backward()
    return {name: parameter.grad.numpy().copy() for name, parameter in module.named_parameters()}


def parameters(module: Any) -> dict[str, np.ndarray]:
    """Return the state_dict in NumPy."""
    return {name: tensor.numpy().copy() for name, tensor in module.state_dict().items()}


def correct(module: Any, x: Any, y: Any) -> int:
    """Return the number of correct predictions."""
    return int(((module(x) > 0) == (y == 1)).sum())


def record() -> dict[str, np.ndarray]:
    """Return losses, parameters and gradients of every rule in float64, and the chapter's whole run in float32."""
    train, valid = map(mixed, load("mnist_sample"))
    recorded = {}
    x, y = tensors(train, "float64")
    for name, rule in RULES.items():
        module = simple_net("float64")
        optimizer = sgd(module, rule)
        recorded[f"{name}/losses"] = np.array([train_epoch(module, optimizer, x, y) for _ in range(EPOCHS)])
        recorded[f"{name}/parameters"] = flat(parameters(module))[::EVERY]
        recorded[f"{name}/gradients"] = flat(gradients(module, x[:BATCH_SIZE], y[:BATCH_SIZE]))[::EVERY]
    module, data, right = simple_net("float32"), tensors(train, "float32"), []
    optimizer = sgd(module, CHAPTER_RULE)
    for _ in range(CHAPTER_EPOCHS):
        train_epoch(module, optimizer, *data)
        right.append(correct(module, *tensors(valid, "float32")))
    return recorded | {"chapter/correct": np.array(right), "chapter/parameters": flat(parameters(module))}


if __name__ == "__main__":
    FILE.parent.mkdir(exist_ok=True)
    np.savez_compressed(FILE, allow_pickle=False, **record())
