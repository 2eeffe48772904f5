"""`python -m jax_mnist` alone: the versions and devices that a bug report needs."""

import importlib.metadata
import platform

import jax
from rich.console import Console
from rich.table import Table

from .console import EXIT_OK

_PACKAGES = ("jax_mnist", "jax", "jaxlib", "flax", "optax", "tensorflow-datasets", "numpy", "torch")


def run() -> int:
    """Print the table."""
    table = Table("what", "version or kind", title="jax_mnist")
    table.add_row("Python", f"{platform.python_version()} on {platform.platform()}")
    for name in _PACKAGES:
        table.add_row(name, _version(name))
    for device in jax.devices():
        table.add_row(f"device {device.id}", f"{device.platform} ({device.device_kind})")
    console = Console()
    console.print(table)
    console.print(
        "Commands: python -m jax_mnist {train,sweep,lr_find,evaluate,export,predict,compare_torch,speedrun,"
        "export_folder,export_page,prepare_tfds,datasets} --help",
        highlight=False,
    )
    return EXIT_OK


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
