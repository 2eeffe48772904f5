"""PyTorch programs as their users write them: the record recipe for MNIST, and the chapter's net. They import no JAX.

    python scripts/benchmark/torch_scripts.py record --threads 2 --channels-last
    python scripts/benchmark/torch_scripts.py chapter --data-loader

Both read the bundled IDX files and write result.json; the chapter's also draws curves.png.

The record recipe is that of https://github.com/tuomaso/train_mnist_fast: its net, its Adam, one epoch of batches of 256
in file order, a one-cycle schedule. The code is our own.
"""

import argparse
import gzip
import json
import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

try:
    import torch  # pyright: ignore[reportMissingImports]  # lint runs without PyTorch too
except ImportError:
    print('error: PyTorch is not installed; run: pip install "jax_mnist[compare]"', file=sys.stderr)
    sys.exit(2)

nn = torch.nn
BUNDLED = Path(__file__).parents[2] / "jax_mnist" / "data" / "bundled"
BATCH_SIZE = 256


class Settings(NamedTuple):
    """Options that can make a PyTorch program faster."""

    threads: int
    channels_last: bool = False
    compiled: bool = False


def describe(settings: Settings) -> str:
    """Return the settings as text: "2 threads, channels_last"."""
    words = [f"{settings.threads} thread{'s' if settings.threads > 1 else ''}"]
    words += ["channels_last"] if settings.channels_last else []
    return ", ".join(words + (["torch.compile"] if settings.compiled else []))


def tensors_of(images: np.ndarray, labels: np.ndarray, device: str = "cpu", normalized: bool = True) -> tuple[Any, Any]:
    """Return uint8 [n, 28, 28] and int [n] as float [n, 1, 28, 28], in [0, 1] or normalized, and int64 [n]."""
    pixels = torch.from_numpy(images).to(device).unsqueeze(1).float().div_(255)
    return pixels.sub_(0.1307).div_(0.3081) if normalized else pixels, torch.from_numpy(labels).to(device).long()


def make_record_net() -> Any:
    """Return the record recipe's net, 28x28 -> 24x24 -> 12x12 -> 10x10 -> 5x5, with PyTorch's random weights."""
    first = nn.Conv2d(1, 24, 5), nn.MaxPool2d(2), nn.ReLU()
    second = nn.Conv2d(24, 32, 3), nn.MaxPool2d(2), nn.ReLU()
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(800, 256), nn.ReLU(), nn.Linear(256, 10))


def train_record(seed: int, x: Any, y: Any, channels_last: bool = False, compiled: bool = False) -> Any:
    """Return the record recipe's net after its one epoch over `tensors_of` the training images."""
    torch.manual_seed(seed)
    net = make_record_net().to(x.device)
    if channels_last:  # images of one channel are the same in both layouts
        net.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2, betas=(0.7, 0.9))
    batches = slices(x, y, BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=len(batches), cycle_momentum=False)
    train(torch.compile(net) if compiled else net, nn.functional.cross_entropy, optimizer, batches, schedule)
    return net


class Preset(NamedTuple):
    """The net of the presets with convolutions, and its training."""

    net: Any
    matrices: list[tuple[Any, Any]]
    """The weights of each convolution, [o, i, k, k], and the same as the matrix [o, i*k*k] that Muon asks for."""
    optimizers: list[Any]
    schedules: list[Any]


def make_preset(
    filters: Sequence[int], rate: float, betas: tuple[float, float], steps: int, device: str = "cpu"
) -> Preset:
    """Return our `cnn` and its training: Muon for convolutions, Adam for the rest, a linear schedule."""
    f, g, h = filters
    convolutions = nn.Conv2d(1, f, 5), nn.Conv2d(f, g, 4, stride=2), nn.Conv2d(g, h, 3)
    first, second, third = convolutions
    layers = first, nn.MaxPool2d(2), nn.Hardswish(), second, nn.Hardswish(), third, nn.Hardswish()
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(9 * h, 10)).to(device)
    matrices = [(layer.weight, nn.Parameter(layer.weight.detach().flatten(1).clone())) for layer in convolutions]
    others: Any = [layer.bias for layer in convolutions] + list(net[-1].parameters())
    muon = torch.optim.Muon(
        [matrix for _, matrix in matrices], rate, weight_decay=0, momentum=0.9, adjust_lr_fn="match_rms_adamw"
    )
    adam = torch.optim.Adam(others, rate, betas, fused=True)
    rise = math.ceil(0.1 * steps)

    def schedule(step: int) -> float:
        return max(min(0.1 + 0.9 * step / rise, (steps - step) / (steps - rise)), 0)

    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, schedule) for optimizer in (muon, adam)]
    return Preset(net, matrices, [muon, adam], schedules)


def train_preset(preset: Preset, forward: Any, batches: Iterable[Any], shift: int, rotation: float) -> None:
    """Train on batches of x [b, 1, 28, 28] and y [b], each image shifted and rotated at random."""
    for images, labels in batches:
        images = shifted(rotated(images, rotation), shift)
        loss = nn.functional.cross_entropy(forward(images), labels, label_smoothing=0.1)
        preset.net.zero_grad()
        loss.backward()
        for weights, matrix in preset.matrices:
            matrix.grad = weights.grad.flatten(1)
        for step in (*preset.optimizers, *preset.schedules):
            step.step()
        with torch.no_grad():
            for weights, matrix in preset.matrices:
                weights.copy_(matrix.view_as(weights))


