"""A run on disk: its checkpoints, damaged ones, those of other runs, and loading the model."""

import hashlib
import json
import random
import re
import resource
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from jax_mnist import EpochRecord, init_state, load_run, make_batch, read_photo, runs
from jax_mnist.recipes import RECIPES, make_learner
from jax_mnist.runs import (
    Progress,
    best_record,
    load_history,
    restore_progress,
    run_settings,
    save_progress,
    write_json,
    write_results,
)

ROOT = Path(__file__).parents[1]
LINEAR = RECIPES["chapter-linear"]
OPTIONS = {"initial_params": None, "seed": 0, "hold_out": 0, "deterministic": False, "early_stopping": False}


@pytest.fixture(scope="module")
def start():
    return Progress(init_state(jax.random.key(0), make_learner(LINEAR, 12_396, 2)))


def after(start, epochs):
    """Return the progress after so many epochs, each of which adds 1 to the bias."""
    progress = start
    for epoch in range(1, epochs + 1):
        layer = progress.state.params[0]
        state = progress.state._replace(params=(layer._replace(bias=layer.bias + 1),), epoch=jnp.asarray(epoch))
        progress = progress.add(state, EpochRecord(epoch, 0.5, 1 / epoch, 0.9, 0.1, 0.1))
    return progress


