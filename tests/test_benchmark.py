import json
import sys

import pytest
from jax_mnist.cli.benchmark import main, time_in_turns
from jax_mnist.cli.contests import Contest, Side
from jax_mnist.cli.races import _process
from PIL import Image


def test_sides_are_interleaved_and_their_medians_compared():
    calls = []

    def side(name, accuracy):
        return Side(name, lambda: calls.append(name), lambda: accuracy)

    timed = time_in_turns(Contest("race", "lap", [side("ours", 0.9), side("theirs", 0.8)], 0.5), repeats=3)
    assert calls == ["ours", "theirs"] * 4
    assert [len(row.seconds) for row in timed] == [3, 3]
    assert [row.accuracy for row in timed] == [0.9, 0.8]
    assert timed[0].ratio == 1
    assert timed[1].ratio == pytest.approx(timed[1].median_seconds / timed[0].median_seconds)


def test_quick_run_writes_json_and_picture(tmp_path, capsys):
    assert main(["--quick", "--only", "chapter_linear", "--out", str(tmp_path)]) == 0
    written = json.loads((tmp_path / "benchmark.json").read_text())
    assert "cores" in written["machine"]
    assert [side["side"] for side in written["sides"][:2]] == [
        "JAX, train_epoch",
        "JAX, a compiled step per NumPy batch",
    ]
    assert all(len(side["seconds"]) == 2 and side["median_seconds"] > 0 for side in written["sides"])
    with Image.open(tmp_path / "benchmark.png") as picture:
        assert picture.width > 300
    assert "chapter: linear" in capsys.readouterr().out


def test_growth_has_its_own_picture(tmp_path):
    assert main(["--quick", "--only", "grow_images", "--out", str(tmp_path)]) == 0
    sides = json.loads((tmp_path / "benchmark.json").read_text())["sides"]
    assert [(side["grows_with"], side["side"]) for side in sides] == [("images", "2,500"), ("images", "5,000")]
    assert {path.name for path in tmp_path.iterdir()} == {"benchmark.json", "growth.png"}


@pytest.mark.slow
def test_many_models_are_timed_per_model(tmp_path):
    assert main(["--quick", "--only", "many_models", "--out", str(tmp_path)]) == 0
    at_once, _, one = json.loads((tmp_path / "benchmark.json").read_text())["sides"]
    assert (at_once["unit"], one["side"]) == ("model", "JAX, fit, one by one")
    assert at_once["accuracy"] == pytest.approx(one["accuracy"], abs=0.01)


def test_unknown_contest_lists_the_known_ones(tmp_path, capsys):
    assert main(["--only", "chess", "--out", str(tmp_path)]) == 2
    assert "chapter_linear, chapter_net, dense" in capsys.readouterr().err


def test_accuracy_below_the_threshold_fails(tmp_path, monkeypatch, capsys):
    lazy = Contest("nothing", "nap", [Side("sleeper", lambda: None, lambda: 0.1)], least_accuracy=0.5)
    monkeypatch.setattr("jax_mnist.cli.races.ALL", {"nap": lambda platform, quick: lazy})
    assert main(["--quick", "--out", str(tmp_path)]) == 1
    assert "sleeper: 0.1000" in capsys.readouterr().out


@pytest.mark.slow
def test_speedrun_runs_against_its_peer(tmp_path):
    assert main(["--quick", "--only", "fastest", "--out", str(tmp_path)]) == 0
    sides = json.loads((tmp_path / "benchmark.json").read_text())["sides"]
    assert sides[0]["side"] == "JAX, speedrun"
    assert sides[0]["accuracy"] > 0.9


def test_accuracy_of_a_process_is_read():
    printed = _process("prints", [sys.executable, "-c", "print('{\"accuracy_mean\": 0.5}')"], None)
    code = "import sys; open(sys.argv[1], 'w').write('{\"accuracy_mean\": 0.25}')"
    written = _process("writes", [sys.executable, "-c", code], "result.json")
    for side, accuracy in ((printed, 0.5), (written, 0.25)):
        side.work()
        assert side.accuracy() == accuracy
