import itertools
import sys

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex

from jax_mnist import Dataset, History, plots
from jax_mnist.cli.pictures import draw_run
from jax_mnist.metrics import calibration

HISTORY = History(np.arange(1, 4), *np.linspace(0.1, 0.9, 15).reshape(5, 3))
ACCURACIES = {name: np.ones((2, 3)) for name in "abc"}


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def test_plots_draw_on_the_given_axes():
    draw = [
        lambda ax: plots.digit(np.eye(28), "one", ax),
        lambda ax: plots.digits(np.ones((3, 28, 28)), ax=ax),
        lambda ax: plots.predictions(np.ones((3, 28, 28)), "737", "733", ax=ax),
        lambda ax: plots.pixel_table(np.arange(12).reshape(3, 4), ax),
        lambda ax: plots.tangent(lambda x: x**2, -1.5, ax=ax),
        lambda ax: plots.curves(HISTORY, ax),
        lambda ax: plots.confusion_matrix(np.array([[5, 1], [0, 7]]), "73", ax),
        lambda ax: plots.reliability(calibration(np.ones((3, 1), np.float32), np.array([1, 1, 0])), ax),
        lambda ax: plots.gradient_norms(np.ones(3), ax),
        lambda ax: plots.sweep([0.1, 1.0], {"30": np.ones((2, 2))}, ax),
    ]
    _, axes = plt.subplots(1, len(draw))
    for function, ax in zip(draw, axes, strict=True):
        assert function(ax) is ax
        assert ax.has_data() or ax.texts
    plt.gcf().canvas.draw()


def test_pixel_table_shows_every_value():
    table = plots.pixel_table(np.array([[0, 7, 255], [30, 40, 50]]))
    assert [text.get_text() for text in table.texts] == ["0", "7", "255", "30", "40", "50"]
    assert [text.get_position() for text in table.texts[:4]] == [(0, 0), (1, 0), (2, 0), (0, 1)]
    assert table.texts[2].get_color() == "white"


def test_signed_values_are_red_above_zero_and_blue_below():
    image = plots.digit(np.array([[-2.0, 0.0, 4.0]]), limit=4.0).images[0]
    (blue, white, red) = image.to_rgba(image.get_array())[0, :, :3]
    assert blue[2] > blue[0]
    np.testing.assert_allclose(white, 0.97, atol=0.01)
    assert red[0] > red[2]


def test_signed_digits_share_one_scale_around_zero():
    first = plots.digits(np.array([[[-2.0, 0.0], [1.0, 0.0]], [[0.0, 4.0], [0.0, 0.0]]]), signed=True).images[0]
    assert first.get_clim() == (-4, 4)


