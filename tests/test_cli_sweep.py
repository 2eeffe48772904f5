import json
import re
import types

import numpy as np
import pytest
from PIL import Image

from jax_mnist.__main__ import main
from jax_mnist.analysis import summarize
from jax_mnist.cli import sweep, train
from jax_mnist.recipes import RECIPES, make_learner

QUICK = ["--epochs", "2", "--hold-out", "2000"]


def trained(tmp_path, *arguments):
    assert train.main([*arguments, "--out", str(tmp_path)]) == 0
    return json.loads((tmp_path / "result.json").read_text())


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    out = tmp_path_factory.mktemp("sweep")
    grid = ["--learning-rates", "0.0001", "0.1", "--widths", "4", "30", "--seeds", "2", "--seed", "5"]
    assert sweep.main([*grid, *QUICK, "--out", str(out)]) == 0
    return out


@pytest.mark.slow
def test_sweep_writes_all_settings_and_the_best(swept):
    assert {path.name for path in swept.iterdir()} == {"sweep.json", "sweep.png"}
    with Image.open(swept / "sweep.png") as picture:
        assert min(picture.size) > 300
    result = json.loads((swept / "sweep.json").read_text())
    expected = {"dataset": "mnist_sample", "model": "mlp", "optimizer": "sgd", "epochs": 2, "batch_size": 256}
    assert result.items() >= (expected | {"seeds": [5, 6], "hold_out": 2000, "train_count": 10_396}).items()
    settings = result["settings"]
    pairs = [(setting["hidden"], setting["learning_rate"]) for setting in settings]
    assert pairs == [([width], rate) for width in (4, 30) for rate in (0.0001, 0.1)]
    for setting in settings:
        mean, std, interval = summarize(setting["accuracies"])
        told = setting["accuracy_mean"], setting["accuracy_std"], tuple(setting["accuracy_interval"])
        assert told == (mean, std, interval)
    means = [setting["accuracy_mean"] for setting in settings]
    assert result["best"] == settings[int(np.argmax(means))]
    assert result["best"]["learning_rate"] > 0.0001


@pytest.mark.slow
def test_each_accuracy_is_that_of_train(swept, tmp_path):
    arguments = [*QUICK, "--hidden", "30", "--learning-rate", "0.1", "--seed", "6"]
    settings = json.loads((swept / "sweep.json").read_text())["settings"]
    found = next(s for s in settings if (s["hidden"], s["learning_rate"]) == ([30], 0.1))
    # Equal up to rounding, which may change the prediction of a few of the 2000 images.
    assert found["accuracies"][1] == pytest.approx(trained(tmp_path, *arguments)["accuracy"], abs=1.5e-3)


@pytest.mark.slow
def test_output_has_a_table_and_the_best_and_warns_of_the_edge(tmp_path, capsys):
    arguments = ["sweep", "chapter-linear", "--epochs", "1", "--seeds", "1", "--out", str(tmp_path)]
    assert main([*arguments, "--learning-rates", "0.001", "1"]) == 0
    output = capsys.readouterr().out
    result = json.loads((tmp_path / "sweep.json").read_text())
    best = result["best"]
    assert (best["hidden"], best["learning_rate"], best["accuracy_std"], best["accuracy_interval"]) == (
        [],
        1,
        None,
        None,
    )
    assert result["hold_out"] == 2066  # a sixth
    for expected in ("learning rate", f"{best['accuracy_mean']:.4f}", "best: no hidden layer, learning rate 1:",
                     "2,066 held-out training images", "edge"):  # fmt: skip
        assert expected in output
    assert main([*arguments, "--learning-rates", "1"]) == 0
    assert "edge" not in capsys.readouterr().out


def test_default_grid_is_around_the_values_of_the_preset():
    recipes, rates = sweep._grid(sweep.SweepConfig())
    assert [recipe.hidden for recipe in recipes] == [(15,), (30,), (60,)]
    assert rates == [0.01, 0.03, 0.1, 0.3]
    recipes, rates = sweep._grid(sweep.SweepConfig(RECIPES["mnist"]._replace(optimizer="adam", learning_rate=0.001)))
    assert [(recipe.model, recipe.hidden) for recipe in recipes] == [("flax_mlp", (n,)) for n in (256, 512, 1024)]
    assert rates == [0.0001, 0.0003, 0.001, 0.003]
    recipes, _ = sweep._grid(sweep.SweepConfig(RECIPES["chapter"]._replace(hidden=(1,))))
    assert [recipe.hidden for recipe in recipes] == [(1,), (2,)]


