"""Comparison with PyTorch itself, if it is installed: `pip install "jax_mnist[compare]"`."""

import io
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from flax import nnx
from jax_mnist.cli.compare_torch import main
from ladder import BATCH_SIZE, EPOCHS, RULES, SIZES, mixed, optimizer_of
from record_torch import FILE, gradients, parameters, record, sgd, simple_net, tensors
from record_torch import mnist_loss as torch_mnist_loss
from record_torch import train_epoch as torch_train_epoch

import jax_mnist
from jax_mnist import (
    Learner,
    Splits,
    TrainState,
    from_flax,
    from_state_dict,
    init_params,
    mlp,
    mnist_loss,
    to_state_dict,
)
from jax_mnist.cli import torch_record

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def one_thread():
    """PyTorch's threads busy-wait, which is ten times slower if the cores are shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def splits(sample):
    return Splits(*map(mixed, sample))


def like(model):
    return jax.eval_shape(model.init, jax.random.key(0))


def as_tensors(state_dict):
    return {name: torch.from_numpy(array) for name, array in state_dict.items()}


def test_recording_matches_pytorch():
    with np.load(FILE, allow_pickle=False) as file:
        recorded = dict(file)
    fresh = record()
    assert fresh.keys() == recorded.keys()
    for name, array in fresh.items():
        tolerance = {"chapter/correct": 2, "chapter/parameters": 1e-5}.get(name, 1e-12)
        np.testing.assert_allclose(array, recorded[name], rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("rule", RULES)
def test_parameters_and_gradients_match_after_every_epoch(splits, rule):
    module = simple_net("float64")
    optimizer = sgd(module, RULES[rule])
    x, y = tensors(splits.train, "float64")
    with jax.enable_x64(True):
        model, ours = mlp(SIZES), optimizer_of(RULES[rule])
        params = from_state_dict(module.state_dict(), like(model))
        state = TrainState(params, ours.init(params), jnp.zeros((), jnp.int32), jax.random.key(0))
        batch = next(jax_mnist.batches(splits.train, BATCH_SIZE))
        learner = Learner(model, mnist_loss, ours, BATCH_SIZE, shuffle=False)
        for _ in range(EPOCHS):
            torch_train_epoch(module, optimizer, x, y)
            state, _ = jax_mnist.train_epoch(learner, state, splits.train)
            assert_close(to_state_dict(state.params), parameters(module), 1e-12)
            our_gradients = to_state_dict(jax_mnist.gradient(state.params, batch))
            assert_close(our_gradients, gradients(module, x[:BATCH_SIZE], y[:BATCH_SIZE]), 1e-12)


def assert_close(ours, theirs, tolerance):
    assert list(ours) == list(theirs)
    for name, array in theirs.items():
        np.testing.assert_allclose(ours[name], array, rtol=0, atol=tolerance, err_msg=name)


def test_initial_distributions_match():
    torch.manual_seed(0)
    theirs = torch.nn.Linear(784, 3000)
    ours = init_params(jax.random.key(0), (784, 3000), std=None)[0]
    for one, other in ((theirs.weight, ours.weights), (theirs.bias, ours.bias)):
        one, other = one.detach().numpy().ravel()[:100_000], np.asarray(other).ravel()[:100_000]
        same: Any = scipy.stats.ks_2samp(one, other)
        assert same.pvalue > 1e-3


def test_net_trained_and_saved_in_pytorch_gives_the_same_logits_in_jax(splits):
    module = simple_net("float32")
    torch_train_epoch(module, sgd(module, RULES["momentum"]), *tensors(splits.train, "float32"))
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    params = from_state_dict(torch.load(file, weights_only=True), like(mlp(SIZES)))
    x, y = tensors(splits.valid, "float32")
    logits = module(x).detach().numpy()
    assert logits.shape == (2038, 1)
    assert np.abs(logits).max() > 1
    batch = jax_mnist.make_batch(splits.valid.images, splits.valid.labels)
    np.testing.assert_allclose(jax_mnist.predict(params, batch.x), logits, rtol=0, atol=1e-5)
    np.testing.assert_allclose(jax_mnist.loss(params, batch), torch_mnist_loss(module, x, y).item(), rtol=0, atol=1e-6)


def test_net_trained_in_jax_gives_the_same_logits_in_pytorch(splits):
    learner = Learner(mlp(SIZES), mnist_loss, optimizer_of(RULES["momentum"]))
    state, _ = jax_mnist.fit(jax.random.key(0), learner, splits, epochs=1)
    module = torch.nn.Sequential(torch.nn.Linear(784, 30), torch.nn.ReLU(), torch.nn.Linear(30, 1))
    module.load_state_dict(as_tensors(to_state_dict(state.params)))
    logits = jax_mnist.predict(state.params, jax_mnist.make_batch(splits.valid.images, splits.valid.labels).x)
    assert np.abs(logits).max() > 1
    in_torch = module(tensors(splits.valid, "float32")[0]).detach().numpy()
    np.testing.assert_allclose(in_torch, logits, rtol=0, atol=1e-5)


class Convolutions(nnx.Module):
    """The net of `convolutions_in_pytorch` in Flax."""

    def __init__(self, rngs):
        self.conv1 = nnx.Conv(1, 4, (3, 3), rngs=rngs)
        self.conv2 = nnx.Conv(4, 6, (5, 5), rngs=rngs)
        self.dense = nnx.Linear(6 * 7 * 7, 16, rngs=rngs)
        self.head = nnx.Linear(16, 10, rngs=rngs)

    def __call__(self, x):
        for conv in (self.conv1, self.conv2):
            x = nnx.max_pool(nnx.relu(conv(x)), (2, 2), (2, 2))
        return self.head(nnx.relu(self.dense(x.reshape(len(x), -1))))


def convolutions_in_pytorch():
    nn = torch.nn
    first = nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)
    second = nn.Conv2d(4, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(6 * 7 * 7, 16), nn.ReLU(), nn.Linear(16, 10))


def test_convolutional_net_gives_the_same_logits_in_both_directions(splits):
    torch.manual_seed(0)
    module, model = convolutions_in_pytorch(), from_flax(lambda rngs: Convolutions(rngs), (28, 28, 1))
    x, _ = tensors(splits.valid, "float32")
    ours = jax_mnist.make_batch(splits.valid.images, splits.valid.labels).x
    params = from_state_dict(module.state_dict(), like(model))
    logits = module(x.view(-1, 1, 28, 28)).detach().numpy()
    np.testing.assert_allclose(model.apply(params, ours), logits, rtol=0, atol=1e-5)

    params = model.init(jax.random.key(1))
    names = {"conv1": "0", "conv2": "3", "dense": "7", "head": "9"}
    module.load_state_dict(as_tensors(to_state_dict(params, names=names)))
    logits = module(x.view(-1, 1, 28, 28)).detach().numpy()
    np.testing.assert_allclose(model.apply(params, ours), logits, rtol=0, atol=1e-5)


def test_from_state_dict_takes_bfloat16_and_tensors_with_gradients():
    bfloat16 = {"0.weight": torch.ones(2, 3, dtype=torch.bfloat16), "0.bias": torch.zeros(2, requires_grad=True)}
    params = from_state_dict(bfloat16, init_params(jax.random.key(0), (3, 2)))
    np.testing.assert_array_equal(params[0].weights, np.ones((3, 2), np.float32))


@pytest.mark.parametrize("model", ["mlp", "linear"])
def test_compare_torch_confirms_float_agreement(tmp_path, capsys, model):
    options = ["--model", model, "--epochs", "2", "--timed-epochs", "1", "--no-compile", "--platform", "cpu"]
    assert main([*options, "--out", str(tmp_path)]) == 0
    assert (tmp_path / "curves.png").stat().st_size > 10_000
    printed = capsys.readouterr().out
    assert printed.count("yes float") == 3
    assert "NO" not in printed
    assert {"DataLoader", "train_epoch"} <= set(printed.split())


@pytest.mark.slow
def test_compare_torch_confirms_float_agreement_for_cnn(tmp_path, capsys):
    options = ["--model", "cnn", "--epochs", "1", "--timed-epochs", "0", "--platform", "cpu"]
    assert main([*options, "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("yes float") == 3


def test_compare_torch_reports_failed_compilation_and_fails_on_a_difference(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda _: 1 / 0)
    monkeypatch.setattr("jax_mnist.cli.compare_torch.FLOAT32_TOLERANCE", 0.0)
    options = ["--model", "linear", "--epochs", "1", "--timed-epochs", "1", "--platform", "cpu"]
    assert main([*options, "--out", str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert "torch.compile: ZeroDivisionError: division by zero" in " ".join(printed.split())
    assert "NO  float32: largest parameter difference" in printed


def test_pytorch_record_recipe_learns(mnist):
    training, test = (torch_record.tensors_of(data.images[:6000], data.labels[:6000]) for data in mnist)
    assert [tuple(x.shape) for x in torch_record.make_net().state_dict().values()] == [
        (24, 1, 5, 5), (24,), (32, 24, 3, 3), (32,), (256, 800), (256,), (10, 256), (10,)
    ]  # fmt: skip
    assert torch_record.accuracy(torch_record.train(0, *training), *test) > 0.85
    assert torch_record.faster_threads(*training) == 1  # set by the fixture, which makes it PyTorch's own number too
