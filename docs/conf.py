"""How Sphinx makes the documentation: `make docs`, from the root of the project."""

import jax_mnist

project = "jax_mnist"
version = release = jax_mnist.__version__
root_doc = "docs/index"
include_patterns = ["docs/**.md", "notebooks/*.ipynb", "CHANGELOG.md", "CONTRIBUTING.md"]

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
nb_execution_mode = "off"  # what the notebooks show is stored in them, and CI runs them
myst_heading_anchors = 3
default_role = "code"  # a docstring's `name`
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
maximum_signature_line_length = 100

html_theme = "sphinx_book_theme"
html_title = f"jax_mnist {version}"
html_copy_source = False
