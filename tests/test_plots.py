import matplotlib.pyplot as plt
import numpy as np
import pytest

from jax_mnist import History, plots
from jax_mnist.metrics import calibration


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def test_plots_draw_on_the_given_axes():
    history = History(np.arange(1, 4), *np.linspace(0.1, 0.9, 15).reshape(5, 3))
    draw = [
        lambda ax: plots.digit(np.eye(28), "one", ax),
        lambda ax: plots.pixel_table(np.arange(12).reshape(3, 4), ax),
        lambda ax: plots.tangent(lambda x: x**2, -1.5, ax=ax),
        lambda ax: plots.curves(history, ax),
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
    weights = np.array([[[-2.0, 0.0], [1.0, 0.0]], [[0.0, 4.0], [0.0, 0.0]]])
    first, second = (ax.images[0] for ax in plots.digits(weights, signed=True))
    red, green, blue, _ = first.to_rgba(weights[0]).transpose(2, 0, 1)
    np.testing.assert_allclose([red[0, 1], green[0, 1], blue[0, 1]], 0.97, atol=0.01)
    assert red[0, 0] < blue[0, 0]
    assert red[1, 0] > blue[1, 0]
    assert first.get_clim() == second.get_clim() == (-4, 4)


def test_tangent_has_the_slope_at_the_point():
    ax = plots.tangent(lambda x: x**2, at=-1.0)
    curve, line, point = ax.lines
    np.testing.assert_allclose(curve.get_ydata(), np.square(curve.get_xdata()), rtol=1e-5)
    x, y = line.get_data()
    assert (y[1] - y[0]) / (x[1] - x[0]) == pytest.approx(-2)
    assert point.get_data() == ([-1.0], [1.0])


def test_curves_show_the_history():
    history = History(np.arange(1, 4), *np.linspace(0.1, 0.9, 15).reshape(5, 3))
    ax = plots.curves(history)
    train, valid = ax.lines
    right = next(other for other in ax.figure.axes if other is not ax).lines[0]
    for line, column in ((train, history.train_loss), (valid, history.valid_loss), (right, history.accuracy)):
        np.testing.assert_array_equal(line.get_ydata(), column)


def test_parabola_shows_each_step_of_the_fit():
    time = np.arange(5.0)
    axes = plots.parabola(time, time**2, [time, time**2], ["0", "1"])
    assert [ax.get_title() for ax in axes] == ["0", "1"]
    np.testing.assert_array_equal(axes[1].lines[0].get_ydata(), time**2)


def test_digits_have_one_axes_per_image():
    axes = plots.digits(np.zeros((13, 28, 28)), columns=5)
    assert len(axes) == len(axes[0].figure.axes) == 13


def test_errors_are_red_and_name_the_expected_class():
    axes = plots.predictions(np.zeros((2, 28, 28)), ["3", "7"], ["3", "3"])
    assert [(ax.get_title(), ax.title.get_color()) for ax in axes] == [("3", "black"), ("7, not 3", "#d62728")]


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


def test_no_images_are_refused():
    with pytest.raises(ValueError, match="0 images"):
        plots.digits(np.zeros((0, 28, 28)))