@pytest.mark.parametrize("shape", [(12, 28, 28), (12, 5, 3), (1, 28, 28)])
@pytest.mark.parametrize("titled", [True, False])
def test_digits_are_tiles_of_one_image_each_below_its_title(shape, titled):
    images = np.random.default_rng(0).random(shape)
    ax = plots.digits(images, [f"{i}" for i in range(len(images))] if titled else [], columns=5)
    (whole,) = (image.get_array() for image in ax.images)
    _, height, width = shape
    gap = max(width // 14, 1)
    rows, columns = -(-len(images) // 5), min(len(images), 5)
    top, left = whole.shape[0] // rows, whole.shape[1] // columns
    assert left == width + gap
    for i, image in enumerate(images):
        bottom, right = (i // 5 + 1) * top, (i % 5 + 1) * left
        np.testing.assert_array_equal(whole[bottom - height : bottom, right - width : right], image)
    assert np.sum(whole > images.min()) == images.size - 1  # all else is white
    for i, text in enumerate(ax.texts):
        x, y = text.get_position()
        assert x == (i % 5) * left + gap + (width - 1) / 2
        assert y == (i // 5 + 1) * top - height - 0.5
    assert [text.get_text() for text in ax.texts] == [f"{i}" for i in range(len(images) if titled else 0)]


def test_titles_fit_between_the_rows_and_errors_are_red():
    names = ["3", "7, not 3"] * 15
    ax = plots.predictions(np.ones((30, 28, 28)), [name[0] for name in names], ["3"] * 30)
    ax.figure.canvas.draw()
    assert [text.get_text() for text in ax.texts] == names
    assert [to_hex(text.get_color()) for text in ax.texts] == ["#000000", "#bd1f01"] * 15
    boxes = [text.get_window_extent() for text in ax.texts]
    assert all(ax.get_window_extent().y1 + 1 >= box.y1 for box in boxes)
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes[:10]))
    pixels = 28 * ax.get_window_extent().height / ax.images[0].get_array().shape[0]
    assert all(above.y0 - pixels > below.y1 for above, below in zip(boxes[:20], boxes[10:], strict=True))


def test_tangent_has_the_slope_at_the_point():
    ax = plots.tangent(lambda x: x**2, at=-1.0)
    curve, line, point = ax.lines
    np.testing.assert_allclose(curve.get_ydata(), np.square(curve.get_xdata()), rtol=1e-5)
    x, y = line.get_data()
    assert (y[1] - y[0]) / (x[1] - x[0]) == pytest.approx(-2)
    assert point.get_data() == ([-1.0], [1.0])


def test_curves_show_the_history():
    ax = plots.curves(HISTORY)
    train, valid = ax.lines
    right = next(other for other in ax.figure.axes if other is not ax).lines[0]
    for line, column in ((train, HISTORY.train_loss), (valid, HISTORY.valid_loss), (right, HISTORY.accuracy)):
        np.testing.assert_array_equal(line.get_ydata(), column)


def test_parabola_shows_each_step_of_the_fit():
    time = np.arange(5.0)
    axes = plots.parabola(time, time**2, [time, time**2], ["0", "1"])
    assert [ax.get_title() for ax in axes] == ["0", "1"]
    np.testing.assert_array_equal(axes[1].lines[0].get_ydata(), time**2)


def test_sweep_shows_means_and_standard_deviations():
    values = np.array([[0.9, 0.92], [0.95, 0.97], [0.5, 0.9]])
    ax = plots.sweep([0.01, 0.1, 1.0], {"30 hidden": values, "one seed": values[:, :1]})
    for name, shown in {"30 hidden": values.mean(axis=1), "one seed": values[:, 0]}.items():
        line = next(c.lines[0] for c in ax.containers if c.get_label() == name)
        np.testing.assert_allclose(np.array(line.get_data(), float), [[0.01, 0.1, 1.0], shown])
    bars, none = ax.containers
    segments = np.array(bars.lines[2][0].get_segments())
    np.testing.assert_allclose(np.diff(segments[:, :, 1])[:, 0], 2 * values.std(axis=1, ddof=1))
    assert none.lines[2] == ()


def test_confusion_matrix_shows_every_count_and_shades_only_errors():
    ax = plots.confusion_matrix(np.array([[1234, 10, 0], [0, 0, 0], [5, 0, 95]]), ["a", "b", "c"])
    assert [text.get_text() for text in ax.texts] == ["1,234", "10", "0", "0", "0", "0", "5", "0", "95"]
    fractions = ax.images[0].get_array().filled(0)
    np.testing.assert_allclose(fractions, [[0, 10 / 1244, 0], [0, 0, 0], [0.05, 0, 0]])
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["a", "b", "c"]


def test_reliability_diagram_has_a_bar_per_nonempty_bin():
    logits = np.array([[0.1], [3.0], [-3.0], [3.0]], np.float32)
    ax = plots.reliability(calibration(logits, np.array([1, 1, 1, 1]), bins=4))
    assert [(bar.get_x(), bar.get_width()) for bar in ax.patches] == [(0.5, 0.25), (0.75, 0.25)]
    np.testing.assert_allclose([bar.get_height() for bar in ax.patches], [1, 2 / 3])


def test_zero_gradient_norms_give_a_flat_line():
    assert plots.gradient_norms(np.zeros(4)).lines[0].get_ydata().tolist() == [0] * 5


def test_digits_need_images_and_as_many_titles():
    with pytest.raises(ValueError, match="0 images"):
        plots.digits(np.zeros((0, 28, 28)))
    with pytest.raises(ValueError, match="each of the 2 images, or none, got 1"):
        plots.digits(np.zeros((2, 28, 28)), ["7"])


def test_plots_have_their_style_and_leave_matplotlibs_alone():
    before = dict(matplotlib.rcParams)
    ax = plots.curves(HISTORY)
    assert dict(matplotlib.rcParams) == before
    assert ax.get_xlabel() == "Epoch"
    assert ax.xaxis.label.get_fontsize() == 10
    assert [text.get_fontsize() for text in ax.get_legend().texts] == [9] * 3
    assert not ax.spines["top"].get_visible()


def test_notebook_stays_interactive_after_its_first_figure(monkeypatch):
    figure = plt.figure
    monkeypatch.setitem(matplotlib.rcParams, "interactive", False)
    monkeypatch.setattr(plt, "figure", lambda **size: matplotlib.interactive(True) or figure(**size))
    plots.curves(HISTORY)
    assert matplotlib.is_interactive()  # else IPython shows no figure from the second on


@pytest.mark.parametrize("plot", [plots.runs, lambda histories: [plots.sweep([0.1, 1.0], ACCURACIES)]])
def test_lines_differ_by_color_and_by_dashes(plot):
    for ax in plot({"a": HISTORY, "b": HISTORY, "c": HISTORY}):
        lines = [line for line in ax.lines if line.get_linestyle() != "None"]  # without the ends of error bars
        for looks in ([line.get_color() for line in lines], [line.get_linestyle() for line in lines]):
            assert len(lines) == len(set(looks)) == 3


def test_run_is_drawn_without_pyplot(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    labels = np.arange(40, dtype=np.int32) % 2
    predicted = labels.copy()
    predicted[:3] = 1 - predicted[:3]
    drawn, predictions = [], plots.predictions
    monkeypatch.setattr(plots, "predictions", lambda *args, ax: drawn.append(predictions(*args, ax=ax)) or ax)
    valid = Dataset(np.zeros((40, 28, 28), np.uint8), labels)
    draw_run(tmp_path, HISTORY, predicted, valid, ("7", "3"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.png", "predictions.png"]
    assert [text.get_text() for text in drawn[0].texts][:5] == ["3, not 7", "7, not 3", "3, not 7", "3", "7"]
