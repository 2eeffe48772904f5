"""The scripts without PyTorch, and PyTorch's programs without JAX. test_torch_live.py runs them with PyTorch."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"


def python(code):
    return subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)


@pytest.mark.parametrize("script", ["compare_torch.py", "benchmark/torch_scripts.py"])
def test_without_pytorch_the_error_says_what_to_install(script):
    code = "import runpy, sys; sys.modules['torch'] = None; sys.path.insert(0, {!r}); runpy.run_path({!r})"
    ended = python(code.format(str(SCRIPTS), str(SCRIPTS / script)))
    assert ended.stderr == 'error: PyTorch is not installed; run: pip install "jax_mnist[compare]"\n'
    assert ended.returncode == 2


@pytest.mark.slow
def test_pytorch_programs_do_not_import_jax():
    pytest.importorskip("torch")
    script = str(SCRIPTS / "benchmark" / "torch_scripts.py")
    assert python(f"import runpy, sys; runpy.run_path({script!r}); print('jax' in sys.modules)").stdout == "False\n"
