import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors.numpy
from marks import slow

from jax_mnist import (
    EpochRecord,
    Layer,
    Learner,
    flax_mlp,
    init_params,
    init_state,
    load_params,
    mlp,
    mnist_loss,
    save_params,
    with_ema,
)
from jax_mnist.training import DifferentRunError, load_checkpoint, save_checkpoint


@pytest.fixture
def params():
    return init_params(jax.random.key(0), (6, 4, 1))


def test_arrays_are_keyed_by_pytree_path(tmp_path, params):
    path = tmp_path / "model.safetensors"
    save_params(path, params)
    tensors = safetensors.numpy.load_file(path)
    assert sorted(tensors) == ["0.bias", "0.weights", "1.bias", "1.weights"]
    np.testing.assert_array_equal(tensors["1.weights"], params[1].weights)


def test_params_round_trip_keeps_structure_values_and_dtypes(tmp_path, params):
    flax_params = flax_mlp((6, 12, 1)).init(jax.random.key(0))
    half_precision = jax.tree.map(lambda a: a.astype(jnp.bfloat16), params)
    for i, tree in enumerate((params, flax_params, half_precision)):
        save_params(tmp_path / str(i), tree)
        loaded = load_params(tmp_path / str(i), jax.eval_shape(lambda t=tree: t))
        assert jax.tree.structure(loaded) == jax.tree.structure(tree)
        for a, b in zip(*map(jax.tree.leaves, (loaded, tree)), strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)


def test_transposed_array_round_trips(tmp_path):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    save_params(tmp_path / "t", {"w": array.T})
    np.testing.assert_array_equal(load_params(tmp_path / "t", {"w": array.T})["w"], array.T)


def test_params_that_do_not_match_raise_with_path_and_arrays(tmp_path, params):
    path = tmp_path / "model.safetensors"
    save_params(path, params)
    other = {
        r"has no \['2.bias', '2.weights'\]": (*params, Layer(jnp.zeros((1, 1)), jnp.zeros(1))),
        r"holds \['1.bias', '1.weights'\], which .* not have": params[:1],
        r"0.weights must be float32 \[6, 5\], got float32 \[6, 4\]": init_params(jax.random.key(0), (6, 5, 1)),
        r"0.weights must be bfloat16 .*, got float32 \[6, 4\]": jax.tree.map(lambda a: a.astype(jnp.bfloat16), params),
    }
    for message, like in other.items():
        with pytest.raises(ValueError, match=message) as error:
            load_params(path, like)
        assert str(path) in str(error.value)


@pytest.mark.parametrize("damage", [lambda b: b[:-3], lambda b: b"", lambda b: b"{" + b, lambda b: b"\xff" * 64])
def test_damaged_params_file_raises(tmp_path, params, damage):
    path = tmp_path / "model.safetensors"
    save_params(path, params)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"model\.safetensors: .*not a readable safetensors file"):
        load_params(path, params)


def test_parameters_of_the_other_x64_mode_name_it(tmp_path, params):
    path = tmp_path / "model.safetensors"
    save_params(path, params)
    with jax.enable_x64(True):
        like = jax.eval_shape(lambda: init_params(jax.random.key(0), (6, 4, 1)))
        with pytest.raises(ValueError, match=r"must be float64 .*, got float32 .*; set JAX_ENABLE_X64 as it was"):
            load_params(path, like)
        save_params(path, init_params(jax.random.key(0), (6, 4, 1)))
    with pytest.raises(ValueError, match=r"must be float32 .*, got float64 .*; set JAX_ENABLE_X64 as it was"):
        load_params(path, params)


def test_parameters_within_a_checkpoint(tmp_path, params):
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, {"last": {"params": params, "key": jax.random.key(1)}, "best": {"params": params[:1]}})
    loaded = load_params(path, params, within="last.params")
    jax.tree.map(np.testing.assert_array_equal, loaded, params)
    with pytest.raises(ValueError, match="has no"):
        load_params(path, params, within="best.params")


def test_missing_file_raises(tmp_path, params):
    with pytest.raises(FileNotFoundError, match="nothing: there is no such file"):
        load_params(tmp_path / "nothing", params)


OPTIMIZERS = [optax.sgd(0.1), optax.adam(0.1), optax.sgd(0.1, momentum=0.9), with_ema(optax.lion(0.1), 0.9)]


@pytest.mark.parametrize(
    "optimizer", [*map(slow, OPTIMIZERS[:3]), OPTIMIZERS[3]], ids=["sgd", "adam", "momentum", "lion with EMA"]
)
def test_checkpoint_restores_the_whole_state(tmp_path, optimizer):
    path, learner = tmp_path / "c.safetensors", Learner(mlp((6, 4, 1)), mnist_loss, optimizer)
    state = init_state(jax.random.key(7), learner)._replace(epoch=jnp.int32(3))
    records = [EpochRecord(i, 0.1 + i, 1 / 3, 0.9, 1e-3, 1e-9) for i in range(3)]
    save_checkpoint(path, state, records, {"seed": 7, "hidden": (4,)})
    like = jax.eval_shape(lambda: init_state(jax.random.key(0), learner))
    loaded = load_checkpoint(path, like, {"hidden": (4,), "seed": 7})
    assert loaded.records == tuple(records)
    assert loaded.versions["jax"] == jax.__version__
    assert jax.tree.structure(loaded.state) == jax.tree.structure(state)
    assert (jax.random.bits(loaded.state.key, (9,)) == jax.random.bits(state.key, (9,))).all()
    for a, b in zip(*(jax.tree.leaves(s._replace(key=jnp.zeros(()))) for s in (loaded.state, state)), strict=True):
        assert (a.dtype, a.weak_type) == (b.dtype, b.weak_type)
        np.testing.assert_array_equal(a, b)


def test_flipped_bits_and_truncations_raise(tmp_path):
    path, state = tmp_path / "c.safetensors", {"w": jnp.arange(3.0), "key": jax.random.key(0)}
    save_checkpoint(path, state, [EpochRecord(1, 0.5, 0.5, 0.5, 0.1, 0.1)], {"seed": 0})
    intact = path.read_bytes()
    damaged = [intact[:i] + bytes([intact[i] ^ 1 << i % 8]) + intact[i + 1 :] for i in range(len(intact))]
    for data in [*damaged, *(intact[:i] for i in range(0, len(intact), 7)), intact + b"\0"]:
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"c\.safetensors: is "):
            load_checkpoint(path, state)


def test_different_run_raises_its_own_error(tmp_path):
    path, state = tmp_path / "c.safetensors", {"w": jnp.arange(3.0)}
    save_checkpoint(path, state, settings={"rate": 0.1, "model": "mlp"})
    with pytest.raises(DifferentRunError, match=r"rate 0\.1, not 0\.2; model mlp, not None"):
        load_checkpoint(path, state, {"rate": 0.2})
    with pytest.raises(DifferentRunError, match=r"w must be float32 \[4\], got float32 \[3\]"):
        load_checkpoint(path, {"w": jnp.arange(4.0)})
    with pytest.raises(FileNotFoundError, match="expected a checkpoint"):
        load_checkpoint(tmp_path / "nothing", state)
    save_params(path, state)
    with pytest.raises(ValueError, match="no checksum"):
        load_checkpoint(path, state)
