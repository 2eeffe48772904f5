"""The reference: every public name stands in it once. `make docs` fails on all that Sphinx warns of."""

import re
from pathlib import Path

import jax_mnist

REFERENCE = sorted((Path(__file__).parents[1] / "docs/reference").glob("*.md"))


def test_every_public_name_has_its_place():
    text = "\n".join(page.read_text(encoding="utf-8") for page in REFERENCE)
    assert sorted(re.findall(r"^\.\. auto\w+:: (?:jax_mnist\.)?(\w+)$", text, re.MULTILINE)) == jax_mnist.__all__


def test_every_page_is_in_the_contents():
    contents = (REFERENCE[0].parents[1] / "index.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^reference/(\w+)$", contents, re.MULTILINE)) == [page.stem for page in REFERENCE]
