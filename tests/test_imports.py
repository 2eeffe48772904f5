"""The imports between packages, the libraries that `import jax_mnist` loads, and its public names."""

import ast
import graphlib
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import jax_mnist

PACKAGE = Path(jax_mnist.__file__).parent

# From top to bottom: a module imports from its own package and from layers below, never from beside or above.
LAYERS = [
    {"cli"},
    {"runs"},
    {"recipes"},
    {"analysis", "export", "speedrun"},
    {"plots"},
    {"training"},
    {"data", "models"},
    {"chapter"},
    {"losses", "metrics", "pixels", "files", "words"},
    {"labels"},
    {"types"},
]


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


def layer(module):
    (found,) = [n for n, names in enumerate(LAYERS) if module.partition(".")[0] in names]
    return found


MODULES = {str(f.relative_to(PACKAGE).with_suffix("")).replace("/", "."): f for f in PACKAGE.rglob("*.py")}
MODULES = {name: file for name, file in MODULES.items() if name not in ("__init__", "__main__")}


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_down(name):
    package = name.partition(".")[0]
    for other in imported(MODULES[name]):
        assert other.partition(".")[0] == package or layer(other) > layer(name), other


def test_no_import_circles():
    # A package's __init__ imports its modules, which import from other packages' modules, not from their __init__.
    graph = {name: set(imported(file)) for name, file in MODULES.items() if not name.endswith("__init__")}
    graphlib.TopologicalSorter(graph).prepare()


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
    "scipy.special",
    "pooch",
    "requests",
    "grain",
)


def test_import_loads_no_library():
    # A command stops quietly on Ctrl-C only after this import, and those of JAX and optax take a second.
    names = ("jax", "optax", "numpy", "scipy", *HEAVY)
    code = "import sys; from jax_mnist.cli.signals import exit_on_signals; import jax_mnist"
    assert loaded_by(f"{code}; print(*[name for name in {names} if name in sys.modules])") == []


def test_names_load_the_heavy_libraries_on_first_use():
    code = f"""
import sys, jax_mnist
def loaded():
    return [name for name in {HEAVY} if name in sys.modules]
jax_mnist.load, jax_mnist.mlp, jax_mnist.fit, jax_mnist.load_run
print(*loaded(), "flax_mlp:")
jax_mnist.flax_mlp
print(*loaded(), "plots:")
jax_mnist.plots
print(*loaded())
"""
    words = loaded_by(code)
    assert words[0] == "flax_mlp:"  # nothing is loaded before it
    assert "flax" in words[: words.index("plots:")]
    assert "matplotlib" in words[words.index("plots:") :]


ROOMS = ["chapter", "data", "models", "training", "analysis", "export", "speedrun", "plots", "losses", "metrics"]


@pytest.mark.parametrize("name", ["", *ROOMS])
def test_every_public_name_exists_and_is_documented(name):
    module = importlib.import_module(f"jax_mnist.{name}".rstrip("."))
    assert len(set(module.__all__)) == len(module.__all__)
    for public in module.__all__:
        assert getattr(module, public).__doc__, public


def test_at_most_60_names_are_at_the_top():
    packages = {"analysis", "chapter", "data", "export", "models", "speedrun", "training"}
    assert packages | {*ROOMS} <= {*jax_mnist.__all__} == {*dir(jax_mnist)}
    assert len({*jax_mnist.__all__} - packages) <= 60
    with pytest.raises(AttributeError, match="nothing"):
        jax_mnist.nothing  # noqa: B018
