import subprocess
import sys
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from marks import slow

from jax_mnist import Model, cnn, export_model, flax_mlp, linear, load_exported, make_batch, mlp
from jax_mnist.export import program

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 28, 28), np.uint8)
DIGITS = tuple("0123456789")
MODELS = {
    "linear": (linear(), ("7", "3")),
    "mlp": (mlp((784, 30, 1)), ("7", "3")),
    "flax_mlp": (flax_mlp((784, 32, 10)), DIGITS),
    "cnn": (cnn(filters=(4, 8), hidden=(16,)), DIGITS),
}


def live_logits(model, params, images=IMAGES):
    return jax.jit(model.apply)(params, make_batch(images, np.zeros(len(images), np.int32)).x)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Return the path of a small exported model, with IMAGES and their logits in the same directory."""
    path = tmp_path_factory.mktemp("export") / "digits.jaxexport"
    model, classes = MODELS["flax_mlp"]
    params = model.init(jax.random.key(0))
    export_model(path, model, params, classes)
    np.save(path.with_name("images.npy"), IMAGES)
    np.save(path.with_name("logits.npy"), live_logits(model, params))
    return path


@pytest.mark.parametrize("name", [*list(MODELS)[:3], slow("cnn")])
def test_exported_logits_equal_the_models(tmp_path, name):
    model, classes = MODELS[name]
    params = model.init(jax.random.key(0))
    export_model(tmp_path / "model", model, params, classes)
    exported = load_exported(tmp_path / "model")
    assert (exported.classes, exported.image_shape) == (classes, (28, 28))
    for count in (1, 7):
        expected = live_logits(model, params, IMAGES[:count])
        np.testing.assert_allclose(exported.logits(IMAGES[:count]), expected, rtol=0, atol=1e-6)


def test_docstring_example_runs_with_only_jax_and_flatbuffers(file):
    """Run the example in a process that cannot import other packages or jax_mnist itself."""
    example = "\n".join(line[4:] for line in program.__doc__.splitlines() if line.startswith("    "))
    code = f"""
import sys, importlib.abc
class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in ("jax_mnist", "flax", "optax", "jaxtyping", "safetensors", "PIL", "matplotlib"):
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
import numpy as np
images = np.load("images.npy")
{example}
assert classes == list("0123456789")
print(abs(np.asarray(logits) - np.load("logits.npy")).max())
"""
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=file.parent, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert float(ended.stdout) <= 1e-6


def test_program_supports_three_platforms_and_any_batch_size(file):
    with zipfile.ZipFile(file) as archive:
        exported = jax.export.deserialize(archive.read("program"))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert str(exported.in_avals[0].shape[0]) == "b"


def test_export_is_deterministic(tmp_path):
    params = linear().init(jax.random.key(0))
    for name in "ab":
        export_model(tmp_path / name, linear(), params, ("7", "3"))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_wrong_number_of_classes_keeps_the_existing_file(tmp_path):
    path = tmp_path / "model"
    path.write_text("before")
    with pytest.raises(ValueError, match=r"classes .* 1 column\(s\) of logits"):
        export_model(path, linear(), linear().init(jax.random.key(0)), DIGITS)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def replace_entries(path, **entries):
    """Write the archive again with these entries replaced, or left out if None."""
    with zipfile.ZipFile(path) as archive:
        contents = {"program": archive.read("program"), "about.json": archive.read("about.json")} | entries
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in contents.items():
            if data is not None:
                archive.writestr(name, data)


DAMAGE = {
    r"BadZipFile": lambda path: path.write_bytes(path.read_bytes()[:-30]),
    r"File is not a zip file": lambda path: path.write_text("not a model"),
    r"Bad CRC-32 for file 'program'": lambda path: path.write_bytes(path.read_bytes().replace(b"HLO", b"HL0")),
    r"There is no item named 'program'": lambda path: replace_entries(path, program=None),
    r"format .*'version 9'": lambda path: replace_entries(path, **{"about.json": '{"format": "version 9"}'}),
    r"classes .*column.*\('7', '3'\)": lambda path: replace_entries(
        path, **{"about.json": '{"format": "jax_mnist model, version 1", "classes": ["7", "3"]}'}
    ),
}


@pytest.mark.parametrize("message", DAMAGE)
def test_damaged_file_raises_with_path_and_reason(tmp_path, file, message):
    path = tmp_path / "digits.jaxexport"
    path.write_bytes(file.read_bytes())
    DAMAGE[message](path)
    with pytest.raises(ValueError, match=message) as error:
        load_exported(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "exported model" in str(error.value)


def test_program_without_image_input_raises(tmp_path, file):
    other = jax.export.export(jax.jit(jnp.sin))(jax.ShapeDtypeStruct((2,), jnp.float32))
    path = tmp_path / "sin.jaxexport"
    path.write_bytes(file.read_bytes())
    replace_entries(path, program=bytes(other.serialize()))
    with pytest.raises(ValueError, match="images uint8"):
        load_exported(path)


def test_missing_file_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing: .*exported model"):
        load_exported(tmp_path / "nothing")


def test_wrong_image_shape_or_dtype_raises(file):
    exported = load_exported(file)
    with pytest.raises(ValueError, match="Shape mismatch"):
        exported.logits(IMAGES[:, :20])
    with pytest.raises(ValueError, match="Dtype mismatch"):
        exported.logits(IMAGES / np.float32(255))


def test_custom_image_shape(tmp_path):
    model = Model(lambda key: jnp.ones((12, 2)), lambda params, x: x @ params)
    export_model(tmp_path / "small", model, model.init(None), "ab", image_shape=(2, 2, 3))
    exported = load_exported(tmp_path / "small")
    assert exported.image_shape == (2, 2, 3)
    np.testing.assert_allclose(exported.logits(np.full((1, 2, 2, 3), 255, np.uint8)), [[12, 12]], rtol=1e-6)