def rotated(images: Any, degrees: float) -> Any:
    """Rotate each image [b, 1, 28, 28] by a random angle up to `degrees`."""
    if not degrees:
        return images
    angles = torch.deg2rad(degrees * (2 * torch.rand(len(images), device=images.device) - 1))
    zeros = torch.zeros_like(angles)
    rows = (angles.cos(), -angles.sin(), zeros), (angles.sin(), angles.cos(), zeros)
    matrices = torch.stack([torch.stack(row, 1) for row in rows], 1)
    grid = nn.functional.affine_grid(matrices, images.shape, align_corners=False)
    return nn.functional.grid_sample(images, grid, align_corners=False)


def shifted(images: Any, most: int) -> Any:
    """Shift each image [b, 1, 28, 28] by random whole pixels, at most `most` in each direction."""
    b, _, height, width = images.shape
    padded = nn.functional.pad(images, (most,) * 4)[:, 0]
    corners = torch.randint(0, 2 * most + 1, (2, b, 1, 1), device=images.device)
    rows = corners[0] + torch.arange(height, device=images.device).view(-1, 1)
    columns = corners[1] + torch.arange(width, device=images.device)
    return padded[torch.arange(b, device=images.device).view(-1, 1, 1), rows, columns].unsqueeze(1)


def train(forward: Any, loss_fn: Any, optimizer: Any, batches: Iterable[Any], schedule: Any = None) -> list[float]:
    """Take a step for each batch; return the losses before the steps."""
    losses = []
    for x, y in batches:
        loss = loss_fn(forward(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if schedule:
            schedule.step()
        losses.append(loss.detach())
    return torch.stack(losses).tolist()  # a GPU has then finished


def slices(x: Any, y: Any, batch_size: int, shuffle: bool = False) -> list[tuple[Any, Any]]:
    """Return an epoch's batches as slices of the tensors, which are shuffled as a whole."""
    if shuffle:
        order = torch.randperm(len(x), device=x.device)
        x, y = x[order], y[order]
    return list(zip(x.split(batch_size), y.split(batch_size), strict=True))


def data_loader(x: Any, y: Any, batch_size: int, shuffle: bool = False) -> Any:
    """Return the chapter's DataLoader over list(zip(x, y))."""
    pairs: Any = list(zip(x, y, strict=True))
    return torch.utils.data.DataLoader(pairs, batch_size, shuffle)


def record_accuracy(net: Any, x: Any, y: Any) -> float:
    """Return the accuracy, in [0, 1]."""
    with torch.no_grad():
        return torch.cat([net(images).argmax(1) for images in x.split(1000)]).eq(y).float().mean().item()


def chapter_loss(logits: Any, y: Any) -> Any:
    """Return the chapter's mnist_loss of logits [b, 1] and labels [b]."""
    predictions = logits.sigmoid().squeeze(1)
    return torch.where(y == 1, 1 - predictions, predictions).mean()


def train_chapter(epochs: int, with_loader: bool, device: str) -> float:
    """Train the chapter's net on 3s and 7s, draw curves.png, and return the accuracy on the validation images."""
    import matplotlib.pyplot as plt

    (x, y), (valid_x, valid_y) = (threes_and_sevens(part, device) for part in ("train", "t10k"))
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(784, 30), nn.ReLU(), nn.Linear(30, 1)).to(device)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    loader = data_loader(x, y, BATCH_SIZE, shuffle=True) if with_loader else None
    rows = []
    for _ in range(epochs):
        losses = train(net, chapter_loss, optimizer, loader or slices(x, y, BATCH_SIZE, shuffle=True))
        with torch.no_grad():
            logits = net(valid_x)
            correct = (logits.squeeze(1) > 0) == (valid_y == 1)
            rows.append((np.mean(losses), chapter_loss(logits, valid_y).item(), correct.float().mean().item()))
    _, ax = plt.subplots()
    ax.plot(rows, label=["train loss", "valid loss", "accuracy"])
    ax.set_xlabel("epoch")
    ax.legend()
    plt.savefig("curves.png")
    return rows[-1][-1]


def threes_and_sevens(part: str, device: str) -> tuple[Any, Any]:
    """Return x [n, 784] in [0, 1] and y [n], 1 for a 3 and 0 for a 7."""
    images, labels = read_idx(f"{part}-images", 16).reshape(-1, 784), read_idx(f"{part}-labels", 8)
    chosen = np.isin(labels, (3, 7))
    x, y = torch.from_numpy(images[chosen]).to(device), torch.from_numpy(labels[chosen] == 3).to(device)
    return x.float() / 255, y.long()


def read_idx(name: str, header: int) -> np.ndarray:
    """Return the bytes of a bundled IDX file, uint8 [n], without its header."""
    (path,) = BUNDLED.glob(f"{name}-*.gz")
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header).copy()


def main(args: Sequence[str] | None = None) -> None:
    """Train as the options say and write result.json."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("program", choices=["record", "chapter"])
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, help="number of threads; PyTorch chooses by default")
    parser.add_argument("--channels-last", action="store_true", help="use this memory layout for the record recipe")
    parser.add_argument(
        "--data-loader", action="store_true", help="batch with DataLoader instead of slicing, for the chapter's net"
    )
    parser.add_argument("--epochs", type=int, default=40, help="epochs of the chapter's net")
    options = parser.parse_args(args)
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.program == "chapter":
        accuracy = train_chapter(options.epochs, options.data_loader, options.device)
    else:
        parts = [(read_idx(f"{part}-images", 16), read_idx(f"{part}-labels", 8)) for part in ("train", "t10k")]
        train, test = (tensors_of(images.reshape(-1, 28, 28), labels, options.device) for images, labels in parts)
        accuracy = record_accuracy(train_record(0, *train, options.channels_last), *test)
    Path("result.json").write_text(json.dumps({"accuracy": accuracy}) + "\n")


if __name__ == "__main__":
    main()
