"""Run the notebooks from their text, each in a fresh kernel: `notebooks/NAME.md` to `notebooks/NAME.ipynb`.

With `--check`, nothing is written: it fails if a stored notebook differs from what its text gives now.
"""

import dataclasses
import re
import sys
import time
from pathlib import Path

import jupytext
import nbclient
import nbformat
import tyro

FOLDER = Path(__file__).parents[1] / "notebooks"
NUMBER = re.compile(r"-?\d+\.?\d*(?:e[+-]?\d+)?")


@dataclasses.dataclass(frozen=True)
class NotebooksConfig:
    """Run the notebooks and store them with their outputs."""

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """Notebooks to run, such as 01_mnist_basics; all if none is named."""
    check: bool = False
    """Write nothing; fail if a stored notebook is stale."""


def run(text: Path) -> nbformat.NotebookNode:
    """Return the notebook of a text, run from top to bottom. Raises the error of a cell."""
    notebook = jupytext.read(text)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(FOLDER)}}).execute()
    for i, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{i}"
        cell.metadata.pop("execution", None)
    return notebook


def stale(stored: nbformat.NotebookNode, fresh: nbformat.NotebookNode) -> list[str]:
    """Return what differs: a cell's source, its printed words, its numbers by more than rounding, or its pictures."""
    if [cell.source for cell in stored.cells] != [cell.source for cell in fresh.cells]:
        return ["the text of its cells"]
    code = [(old, new) for old, new in zip(stored.cells, fresh.cells, strict=True) if old.cell_type == "code"]
    return [f"the output of: {old.source.splitlines()[0]}" for old, new in code if not same(shown(old), shown(new))]


def shown(cell: nbformat.NotebookNode) -> tuple[str, int]:
    """Return the text that a cell shows, and its number of pictures."""
    text, pictures = "", 0
    for output in cell.outputs:
        data = output.get("data", {})
        pictures += "image/png" in data
        text += output.get("text", "") + ("" if "image/png" in data else data.get("text/plain", ""))
    return text, pictures


def same(old: tuple[str, int], new: tuple[str, int]) -> bool:
    """Return True if two outputs agree; their numbers may differ as much as those of two processors do."""
    numbers = [[float(number) for number in NUMBER.findall(text)] for text, _ in (old, new)]
    words = [NUMBER.sub("#", text).split() for text, _ in (old, new)]
    close = all(abs(a - b) <= 0.02 * abs(a) + 0.004 for a, b in zip(*numbers, strict=False))
    return old[1] == new[1] and words[0] == words[1] and close


def main() -> int:
    """Run or check the notebooks, and print a line for each."""
    config = tyro.cli(NotebooksConfig)
    failed = False
    for text in [FOLDER / f"{name}.md" for name in config.names] or sorted(FOLDER.glob("*.md")):
        start = time.perf_counter()
        fresh, path = run(text), text.with_suffix(".ipynb")
        differences = stale(nbformat.read(path, as_version=4), fresh) if config.check else []
        if not config.check:
            nbformat.write(fresh, path)
        failed |= bool(differences)
        print(f"{path.name}: {time.perf_counter() - start:.0f} s {'stale: ' if differences else ''}", *differences)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