def same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one.state.params, other.state.params)
    return one.records == other.records


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_code_of_the_page_on_commands_reads_a_run(tmp_path, monkeypatch, mnist, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/commands.md").read_text(encoding="utf-8"), re.DOTALL)
    recipe = RECIPES["mnist"]._replace(hidden=(8,))
    model = make_learner(recipe, 60_000, 10).model
    params = model.init(jax.random.key(0))
    config = recipe._asdict() | {"classes": list("0123456789"), "train_count": 60_000}
    (tmp_path / "runs/mnist").mkdir(parents=True)
    write_results(tmp_path / "runs/mnist", params, [], config, {})
    Image.fromarray(mnist.valid.images[18]).save(tmp_path / "three.jpg", quality=95)
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    batch = make_batch(read_photo("three.jpg")[None])
    assert capsys.readouterr().out == f"{int(model.apply(params, batch.x).argmax())}\n"


@pytest.fixture
def settings(tiny):
    return run_settings(LINEAR, tiny, **OPTIONS)


@pytest.fixture
def saved(tmp_path, start, settings):
    for epochs in (2, 4, 6):
        save_progress(tmp_path, after(start, epochs), settings)
    return tmp_path


def test_two_newest_checkpoints_are_kept(saved):
    assert names(saved) == ["checkpoint-4.safetensors", "checkpoint-6.safetensors"]


def test_restored_progress_is_the_saved_one_and_names_its_checkpoint(saved, start, settings):
    progress, notes = restore_progress(saved, start, settings)
    assert same(progress, after(start, 6))
    source = progress.resumed_from
    assert (source["checkpoint"], source["epoch"]) == ("checkpoint-6.safetensors", 6)
    assert source["versions"]["jax"] == jax.__version__
    assert notes == [f"resuming from {saved / 'checkpoint-6.safetensors'}: 6 epochs finished"]


def test_new_run_replaces_the_checkpoints_of_an_old_one(saved, start, settings):
    (saved / ".checkpoint-6-half.safetensors").write_bytes(b"half")  # as a killed process leaves it
    (saved / "checkpoint-mine.safetensors").write_bytes(b"not ours")
    save_progress(saved, after(start, 3), settings)
    assert names(saved) == ["checkpoint-3.safetensors", "checkpoint-mine.safetensors"]


def test_results_replace_what_a_killed_process_left(tmp_path):
    killed = [
        ".model-half.safetensors",
        ".history-half.csv",
        ".config-half.json",
        ".result-half.json",
        ".curves-half.png",
    ]
    for name in (*killed, ".notes.json"):
        (tmp_path / name).touch()
    write_results(tmp_path, {"bias": np.zeros(1)}, [], {}, {})
    assert names(tmp_path) == [".notes.json", "config.json", "history.csv", "model.safetensors", "result.json"]


def test_full_disk_loses_nothing(saved, start, settings):
    """A limit on the file size simulates it: the system refuses to write in the middle of a file."""
    before = {file.name: file.read_bytes() for file in saved.iterdir()}
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    try:
        with pytest.raises(OSError, match=r"cannot write.*checkpoint-8\.safetensors"):
            save_progress(saved, after(start, 8), settings)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert {file.name: file.read_bytes() for file in saved.iterdir()} == before


def test_best_state_is_kept_only_for_early_stopping(start):
    losses = (0.4, 0.2, 0.3, 0.2)
    progress = start._replace(best=start.state)
    for epoch, loss in enumerate(losses, 1):
        state = start.state._replace(epoch=jnp.asarray(epoch))
        progress = progress.add(state, EpochRecord(epoch, 0.5, loss, 0.9, 0.1, 0.1))
    assert (int(progress.state.epoch), int(progress.best.epoch)) == (4, 2)  # the first of two equal ones
    assert best_record(progress.records).epoch == 2
    assert after(start, 3).best is None


def flip(data):
    offset = random.Random(0).randrange(len(data))
    return data[:offset] + bytes([data[offset] ^ 4]) + data[offset + 1 :]


def of_tomorrow(data):
    """Return a complete checkpoint of an unknown format, with its correct checksum."""
    data = data.replace(b'"format":"jax_mnist checkpoint 2"', b'"format":"of tomorrow"           ')
    digest = re.search(rb'"sha256":"(.{64})"', data)[1]
    return data.replace(digest, hashlib.sha256(data.replace(digest, b"0" * 64)).hexdigest().encode())


DAMAGE = {  # a pattern that the notes must contain
    r"checkpoint-6\.safetensors.* damaged": flip,
    r"checkpoint-6\.safetensors.*checksum": lambda data: data[:-1],
    r"(no|not a) checkpoint": lambda data: b"",
    r"(no|not a) checkpoint.*": lambda data: b"no safetensors at all",
    r"no checksum": lambda data: safetensors.numpy.save(safetensors.numpy.load(data)),
    r"'jax_mnist checkpoint 2'.*'of tomorrow'": of_tomorrow,
}


@pytest.mark.parametrize("message", DAMAGE)
def test_damaged_checkpoint_is_refused_and_the_previous_one_used(saved, start, settings, message):
    newest = saved / "checkpoint-6.safetensors"
    newest.write_bytes(DAMAGE[message](newest.read_bytes()))
    progress, notes = restore_progress(saved, start, settings)
    assert same(progress, after(start, 4))
    assert re.search(f"^refused: .*{message}", notes[0])
    assert "checkpoint-4.safetensors: 4 epochs finished" in notes[1]


def test_without_a_valid_checkpoint_the_run_starts_from_the_beginning(tmp_path, start, settings):
    progress, notes = restore_progress(tmp_path / "nothing", start, settings)
    assert progress is start
    assert notes == ["no valid checkpoint: starting from the beginning"]


OTHER = {  # a pattern that the error message must contain
    "model linear, not mlp": {"model": "mlp"},
    r"hidden \[\], not \[20\]": {"hidden": (20,)},
    "optimizer sgd, not momentum": {"optimizer": "momentum"},
    r"learning_rate 1\.0, not 0\.1": {"learning_rate": 0.1},
    "hold_out 0, not 2000": {"hold_out": 2000},
    "seed 0, not 1": {"seed": 1},
    "schedule constant, not cosine": {"schedule": "cosine"},
    "dataset mnist_sample, not mnist": {"dataset": "mnist"},
    "deterministic False, not True": {"deterministic": True},
    "early_stopping False, not True": {"early_stopping": True},
}


@pytest.mark.parametrize("difference", OTHER)
def test_checkpoints_of_a_different_run_are_refused_and_the_difference_named(saved, start, tiny, difference):
    values = OTHER[difference]
    recipe = LINEAR._replace(**{name: value for name, value in values.items() if name not in OPTIONS})
    options = OPTIONS | {name: value for name, value in values.items() if name in OPTIONS}
    with pytest.raises(ValueError, match=f"--resume: .*{difference}"):
        restore_progress(saved, start, run_settings(recipe, tiny, **options))


def test_other_images_are_another_run_and_more_epochs_are_not(settings, tiny):
    fewer = run_settings(LINEAR, tiny._replace(train=tiny.train[:-1]), **OPTIONS)
    assert {name for name in settings if settings[name] != fewer[name]} == {"images_sha256"}
    assert run_settings(LINEAR._replace(epochs=99), tiny, **OPTIONS) == settings
    cosine = LINEAR._replace(schedule="cosine")
    assert run_settings(cosine._replace(epochs=99), tiny, **OPTIONS) != run_settings(cosine, tiny, **OPTIONS)


@pytest.fixture
def finished(tmp_path):
    """Return the directory of a finished run of a small cnn, and its parameters."""
    recipe = RECIPES["mnist-cnn"]._replace(filters=(2, 3, 4), hidden=(5,))
    shapes = jax.eval_shape(make_learner(recipe, 1000, 10).model.init, jax.random.key(0))
    params = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.5, leaf.dtype), shapes)
    config = recipe._asdict() | {"classes": list("0123456789"), "train_count": 1000, "seed": 0}
    write_results(tmp_path, params, [EpochRecord(1, 0.5, 0.4, 0.9, 0.1, 0.1)], config, {"accuracy": 0.9})
    return tmp_path, params


