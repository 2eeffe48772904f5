"""The house: which file may import which, and what `import jax_mnist` alone may load."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import jax_mnist

PACKAGE = Path(jax_mnist.__file__).parent

# What each file imports from the package. `types` and `files` are free to all; cli, plots and models see all below.
ARROWS = {
    "types": set(),
    "files": set(),
    "losses": set(),
    "metrics": set(),
    "sharding": set(),
    "data.batches": {"sharding"},
    "data.idx": set(),
    "data.folders": set(),
    "data.photos": {"data.folders"},
    "data.family": set(),
    "data.downloads": {"data.family", "data.idx"},
    "data.tfds": {"data.family"},
    "data.sources": {"data.downloads", "data.family", "data.folders", "data.idx", "data.tfds"},
    "baseline": {"data.batches"},
    "from_scratch": {"losses"},
    "parabola": {"from_scratch", "losses"},
    "averaging": set(),
    "data.augment": set(),
    "evaluation": {"sharding", "averaging", "data.batches", "metrics"},
    "training": {"sharding", "averaging", "data.batches", "evaluation"},
    "guard": {"training"},
    "sweeps": {"sharding", "averaging", "evaluation", "training"},
    "learning_rates": {"evaluation", "sweeps"},
    "ensembles": {"data.batches", "evaluation", "metrics"},
    "interpret": {"data.batches", "evaluation", "metrics"},
    "models.dense": {"from_scratch"},
    "models.columns": set(),
    "models.patches": set(),
    "models.conv": {"models.patches"},
    "models.precision": set(),
    "models.modules": {"models.conv"},
    "models.nnx": {"models.conv", "models.modules"},
    "checkpoints": set(),
    "export": {"data.batches"},
    "pytorch": set(),
    "page": {"pytorch"},
    "plots.axes": set(),
    "plots.images": {"plots.axes"},
    "plots.fits": {"plots.axes"},
    "plots.training": {"plots.axes"},
    "plots.judging": {"metrics", "plots.axes"},
    "plots.speed": {"plots.axes"},
    "report_page": {"interpret", "plots"},
    "report": {"interpret", "report_page"},
    "speedrun": {"models.columns"},
}


def imported(file):
    """The package's modules that a file imports, by its syntax tree."""
    here = ("jax_mnist", *file.relative_to(PACKAGE).with_suffix("").parts)
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = ".".join((*here[: -node.level], *([node.module] if node.module else [])))
            for name in [base, *(f"{base}.{alias.name}" for alias in node.names)]:
                place = PACKAGE.parent / name.replace(".", "/")
                if place.with_suffix(".py").is_file() or (place != PACKAGE and (place / "__init__.py").is_file()):
                    yield name.removeprefix("jax_mnist.")


@pytest.mark.parametrize("name", ARROWS)
def test_nothing_points_back_up(name):
    found = set(imported(PACKAGE / (name.replace(".", "/") + ".py"))) - {"types", "files"}
    assert found == ARROWS[name]


def test_every_file_has_its_place():
    files = {str(f.relative_to(PACKAGE).with_suffix("")).replace("/", ".") for f in PACKAGE.rglob("*.py")}
    library = {f for f in files if not f.startswith("cli.") and not f.endswith(("__init__", "__main__"))}
    assert library == set(ARROWS)


def loaded_by(code):
    output = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    return output.stdout.split()


HEAVY = (
    "flax",
    "tensorflow_datasets",
    "tensorflow",
    "matplotlib",
    "torch",
    "PIL",
    "tyro",
    "rich",
    "scipy.ndimage",
    "pooch",
    "requests",
    "grain",
)


def test_import_is_light_and_the_rest_comes_on_first_use():
    code = f"import sys, jax_mnist; {{}}; print(*[name for name in {HEAVY} if name in sys.modules])"
    assert loaded_by(code.format("pass")) == []
    assert "flax" in loaded_by(code.format("jax_mnist.flax_mlp"))
    assert "matplotlib" in loaded_by(code.format("jax_mnist.plots"))


def test_every_public_name_is_there_and_documented():
    assert sorted(jax_mnist.__all__) == jax_mnist.__all__ == dir(jax_mnist)
    for name in jax_mnist.__all__:
        assert getattr(jax_mnist, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        jax_mnist.nothing  # noqa: B018
