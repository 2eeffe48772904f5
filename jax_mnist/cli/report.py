"""`python -m jax_mnist` without a command: the versions and devices that a bug report needs."""

import importlib.metadata
import platform
from collections.abc import Iterable

import jax
from rich.console import Console
from rich.table import Table

from .console import EXIT_OK

_PACKAGES = ("jax_mnist", "jax", "jaxlib", "flax", "optax", "tensorflow-datasets", "numpy", "torch")


def run(commands: Iterable[str]) -> int:
    """Print the table, and the names of the commands."""
    table = Table("", "version or kind", title="jax_mnist")
    table.add_row("Python", f"{platform.python_version()} on {platform.platform()}")
    for name in _PACKAGES:
        table.add_row(name, _version(name))
    for device in jax.devices():
        table.add_row(f"device {device.id}", f"{device.platform} ({device.device_kind})")
    console = Console(highlight=False)
    console.print(table)
    console.print(f"Commands: python -m jax_mnist {{{','.join(commands)}}} --help", markup=False)
    return EXIT_OK


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