def test_loaded_run_has_the_model_that_was_written(finished):
    directory, params = finished
    run = load_run(str(directory))
    jax.tree.map(np.testing.assert_array_equal, run.params, params)
    kernels = [run.params["convolutions"][i]["kernel"].shape for i in range(3)]
    assert kernels == [(5, 5, 1, 2), (4, 4, 2, 3), (3, 3, 3, 4)]
    assert jax.eval_shape(run.learner.model.apply, run.params, jnp.zeros((1, 784))).shape == (1, 10)
    assert run.classes == tuple("0123456789")
    assert run.config["label_smoothing"] == 0.1
    history = load_history(directory)
    assert (history.accuracy.tolist(), history.epoch.dtype.kind) == ([0.9], "i")


def test_a_process_killed_while_it_writes_leaves_no_mixed_run(finished, monkeypatch):
    directory, params = finished
    monkeypatch.setattr(runs, "save_params", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_results(directory, params, [], {}, {})
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        load_run(directory)


def test_numbers_that_json_does_not_know_are_null(tmp_path):
    write_json(tmp_path / "x.json", {"losses": [0.5, float("nan"), float("inf")], "path": Path("a")})
    assert json.loads((tmp_path / "x.json").read_text(), parse_constant=pytest.fail) == {
        "losses": [0.5, None, None],
        "path": "a",
    }


def test_missing_or_damaged_run_is_named(finished, tmp_path):
    directory, _ = finished
    with pytest.raises(FileNotFoundError, match=r"nowhere: not a run directory: no config\.json"):
        load_run(tmp_path / "nowhere")
    (directory / "history.csv").write_text("epoch\nmany")
    with pytest.raises(ValueError, match=r"history\.csv: not the history of a run"):
        load_history(directory)
    (directory / "history.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"history\.csv: no such file"):
        load_history(directory)
    (directory / "config.json").write_text('{"model": "mlp"}')
    with pytest.raises(ValueError, match=r"config\.json: not the configuration of a run \(KeyError: 'classes'\)"):
        load_run(directory)
