"""The stored notebooks were run from the text beside them; `make notebooks ARGS=--check` runs them again."""

import re
from pathlib import Path

import jupytext
import nbformat
import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
TEXTS = sorted(FOLDER.glob("*.md"))


def test_each_notebook_has_a_text():
    assert TEXTS
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == [path.stem for path in TEXTS]


@pytest.mark.parametrize("text", TEXTS, ids=lambda path: path.stem)
def test_stored_notebook_is_its_text_run_without_errors(text):
    stored = nbformat.read(text.with_suffix(".ipynb"), as_version=4)
    nbformat.validate(stored)
    assert [cell.source for cell in stored.cells] == [cell.source for cell in jupytext.read(text).cells]
    code = [cell for cell in stored.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    outputs = [output for cell in code for output in cell.outputs]
    assert not any(output.output_type == "error" for output in outputs)
    assert not any("left out" in output.get("text", "") for output in outputs)
    for cell in code:
        draws = re.search(
            r"^(?!def |from )\S.*(plots\.(?!STYLE)|plt\.subplots|plot_seconds)", cell.source, re.MULTILINE
        )
        assert any("image/png" in output.get("data", {}) for output in cell.outputs) or not draws, cell.source
