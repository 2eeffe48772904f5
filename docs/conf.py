"""Sphinx configuration: `make docs` builds these pages into build/docs."""

from sphinx.application import Sphinx

import jax_mnist

project = "jax_mnist"
version = release = jax_mnist.__version__
root_doc = "index"
include_patterns = ["**.md", "notebooks/*.ipynb"]
exclude_patterns = ["notebooks/*.md"]

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
nb_execution_mode = "off"  # the stored outputs are shown; CI runs the notebooks
myst_heading_anchors = 3
default_role = "code"  # `name` in a docstring
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
maximum_signature_line_length = 100

html_theme = "sphinx_book_theme"
html_title = f"jax_mnist {version}"
html_copy_source = False


def _move_links(app: Sphinx, name: str, source: list[str]) -> None:
    """Rewrite a notebook's relative links: Sphinx reads notebooks through a symlink, one directory deeper."""
    if name.startswith("notebooks/"):
        source[0] = source[0].replace("](../docs/", "](../").replace("](../jax_mnist/", "](../../jax_mnist/")


def setup(app: Sphinx) -> None:
    app.connect("source-read", _move_links)
