"""README's code runs as it stands and prints what README says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_readme_has_code():
    assert len(BLOCKS) >= 2


@pytest.mark.parametrize("code", BLOCKS)
def test_code_prints_what_is_said(code):
    printed = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    said = [float(number) for number in re.findall(r"print\(.*# ([\d.]+)$", code, re.MULTILINE)]
    assert said
    # Another release of XLA or another processor rounds otherwise, and a few of 2,038 digits change sides.
    assert [float(line) for line in printed.stdout.split()] == pytest.approx(said, abs=0.003)


def test_the_files_it_names_exist():
    named = re.findall(r"\]\(([^)#:]+)\)|`((?:docs|tests|scripts|jax_mnist/\w+)/[\w./]+)`", README)
    for link, code in named:
        assert (Path(__file__).parents[1] / (link or code)).exists(), link or code
