import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from jax_mnist import Layer, flax_mlp, init_params, load_params, save_params


@pytest.fixture
def params():
    return init_params(jax.random.key(0), (6, 4, 1))


def test_names_and_values_of_the_chapters_net(tmp_path, params):
    path = tmp_path / "model.safetensors"
    save_params(path, params)
    tensors = safetensors.numpy.load_file(path)
    assert sorted(tensors) == ["0.bias", "0.weights", "1.bias", "1.weights"]
    np.testing.assert_array_equal(tensors["1.weights"], params[1].weights)


def test_round_trip_keeps_structure_values_and_dtypes(tmp_path, params):
    flax_params = flax_mlp((6, 12, 1)).init(jax.random.key(0))
    halves = jax.tree.map(lambda a: a.astype(jnp.bfloat16), params)
    for i, tree in enumerate((params, flax_params, halves)):
        save_params(tmp_path / str(i), tree)
        loaded = load_params(tmp_path / str(i), jax.eval_shape(lambda t=tree: t))
        assert jax.tree.structure(loaded) == jax.tree.structure(tree)
        for a, b in zip(*map(jax.tree.leaves, (loaded, tree)), strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)


def test_a_transposed_weight_is_saved_as_it_reads(tmp_path):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    save_params(tmp_path / "t", {"w": array.T})
    np.testing.assert_array_equal(load_params(tmp_path / "t", {"w": array.T})["w"], array.T)


def test_what_does_not_fit_is_named(tmp_path, params):
    path = tmp_path / "model.safetensors"
    save_params(path, params)
    other = {
        r"has no \['2.bias', '2.weights'\]": (*params, Layer(jnp.zeros((1, 1)), jnp.zeros(1))),
        r"holds \['1.bias', '1.weights'\], which the model lacks": params[:1],
        r"0.weights is float32 \[6, 4\]; expected float32 \[6, 5\]": init_params(jax.random.key(0), (6, 5, 1)),
        r"0.weights is float32 \[6, 4\]; expected bfloat16": jax.tree.map(lambda a: a.astype(jnp.bfloat16), params),
    }
    for message, like in other.items():
        with pytest.raises(ValueError, match=message) as error:
            load_params(path, like)
        assert str(path) in str(error.value)


@pytest.mark.parametrize("damage", [lambda b: b[:-3], lambda b: b"", lambda b: b"{" + b, lambda b: b"\xff" * 64])
def test_a_damaged_file_is_refused(tmp_path, params, damage):
    path = tmp_path / "model.safetensors"
    save_params(path, params)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match="is no readable safetensors file"):
        load_params(path, params)


def test_no_such_file(tmp_path, params):
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        load_params(tmp_path / "nothing", params)
