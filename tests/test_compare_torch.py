"""`compare_torch` without PyTorch; test_torch_live.py tests it with PyTorch."""

import subprocess
import sys

import pytest

from jax_mnist import __main__ as package
from jax_mnist.cli import compare_torch, torch_record, torch_side


def fails(name):
    raise ModuleNotFoundError(f"No module named {name!r}")


@pytest.mark.parametrize("main", [compare_torch.main, lambda args: package.main(["compare_torch", *args])])
def test_without_pytorch_the_error_says_what_to_install(main, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(torch_side.importlib, "import_module", fails)
    assert main(["--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == 'error: PyTorch is not installed; run: pip install "jax_mnist[compare]"\n'
    assert list(tmp_path.iterdir()) == []


def test_without_pytorch_the_record_recipe_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(torch_record.importlib, "import_module", fails)
    assert torch_record.main([]) == 2
    assert capsys.readouterr().err == 'error: PyTorch is not installed; run: pip install "jax_mnist[compare]"\n'


def test_record_recipe_does_not_import_jax():
    code = f"import runpy, sys; runpy.run_path({torch_record.__file__!r}); print('jax' in sys.modules)"
    printed = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert printed.stdout == "False\n"
