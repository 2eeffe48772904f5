"""The pages: the public names, files and commands that they name exist, and the versions agree."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

import jax_mnist
from jax_mnist.cli.console import command

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / ".github/SECURITY.md", *sorted(DOCS.glob("*.md"))]
PACKAGES = ["analysis", "chapter", "data", "export", "losses", "metrics", "models", "plots", "speedrun", "training"]
MODULES = ["recipes", "runs", "types"]


def names_on_page(page):
    """Return the module that a page documents, and the names on it, in its order."""
    text = (DOCS / f"reference/{page}.md").read_text(encoding="utf-8")
    (module,) = re.findall(r"^\.\. automodule:: jax_mnist\.(\w+)$", text, re.MULTILINE)
    assert re.findall(r"^\.\. currentmodule:: (.+)$", text, re.MULTILINE) == [f"jax_mnist.{module}"]
    return module, re.findall(r"^\.\. auto(?:class|data|exception|function):: (\w+)$", text, re.MULTILINE)


def test_reference_has_one_page_for_each_package_and_module():
    assert sorted(path.stem for path in DOCS.glob("reference/*.md")) == sorted([*PACKAGES, *MODULES])
    with_names = [path.parent.name for path in Path(jax_mnist.__file__).parent.glob("*/__init__.py")]
    assert {name for name in with_names if name != "cli"} <= set(PACKAGES)


@pytest.mark.parametrize("package", PACKAGES)
def test_page_has_each_public_name_of_its_package_once(package):
    module, names = names_on_page(package)
    assert module == package
    assert sorted(names) == sorted(importlib.import_module(f"jax_mnist.{package}").__all__)


@pytest.mark.parametrize("page", MODULES)
def test_page_has_each_public_class_and_function_of_its_module_once(page):
    module = importlib.import_module(f"jax_mnist.{page}")
    named, names = names_on_page(page)
    assert named == page
    defined = [name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
    public = sorted(name for name in defined if not name.startswith("_"))
    assert sorted(name for name in names if callable(getattr(module, name))) == public


def test_each_public_object_is_on_exactly_one_page():
    documented = []
    for page in [*PACKAGES, *MODULES]:
        package = importlib.import_module(f"jax_mnist.{page}")
        documented += [package, *(getattr(package, name) for name in names_on_page(page)[1])]
    for name in jax_mnist.__all__:
        assert sum(value is getattr(jax_mnist, name) for value in documented) == 1, name
    assert len(set(map(id, documented))) == len(documented)


def test_contents_list_every_page():
    contents = (DOCS / "index.md").read_text(encoding="utf-8")
    listed = re.findall(r"^(?:reference/)?\w+$", contents, re.MULTILINE)
    pages = [*DOCS.glob("*.md"), *DOCS.glob("reference/*.md")]
    assert sorted([*listed, "index"]) == sorted(path.relative_to(DOCS).with_suffix("").as_posix() for path in pages)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_file_that_a_page_names_exists(page):
    text = page.read_text(encoding="utf-8")
    links = [page.parent / link for link in re.findall(r"\]\((?!\w+:)([^)#]+)[^)]*\)", text)]
    named = re.findall(r"`((?:docs|jax_mnist|notebooks|scripts|tests)/[\w./]+)`|python (scripts/[\w./]+)", text)
    missing = [path for path in [*links, *(ROOT / (code or command) for code, command in named)] if not path.exists()]
    assert not missing


def test_every_command_on_a_page_parses():
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    commands = re.findall(r"^ +(?:mpirun -np 2 )?python scripts/(\w+)\.py(.*)$", text, re.MULTILINE)
    assert {"train", "evaluate", "predict", "export_page", "sweep"} <= {name for name, _ in commands}
    for name, args in commands:
        if (ROOT / f"jax_mnist/cli/{name}.py").exists():
            config_type, _ = importlib.import_module(f"jax_mnist.cli.{name}").main.args
            given = shlex.split(args.replace("--help", ""), comments=True)
            assert command(config_type, lambda config: 0, given) == 0


def test_versions_agree():
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    released = re.findall(r"^## \[([\d.]+)\] - \d{4}-\d\d-\d\d$", changes, re.MULTILINE)
    assert released[0] == jax_mnist.__version__
    assert re.findall(r"^version: (.+)$", citation, re.MULTILINE) == [jax_mnist.__version__]