def test_two_hidden_layers_are_swept_as_they_are():
    recipe = RECIPES["mnist"]._replace(hidden=(512, 256))
    assert sweep._grid(sweep.SweepConfig(recipe))[0] == [recipe]


BAD = {  # a pattern that the error message must contain: options, values and what is expected
    "--hold-out must be 1 or more, got 0": ["sweep", "--hold-out", "0"],
    "12396": ["sweep", "--hold-out", "12396"],
    "--seeds must be 1 or more, got 0": ["sweep", "--seeds", "0"],
    r"--learning-rates must be positive numbers, got -1\.0": ["sweep", "--learning-rates", "0.1", "-1"],
    "positive integers": ["sweep", "--widths", "30", "0"],
    "--hidden must be empty for a linear model, got 30": ["sweep", "chapter-linear", "--widths", "30"],
    "--epochs must be 1 or more, got 0": ["sweep", "--epochs", "0"],
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_refused_before_training_and_writing(tmp_path, capsys, monkeypatch, message):
    monkeypatch.setattr(sweep, "fit_many", None)
    assert main([*BAD[message], "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_several_seeds_are_those_of_single_runs_and_the_files_are_of_the_first(tmp_path, capsys):
    arguments = ["chapter-linear", "--epochs", "3"]
    singles = [trained(tmp_path / str(seed), *arguments, "--seed", str(seed)) for seed in (3, 4)]
    capsys.readouterr()
    together = trained(tmp_path / "all", *arguments, "--seed", "3", "--seeds", "2")
    assert together["accuracies"] == pytest.approx([single["accuracy"] for single in singles], abs=1e-3)
    assert {name: together[name] for name in ("accuracy", "loss", "correct", "count")} == {
        name: singles[0][name] for name in ("accuracy", "loss", "correct", "count")
    }
    told = together["accuracy_mean"], together["accuracy_std"], tuple(together["accuracy_interval"])
    assert told == summarize(together["accuracies"])
    low, high = together["accuracy_interval"]
    output = capsys.readouterr().out
    assert f"2 seeds, 3 to 4: mean accuracy {together['accuracy_mean']:.4f}, standard deviation" in output
    assert (
        f"95% confidence interval {low:.4f} to {high:.4f}; ensemble accuracy {together['ensemble_accuracy']:.4f}"
        in output
    )
    assert together["ensemble_accuracy"] > 0.9
    for name in ("model.safetensors", "predictions.png"):
        assert (tmp_path / "all" / name).read_bytes() == (tmp_path / "3" / name).read_bytes()
    assert not singles[0].keys() & {"accuracies", "accuracy_mean", "ensemble_accuracy"}


@pytest.mark.slow
@pytest.mark.parametrize(("mean", "code"), [(0.4, 1), (0.6, 0)])
def test_target_accuracy_is_that_of_the_mean_over_seeds(tmp_path, monkeypatch, mean, code):
    further = {"seeds": [0, 1], "accuracy_mean": mean, "accuracy_std": 0.1, "accuracy_interval": (0.3, 0.5),
               "ensemble_accuracy": 0.98, "further_seconds": 1.0}  # fmt: skip
    monkeypatch.setattr(train, "_train_further_seeds", lambda *_: further)
    arguments = ["chapter-linear", "--epochs", "1", "--seeds", "2", "--target-accuracy", "0.5", "--out", str(tmp_path)]
    assert train.main(arguments) == code
    assert json.loads((tmp_path / "result.json").read_text())["accuracy"] > 0.9


def test_further_seed_that_diverges_is_named(monkeypatch, tiny):
    learner = make_learner(RECIPES["chapter-linear"], 30, 2)
    history = types.SimpleNamespace(train_loss=np.array([[0.2, 0.1], [0.2, np.nan]]))
    monkeypatch.setattr(train, "fit_many", lambda *arguments, **options: (None, history))
    with pytest.raises(ValueError, match="the loss of seed 6 became NaN or infinite; --seed 6 without"):
        train._train_further_seeds(None, 0.9, range(5, 7), learner, tiny, epochs=2, mesh=None)
