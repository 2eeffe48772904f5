"""Comparison with PyTorch itself, if it is installed: `pip install "jax_mnist[compare]"`."""

import importlib
import io
import itertools
import json
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from flax import nnx
from ladder import BATCH_SIZE, EPOCHS, RULES, SIZES, mixed, optimizer_of
from record_torch import FILE, gradients, parameters, record, sgd, simple_net, tensors
from record_torch import mnist_loss as torch_mnist_loss
from record_torch import train_epoch as torch_train_epoch

import jax_mnist
from jax_mnist import (
    Learner,
    Splits,
    TrainState,
    cnn,
    from_flax,
    from_state_dict,
    init_params,
    mlp,
    mnist_loss,
    to_state_dict,
)
from jax_mnist.recipes import Recipe, make_learner

torch = pytest.importorskip("torch")
compare_torch, contests, torch_scripts, torch_side = map(
    importlib.import_module,
    ("compare_torch", "benchmark.contests", "benchmark.torch_scripts", "benchmark.torch_side"),
)
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


def test_parameters_and_gradients_match_after_every_epoch(splits):
    """With all parts of the update rule; test_torch_parity.py compares each with a recording that is checked above."""
    module = simple_net("float64")
    optimizer = sgd(module, RULES["all"])
    x, y = tensors(splits.train, "float64")
    with jax.enable_x64(True):
        model, ours = mlp(SIZES), optimizer_of(RULES["all"])
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


def compared(tmp_path, capsys, *options):
    """Run compare_torch; return its exit code and what it prints."""
    code = compare_torch.main([*options, "--out", str(tmp_path), "--platform", "cpu"])
    return code, capsys.readouterr().out


@pytest.mark.parametrize("options", [("--model", "linear", "--epochs", "2", "--timed-epochs", "1"), ("--epochs", "2")])
def test_compare_torch_confirms_float_agreement(tmp_path, capsys, options):
    code, printed = compared(tmp_path, capsys, *options)
    assert code == 0
    assert printed.count("yes float") == 3
    assert "NO" not in printed
    for side in ("JAX, train_epoch", "PyTorch, DataLoader (1 thread)", "PyTorch, sliced tensors (1 thread)"):
        assert side in printed
    assert (tmp_path / "curves.png").stat().st_size > 10_000


def test_cnn_agrees_in_both_floats(sample):
    net, splits = cnn((4, 6, 8), hidden=(16,), classes=1), Splits(sample.train[::8], sample.valid[::8])
    for tolerance, x64 in ((1e-12, True), (1e-5, False)):
        with jax.enable_x64(x64):
            (row,) = compare_torch.compare(contests.make_task(net, splits, 0.1), 1)
        assert row.difference < tolerance
        assert row.theirs.train_loss == pytest.approx(row.ours.train_loss, rel=1e-5)
        assert row.theirs.accuracy == pytest.approx(row.ours.accuracy, abs=2 / len(splits.valid))


def test_muon_takes_the_steps_of_pytorchs():
    learner = make_learner(Recipe(optimizer="muon", learning_rate=0.01), 1000, 2)
    params = {"kernel": jnp.zeros((3, 3, 4, 8))}
    state = learner.optimizer.init(params)
    matrix = torch.nn.Parameter(torch.zeros(8, 36))
    muon = torch.optim.Muon([matrix], 0.01, weight_decay=0, momentum=0.9, adjust_lr_fn="match_rms_adamw")
    drawn = np.random.default_rng(0)
    for _ in range(4):
        gradient = drawn.normal(size=(8, 36)).astype(np.float32)
        matrix.grad = torch.from_numpy(gradient)
        muon.step()
        updates, state = learner.optimizer.update(
            {"kernel": jnp.asarray(gradient.T).reshape(3, 3, 4, 8)}, state, params
        )
        params = optax.apply_updates(params, updates)
    ours, theirs = np.asarray(params["kernel"]).reshape(36, 8).T, matrix.detach().numpy()
    assert np.linalg.norm(ours - theirs) < 0.05 * np.linalg.norm(theirs)  # PyTorch computes in bfloat16


def test_compare_torch_fails_on_a_difference(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(compare_torch, "FLOAT32_TOLERANCE", 0.0)
    code, printed = compared(tmp_path, capsys, "--model", "linear", "--epochs", "1", "--timed-epochs", "0")
    assert code == 1
    assert "NO  float32: largest difference of a parameter" in printed
    assert printed.count("yes float") == 2
    assert "training only" not in printed


def test_pytorch_takes_the_fastest_settings_and_keeps_its_number_of_threads():
    torch.set_num_threads(2)
    seen = []

    def make(settings):
        def work():
            with torch_side.threads(settings.threads):
                seen.append((settings, torch.get_num_threads()))
                time.sleep(0.002 if settings == (1, True, True) else 0.02)

        return torch_side.Side("", work, lambda: 1.0)

    best = torch_side._fastest(make, has_kernels=True, compiled=True)
    assert torch_side.describe(best) == "1 thread, channels_last, torch.compile"
    assert {settings for settings, _ in seen} == set(itertools.product((1, 2), (False, True), (False, True)))
    assert all(settings.threads == count for settings, count in seen)
    assert torch.get_num_threads() == 2


def test_failed_compilation_is_named(monkeypatch, sample):
    task = contests.make_task(mlp((784, 1)), sample, 1.0)
    assert torch_side.fastest_epoch(task, "sliced tensors") == torch_side.Settings(1)  # threads of the fixture
    monkeypatch.setattr(torch, "compile", lambda _: 1 / 0)
    with pytest.raises(ValueError, match=r"--compile: torch\.compile fails .*ZeroDivisionError: division by zero"):
        torch_side.fastest_epoch(task, "sliced tensors", compiled=True)


@pytest.mark.parametrize("shuffle", [False, True])
def test_both_ways_in_pytorch_learn_as_in_jax(sample, shuffle):
    task = contests.make_task(mlp((784, 30, 1)), sample, 0.1, shuffle=shuffle)
    sides = [torch_side.epoch_side(task, way, torch_side.Settings(1)) for way in torch_side.WAYS]
    ours = contests.epoch_side(task)
    for side in [ours, *sides] * 3:
        side.work()
    assert ours.accuracy() > 0.9
    for side in sides:
        assert side.accuracy() == pytest.approx(ours.accuracy(), abs=0.005 if shuffle else 2 / 2038)


@pytest.mark.parametrize("channels_last", [False, True])
def test_record_recipe_learns_in_both_layouts(mnist, channels_last):
    splits = Splits(mnist.train[:6000], mnist.valid)
    side = torch_side.record_side(splits, "cpu", torch_side.Settings(1, channels_last))
    side.work()
    assert side.accuracy() > 0.85
    assert side.name == f"PyTorch, the record recipe (1 thread{', channels_last' * channels_last})"


def test_record_recipe_has_its_net():
    assert [tuple(x.shape) for x in torch_scripts.make_record_net().state_dict().values()] == [
        (24, 1, 5, 5), (24,), (32, 24, 3, 3), (32,), (256, 800), (256,), (10, 256), (10,)
    ]  # fmt: skip


def test_processes_of_pytorch_leave_accuracy_and_picture(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for option in (["--data-loader"], []):
        torch_scripts.main(["chapter", "--epochs", "2", "--threads", "1", *option])
        assert json.loads((tmp_path / "result.json").read_text())["accuracy"] > 0.95
        assert (tmp_path / "curves.png").stat().st_size > 5_000
