"""Sphinx configuration of `make docs`."""

import jax_mnist

project = "jax_mnist"
version = release = jax_mnist.__version__
# The source is the root of the project, so that a link between docs/ and notebooks/ works here and in the repository.
root_doc = "docs/index"
include_patterns = ["docs/**.md", "notebooks/*.ipynb", "CHANGELOG.md", "CONTRIBUTING.md"]

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
html_theme_options = {"use_download_button": False}  # it links to the page sources, which are not copied
