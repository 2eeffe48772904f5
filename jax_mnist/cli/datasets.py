"""`datasets`: the datasets by name, and where they are on this machine."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from ..data.download import cache_directory, present
from ..data.load import known_names
from ..data.registry import BUNDLED
from .console import EXIT_OK, make_console, script


@dataclasses.dataclass(frozen=True)
class DatasetsConfig:
    """List the datasets that --dataset and load() take by name, with their state, size on disk and path."""


def run(config: DatasetsConfig) -> int:
    """Print the table."""
    table = Table("name", "state", "size")
    table.add_column("path", overflow="fold")
    for row in [*_files(), *_prepared()]:
        table.add_row(*row)
    Console(markup=False, emoji=False).print(table)
    make_console().print(
        "A path works too: of IDX files, images, an .npz or a .csv. For TFDS: python -m jax_mnist prepare_tfds NAME"
    )
    return EXIT_OK


def _files() -> Iterator[tuple[str, str, str, str]]:
    for name in known_names():
        source = "mnist" if name == "mnist_sample" else name
        directory = present(source)
        if directory is None:
            yield name, "missing", "", f"downloaded to {cache_directory() / source} on first use"
        else:
            states = {cache_directory() / source: "cached", BUNDLED: "bundled"}
            yield name, states.get(directory, "installed"), _size(directory), str(directory)


def _prepared() -> Iterator[tuple[str, str, str, str]]:
    from ..data.formats.tfds import data_directory, prepared_directories

    found = prepared_directories()
    for name in [*known_names(), *sorted(found.keys() - set(known_names()))]:
        if name in found:
            yield f"tfds:{name}", "prepared", _size(found[name]), str(found[name])
        else:
            yield f"tfds:{name}", "missing", "", f"to be prepared in {data_directory()}"


def _size(directory: Path) -> str:
    return decimal(sum(file.stat().st_size for file in directory.iterdir() if file.is_file()))


main = script(DatasetsConfig, run)
