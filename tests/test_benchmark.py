"""The benchmark: its timer, its contests, and what the command writes."""

import json
import subprocess
import sys

import numpy as np
import pytest
from benchmark import contests, pictures, run
from benchmark.contests import CONTESTS, Setup
from benchmark.jax_side import epoch_side, make_task, steps_side
from benchmark.timing import Contest, Side, Timed, time_contest
from PIL import Image

from jax_mnist import mlp


@pytest.fixture(autouse=True)
def without_torch(monkeypatch):
    """test_torch_live.py tests PyTorch's sides."""
    monkeypatch.setattr(contests, "torch_side", None)


def idle(name, accuracy=1.0):
    return Side(name, lambda: None, lambda: accuracy)


def test_sides_take_turns_and_medians_are_compared():
    calls = []

    def side(name, units):
        return Side(name, lambda: calls.append(name), lambda: len(calls) / 8, units)

    timed = time_contest(Contest("race", "lap", [side("ours", 1), side("theirs", 1000)], 0.5), repeats=3)
    assert calls == ["ours", "theirs"] * 4
    assert [len(row.seconds) for row in timed] == [3, 3]
    assert [row.accuracy for row in timed] == [1, 1]  # asked for after the last run
    assert [row.median_seconds for row in timed] == [np.median(row.seconds) for row in timed]
    assert timed[0].ratio == 1
    assert timed[1].ratio == timed[1].median_seconds / timed[0].median_seconds
    assert timed[1].ratio < 0.5  # a unit is a thousandth of a run


def test_command_writes_json_and_pictures(tmp_path, monkeypatch, capsys):
    growing = Contest("growing lap", "epoch", [idle("1,000"), idle("2,000")], 0.5, grows_with="images")
    made = {"lap": Contest("the lap", "lap", [idle("ours"), idle("theirs")], 0.5), "grow_lap": growing}
    monkeypatch.setattr(run, "CONTESTS", {name: lambda setup, name=name: made[name] for name in made})
    assert run.main(["--quick", "--out", str(tmp_path)]) == 0
    written = json.loads((tmp_path / "benchmark.json").read_text())
    assert "cores" in written["machine"]
    assert [side["side"] for side in written["sides"]] == ["ours", "theirs", "1,000", "2,000"]
    assert [side["grows_with"] for side in written["sides"]] == ["", "", "images", "images"]
    assert all(len(side["seconds"]) == 2 and side["median_seconds"] > 0 for side in written["sides"])
    for name in ("benchmark.png", "growth.png"):
        with Image.open(tmp_path / name) as picture:
            assert picture.width > 300
    printed = capsys.readouterr().out
    assert "the lap" in printed
    assert "growing lap" in printed


def test_only_selects_contests_by_part_of_the_name(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run, "CONTESTS", {"lap": lambda setup: Contest("lap", "lap", [idle("ours")], 0.5), "no": None})
    assert run.main(["--quick", "--only", "la", "--out", str(tmp_path)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"benchmark.json", "benchmark.png"}
    assert run.main(["--only", "chess", "--out", str(tmp_path)]) == 2
    assert "--only must be part of one of lap, no, got chess" in capsys.readouterr().err


def test_accuracy_below_the_threshold_fails(tmp_path, monkeypatch, capsys):
    lazy = Contest("nothing", "nap", [idle("ours"), idle("sleeper", 0.1)], least_accuracy=0.5)
    monkeypatch.setattr(run, "CONTESTS", {"nap": lambda setup: lazy})
    assert run.main(["--quick", "--out", str(tmp_path)]) == 1
    assert "accuracy below threshold: sleeper: 0.1000" in capsys.readouterr().out


@pytest.mark.parametrize("shuffle", [False, True])
def test_both_ways_in_jax_train_the_same_net(tiny, shuffle):
    task = make_task(mlp((784, 1)), tiny, 0.1, batch_size=8, shuffle=shuffle)
    sides = [epoch_side(task), steps_side(task)]
    for side in sides * 5:
        side.work()
    assert [side.accuracy() for side in sides] == [1, 1]


@pytest.mark.slow
def test_many_models_learn_as_one_by_one():
    together, _, alone = time_contest(CONTESTS["many_models"](Setup(quick=True)), repeats=1)
    assert (together.unit, alone.side) == ("model", "JAX, fit, one by one")
    assert together.accuracy == pytest.approx(alone.accuracy, abs=0.01)


def test_process_leaves_its_accuracy_in_a_file_or_is_quoted(tmp_path, monkeypatch):
    monkeypatch.setattr(contests, "SCRIPTS", tmp_path)
    (tmp_path / "writes.py").write_text("import sys; open('result.json', 'w').write(sys.argv[1])")
    (tmp_path / "fails.py").write_text("raise SystemExit('no digits today')")
    for text in ('{"accuracy": 0.5}', '{"accuracy": 0.1, "accuracy_mean": 0.5}'):
        side = contests.process("writes.py", text)
        side.work()
        assert side.accuracy() == 0.5
    with pytest.raises(ValueError, match=r"fails\.py failed: no digits today"):
        contests.process("fails.py").work()


@pytest.mark.slow
def test_folder_runs_as_a_command():
    command = [sys.executable, contests.SCRIPTS / "benchmark", "--only", "chess"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 2
    assert "error: --only must be part of one of chapter_linear, chapter_net, " in ended.stderr


def timed(contest, side, seconds, grows_with=""):
    return Timed(contest, side, "epoch", grows_with, 1.0, seconds, float(np.median(seconds)), 1.0, 1.0)


def test_bars_show_medians_and_runs():
    sides = [timed("a race", "ours", [1e-4, 2e-4, 9e-4]), timed("a race", "theirs", [1.0, 3.0])]
    figure = pictures.bars(sides, "a machine")
    assert figure is not None
    (ax,) = figure.axes
    np.testing.assert_allclose([bar.get_width() for bar in ax.patches], [0.2, 2000])
    np.testing.assert_allclose(ax.lines[0].get_xdata(), [0.1, 0.2, 0.9])
    assert [text.get_text() for text in ax.texts] == ["0.2", "2,000"]
    figure.draw_without_rendering()
    axes = ax.get_window_extent()
    assert all(
        axes.x1 < text.get_window_extent().x0 < text.get_window_extent().x1 <= figure.bbox.x1 for text in ax.texts
    )
    assert pictures.bars([], "a machine") is None


def test_growth_has_axes_for_each_contest():
    sides = [timed(name, value, [1.0, 2.0], "images") for name in "abc" for value in ("1,000", "2,000")]
    figure = pictures.growth(sides)
    assert figure is not None
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["A", "B", "C"]
    assert figure.axes[0].get_xlabel() == "Images"
    np.testing.assert_allclose(figure.axes[0].lines[0].get_ydata(), [1500, 1500])
