"""The API reference: one page for each package, on which every public name stands once. `make docs` builds it."""

import importlib
import re
from pathlib import Path

import pytest

import jax_mnist

DOCS = Path(__file__).parents[1] / "docs"
PACKAGES = ["analysis", "chapter", "data", "export", "losses", "metrics", "models", "plots", "speedrun", "training"]
TYPES = ["Batch", "Dataset", "EpochRecord", "History", "Layer", "Learner", "Metrics", "Model", "Splits", "TrainState"]


def names_on_page(page):
    """Return the module that a page documents, and the names on it, in its order."""
    text = (DOCS / f"reference/{page}.md").read_text(encoding="utf-8")
    (module,) = re.findall(r"^\.\. automodule:: jax_mnist\.(\w+)$", text, re.MULTILINE)
    assert re.findall(r"^\.\. currentmodule:: (.+)$", text, re.MULTILINE) == [f"jax_mnist.{module}"]
    return module, re.findall(r"^\.\. auto(?:class|data|exception|function):: (\w+)$", text, re.MULTILINE)


def test_reference_has_one_page_for_each_package_and_the_types():
    assert sorted(path.stem for path in DOCS.glob("reference/*.md")) == sorted([*PACKAGES, "types"])
    with_names = [path.parent.name for path in Path(jax_mnist.__file__).parent.glob("*/__init__.py")]
    assert {name for name in with_names if name != "cli"} <= set(PACKAGES)


@pytest.mark.parametrize("package", PACKAGES)
def test_page_has_each_public_name_of_its_package_once(package):
    module, names = names_on_page(package)
    assert module == package
    assert sorted(names) == sorted(importlib.import_module(f"jax_mnist.{package}").__all__)


def test_page_of_types_has_each_type_once():
    module, names = names_on_page("types")
    assert module == "types"
    assert sorted(names) == TYPES


def test_each_public_object_is_on_exactly_one_page():
    documented = []
    for page in [*PACKAGES, "types"]:
        package = importlib.import_module(f"jax_mnist.{page}")
        documented += [package, *(getattr(package, name) for name in names_on_page(page)[1])]
    for name in jax_mnist.__all__:
        assert sum(value is getattr(jax_mnist, name) for value in documented) == 1, name
    assert len(set(map(id, documented))) == len(documented)


def test_contents_list_every_page():
    contents = (DOCS / "index.md").read_text(encoding="utf-8")
    pages = re.findall(r"^reference/(\w+)$", contents, re.MULTILINE)
    assert sorted(pages) == sorted(path.stem for path in DOCS.glob("reference/*.md"))
