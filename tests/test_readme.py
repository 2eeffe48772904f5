"""README is short, and its code prints what README says."""

import re
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_readme_has_at_most_900_words():
    assert len(README.split()) <= 900


def test_readme_has_code():
    assert len(BLOCKS) == 2


@pytest.mark.parametrize("code", BLOCKS)
def test_code_prints_the_number_in_its_comment(code, capsys):
    exec(code, {})
    said = [float(number) for number in re.findall(r"print\(.*# ([\d.]+)$", code, re.MULTILINE)]
    assert said
    # Another release of XLA or another processor rounds differently, and a few of 2,038 predictions change.
    assert [float(line) for line in capsys.readouterr().out.split()] == pytest.approx(said, abs=0.003)
