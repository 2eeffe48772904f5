"""The peer of `speedrun`: the published PyTorch recipe for 99% in one epoch, as a process of its own.

    python -P jax_mnist/cli/torch_record.py --runs 3

Nothing of the package is imported, so that this process pays for PyTorch and NumPy and not for JAX.

Source: the recipe of https://github.com/tuomaso/train_mnist_fast as described: its net, its Adam, one epoch of 256
in file order, a one-cycle schedule; the code is our own.
"""

import argparse
import gzip
import importlib
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

BUNDLED = Path(__file__).parents[1] / "data" / "bundled"
_PARTS = ("train", "t10k")
BATCH_SIZE, PEAK, BETAS = 256, 1e-2, (0.7, 0.9)


def import_torch() -> Any:
    """The module torch. Raises ValueError, saying how to get it, where it is not installed."""
    try:
        return importlib.import_module("torch")
    except ImportError as error:
        raise ValueError('PyTorch is not installed; run: pip install "jax_mnist[compare]"') from error


def tensors_of(images: np.ndarray, labels: np.ndarray) -> tuple[Any, Any]:
    """uint8 [n, 28, 28] and int [n] as float [n, 1, 28, 28], shifted and scaled, and int64 [n]."""
    torch = import_torch()
    pixels = torch.from_numpy(images).unsqueeze(1).float()
    return pixels.div_(255).sub_(0.1307).div_(0.3081), torch.from_numpy(labels.astype(np.int64))


def make_net() -> Any:
    """The recipe's net, 28x28 -> 24x24 -> 12x12 -> 10x10 -> 5x5, with PyTorch's own random weights."""
    nn = import_torch().nn
    first = nn.Conv2d(1, 24, 5), nn.MaxPool2d(2), nn.ReLU()
    second = nn.Conv2d(24, 32, 3), nn.MaxPool2d(2), nn.ReLU()
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(800, 256), nn.ReLU(), nn.Linear(256, 10))


def train(seed: int, x: Any, y: Any) -> Any:
    """The net after one epoch over the images in their order; `x` and `y` are those of `tensors_of`."""
    torch = import_torch()
    torch.manual_seed(seed)
    net = make_net()
    optimizer = torch.optim.Adam(net.parameters(), lr=PEAK, betas=BETAS)
    steps = math.ceil(len(x) / BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK, total_steps=steps, cycle_momentum=False)
    for images, labels in zip(x.split(BATCH_SIZE), y.split(BATCH_SIZE), strict=True):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(images), labels).backward()
        optimizer.step()
        schedule.step()
    return net


def accuracy(net: Any, x: Any, y: Any) -> float:
    """The share of right answers, in [0, 1]."""
    with import_torch().no_grad():
        right = sum(int((net(a).argmax(1) == b).sum()) for a, b in zip(x.split(1000), y.split(1000), strict=True))
    return right / len(x)


def run(runs: int, threads: int | None) -> dict[str, Any]:
    """Train that often, the seeds 0, 1, ...; seconds of training, accuracies, and the process until the first."""
    torch = import_torch()
    if runs < 1:
        raise ValueError(f"--runs must be 1 or more, not {runs}")
    if threads is not None:
        torch.set_num_threads(threads)
    train_set, test_set = (tensors_of(_read(f"{part}-images", 16), _read(f"{part}-labels", 8)) for part in _PARTS)
    seconds, accuracies, process = [], [], math.nan
    for seed in range(runs):
        start = time.perf_counter()
        net = train(seed, *train_set)
        seconds.append(time.perf_counter() - start)
        accuracies.append(accuracy(net, *test_set))
        process = seconds_since_start() if seed == 0 else process
    return {
        "accuracies": accuracies,
        "accuracy_mean": statistics.mean(accuracies),
        "train_seconds": statistics.median(seconds),
        "first_run_seconds": seconds[0],
        "process_seconds": process,
        "threads": torch.get_num_threads(),
    }


def _read(name: str, header: int) -> np.ndarray:
    (path,) = BUNDLED.glob(f"{name}-*.gz")
    data = np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header).copy()
    return data.reshape(-1, 28, 28) if "images" in name else data


def seconds_since_start() -> float:
    """How long this process has run, from its start as the system knows it: to 0.01 s on Linux, NaN elsewhere."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        uptime = float(Path("/proc/uptime").read_text().split()[0])
    except OSError:
        return math.nan
    return uptime - int(fields[19]) / os.sysconf("SC_CLK_TCK")


def main(args: Sequence[str] | None = None) -> int:
    """Print what `run` gives as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1, help="how many seeds")
    parser.add_argument("--threads", type=int, help="PyTorch's threads (default: its own choice)")
    options = parser.parse_args(args)
    try:
        print(json.dumps(run(options.runs, options.threads)))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
