"""The exported page in a real browser: its logits, and its use by mouse, touch, keyboard and screen reader."""

import base64
import json

import jax
import numpy as np
import optax
import pytest
from browser import PROGRAM, browser
from flax import nnx
from PIL import Image, ImageDraw

from jax_mnist import (
    Learner,
    Model,
    Splits,
    cnn,
    export_page,
    fit,
    flax_mlp,
    from_flax,
    linear,
    make_batch,
    mlp,
    read_photo,
    softmax_cross_entropy,
)
from jax_mnist.__main__ import main
from jax_mnist.metrics import class_probabilities

needs_browser = pytest.mark.skipif(PROGRAM is None, reason="Chromium is not installed")
TEN = tuple("0123456789")
THREE = [(0.3, 0.25), (0.42, 0.17), (0.58, 0.17), (0.68, 0.3), (0.6, 0.44), (0.46, 0.48)]
THREE += [(0.6, 0.52), (0.72, 0.65), (0.62, 0.8), (0.42, 0.83), (0.28, 0.74)]


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def trained(mnist):
    learner = Learner(flax_mlp((784, 32, 10)), softmax_cross_entropy, optax.adam(3e-3))
    state, _ = fit(jax.random.key(0), learner, Splits(mnist.train[:10_000], mnist.valid[:256]), epochs=6)
    return learner.model, state.params


@pytest.fixture(scope="module")
def page(trained, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "page.html"
    export_page(path, *trained, TEN)
    return path


@pytest.fixture(params=["desktop", pytest.param("phone", marks=pytest.mark.slow)])
def drawing(request, chromium, page):
    """Draw a 3 on the page, by mouse or by touch, and return the browser."""
    phone = request.param == "phone"
    chromium.open(page, *((360, 740) if phone else (1000, 800)), mobile=phone)
    (chromium.touch if phone else chromium.mouse)(inside(chromium, "paper", THREE))
    return chromium


def inside(chromium, name, points):
    """Convert points from fractions of an element's size to pixels of the window."""
    left, top, width, height = chromium.run(
        "(({left, top, width, height}) => [left, top, width, height])"
        f"(document.getElementById('{name}').getBoundingClientRect())"
    )
    return [(left + x * width, top + y * height) for x, y in points]


def shown(chromium):
    """Return what the page shows after its next redraw: answer, probabilities in percent, pixels."""
    return chromium.run("""
        new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done([
            document.getElementById("answer").textContent,
            [...document.getElementById("probabilities").rows].map((row) => parseFloat(row.lastChild.textContent)),
            [...document.getElementById("seen").getContext("2d").getImageData(0, 0, 28, 28).data]
                .filter((_, index) => index % 4 === 0),
        ]))))""")


def announced(chromium, text):
    """Return the last text announced to screen readers, after waiting at most five seconds for `text`."""
    return chromium.run(f"""
        (async () => {{
            const status = document.getElementById("status");
            for (let n = 0; n < 100 && status.textContent !== {json.dumps(text)}; n++) {{
                await new Promise((done) => setTimeout(done, 50));
            }}
            return status.textContent;
        }})()""")


MODELS = {
    "linear": (linear, ("7", "3")),
    "mlp": (lambda: mlp((784, 30, 1)), ("7", "3")),
    "flax_mlp": (lambda: flax_mlp((784, 40, 20, 10)), TEN),
    "cnn": (lambda: cnn((4, 6, 8), hidden=(16,)), TEN),
    "cnn SAME, stride 2": (lambda: cnn((4, 6), (4, 3), strides=(2, 2), pools=(1, 1), padding="SAME"), TEN),
    "cnn SAME, pooled, ReLU": (
        lambda: cnn((4, 6), (4, 3), strides=(1, 1), pools=(2, 2), padding="SAME", activation=jax.nn.relu),
        TEN,
    ),
    "no bias": (lambda: from_flax(lambda rngs: nnx.Linear(784, 3, use_bias=False, rngs=rngs)), ("a", "</script>", "é")),
}


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize("name", MODELS)
def test_logits_and_probabilities_equal_pythons(chromium, tmp_path, mnist, name):
    make, classes = MODELS[name]
    model = make()
    params = jax.tree.map(lambda leaf: 2 * leaf + 0.01, model.init(jax.random.key(1)))
    export_page(tmp_path / "page.html", model, params, classes)
    chromium.open(tmp_path / "page.html")
    images = mnist.valid.images[:100].reshape(100, 784)
    found = chromium.run(f"""({json.dumps(images.tolist())}).map((pixels) => {{
        const values = logits(pixels);
        return [[...values], probabilities(values)];
    }})""")
    logits = model.apply(params, make_batch(mnist.valid.images[:100], mnist.valid.labels[:100]).x)
    np.testing.assert_allclose([found_logits for found_logits, _ in found], logits, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        [found_probabilities for _, found_probabilities in found], class_probabilities(logits), rtol=1e-5, atol=1e-5
    )
    assert chromium.run("classes") == list(classes)
    pictures = chromium.run("document.querySelectorAll('#weights canvas').length")
    assert pictures == {"linear": 1, "no bias": 3}.get(name, 0)


@pytest.mark.slow
@needs_browser
def test_drawing_is_preprocessed_like_a_photo(chromium, page, tmp_path):
    chromium.open(page)
    rng = np.random.default_rng(0)
    for n in range(40):
        picture = Image.new("L", (1600, 1600), 255)
        points = [tuple(point) for point in rng.integers(200, 1400, (6, 2)).tolist()]
        width = rng.integers(8, 20) if n % 2 else rng.integers(60, 160)
        ImageDraw.Draw(picture).line(points, 0, int(width), "curve")
        picture = picture.resize((400, int(rng.integers(150, 400))), Image.Resampling.BOX)
        picture.save(tmp_path / "drawing.png")
        ink = base64.b64encode((255 - np.asarray(picture)).tobytes()).decode()
        pixels = chromium.run(f"""
            [...prepare({{width: {picture.width}, height: {picture.height},
                data: Array.from(atob({json.dumps(ink)}), (c) => [0, 0, 0, c.charCodeAt(0)]).flat()}})]""")
        photo = read_photo(tmp_path / "drawing.png").astype(int)
        difference = np.abs(np.reshape(pixels, (28, 28)) - photo)
        assert difference.max() <= 1
        assert np.median(photo[photo > 0.5 * photo.max()]) >= 0.7 * 255  # a line of 2 of 400 pixels, too


@needs_browser
def test_drawing_is_classified(drawing, trained, tmp_path):
    answer, percents, pixels = shown(drawing)
    assert answer == "3"
    model, params = trained
    logits = model.apply(params, jax.numpy.array([pixels]) / 255)
    np.testing.assert_allclose(percents, 100 * class_probabilities(logits)[0], atol=0.051)  # one decimal is shown
    announcement = f"3, {max(percents):.1f}%"
    assert announced(drawing, announcement) == announcement
    picture = drawing.run("""(() => {
        ink.globalCompositeOperation = "destination-over";
        ink.fillStyle = "white";
        ink.fillRect(0, 0, paper.width, paper.height);
        return paper.toDataURL();
    })()""")
    (tmp_path / "drawing.png").write_bytes(base64.b64decode(picture.partition(",")[2]))
    photo = read_photo(tmp_path / "drawing.png").ravel().astype(int)
    assert np.abs(photo - pixels).mean() < 1.5  # the ink of that picture is not pure black


@pytest.mark.slow
@needs_browser
def test_probabilities_update_while_drawing(chromium, page):
    chromium.open(page)
    empty = shown(chromium)
    assert empty == ["?", [None] * 10, [0] * 784]
    points = inside(chromium, "paper", THREE)
    seen = []
    for event, (x, y) in [("mousePressed", points[0]), *(("mouseMoved", point) for point in points)]:
        chromium.send("Input.dispatchMouseEvent", type=event, x=x, y=y, button="left", buttons=1, clickCount=1)
        seen.append(shown(chromium)[1])
    assert len({tuple(percents) for percents in seen}) >= 8
    chromium.send("Input.dispatchMouseEvent", type="mouseReleased", x=x, y=y, button="left", clickCount=1)
    done = shown(chromium)
    chromium.send("Input.dispatchMouseEvent", type="mouseMoved", x=points[0][0], y=points[0][1])
    assert shown(chromium) == done
    chromium.mouse(inside(chromium, "clear", [(0.5, 0.5)]))
    assert shown(chromium) == empty


@pytest.mark.slow
@needs_browser
def test_keyboard_draws_and_clears_with_a_visible_focus(chromium, page):
    chromium.open(page)
    chromium.press("Tab")
    assert chromium.run("document.activeElement.id") == "paper"
    focused = "getComputedStyle(document.activeElement).outlineStyle"
    assert (chromium.run(focused), chromium.run("getComputedStyle(pen).visibility")) == ("solid", "visible")
    chromium.press("ArrowUp", 14)
    assert shown(chromium)[0] == "?"
    chromium.press(" ")
    assert announced(chromium, "Pen down") == "Pen down"
    chromium.press("ArrowDown", 28)
    answer, percents, pixels = shown(chromium)
    assert answer == "1"
    announcement = f"1, {max(percents):.1f}%"
    assert announced(chromium, announcement) == announcement
    assert np.count_nonzero(np.reshape(pixels, (28, 28)).any(axis=1)) == 20
    chromium.press(" ")
    chromium.press("ArrowLeft", 10)
    assert shown(chromium)[2] == pixels
    chromium.press("Delete")
    assert shown(chromium)[0] == "?"
    assert announced(chromium, "Drawing cleared") == "Drawing cleared"
    chromium.press(" ")
    chromium.press("Tab")
    assert (chromium.run("document.activeElement.id"), chromium.run(focused)) == ("clear", "solid")
    assert shown(chromium)[0] != "?"
    chromium.press(" ")
    assert shown(chromium)[0] == "?"


@pytest.mark.slow
@needs_browser
def test_screen_reader_finds_every_element(drawing):
    nodes = drawing.send("Accessibility.getFullAXTree")["nodes"]
    named = {(node["role"]["value"], node.get("name", {}).get("value")): node for node in nodes if not node["ignored"]}
    paper = named["application", "Drawing area"]
    assert "arrow keys move the pen" in paper["description"]["value"]
    assert {("button", "Clear"), ("heading", "Draw a digit"), ("table", "Probabilities")} <= named.keys()
    assert ("image", "Model input, 28 by 28 pixels") in named
    assert [name for role, name in named if role == "rowheader"] == list(TEN)
    status = next(node for node in nodes if node["role"]["value"] == "status")
    assert {"name": "live", "value": {"type": "token", "value": "polite"}} in status["properties"]


EVENTS = ("Network.requestWillBeSent", "Log.entryAdded", "Runtime.exceptionThrown")


@pytest.mark.slow
@needs_browser
def test_page_needs_no_network_fits_a_phone_and_logs_no_errors(drawing):
    by_name = {name: [e["params"] for e in drawing.events if e.get("method") == name] for name in EVENTS}
    sent, logged, thrown = by_name.values()
    assert {request["request"]["url"].partition(":")[0] for request in sent} == {"file"}
    assert logged == thrown == []
    assert drawing.run("document.documentElement.scrollWidth <= innerWidth")
    assert drawing.run("scrollY") == 0  # a touch draws and does not scroll


UNSUPPORTED = {
    "a chain of the layers in the parameters gives": Model(
        mlp((784, 5, 1)).init, lambda params, x: jax.numpy.tanh(mlp((784, 5, 1)).apply(params, x))
    ),
    "28x28 gray pixels": mlp((100, 10)),
    "only weights (or kernel) and bias": Model(lambda key: {"scale": jax.numpy.ones(3)}, lambda params, x: x),
    "a chain of the layers in the parameters gives different logits": from_flax(
        lambda rngs: nnx.Sequential(
            nnx.Conv(1, 2, (3, 5), rngs=rngs), lambda x: x.reshape(len(x), -1), nnx.Linear(1568, 10, rngs=rngs)
        ),
        (28, 28, 1),
    ),
    "does not take 784 pixels": cnn((2, 2), (3, 3), hidden=(4,), image_shape=(32, 32, 1)),
    "2 names for this model, got 10: 0, 1,": linear(),
    "3 names for this model, got 10": linear(784, 3),
}


@pytest.mark.parametrize(
    "message", [pytest.param(name, marks=pytest.mark.slow) if "784" in name else name for name in UNSUPPORTED]
)
def test_model_that_the_page_cannot_compute_raises(tmp_path, message):
    model = UNSUPPORTED[message]
    with pytest.raises(ValueError, match=r"page|classes") as error:
        export_page(tmp_path / "page.html", model, model.init(jax.random.key(0)), TEN)
    assert message in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_command_writes_the_page(tmp_path, capsys):
    assert main(["train", "chapter-linear", "--epochs", "1", "--out", str(tmp_path / "run")]) == 0
    assert main(["export_page", str(tmp_path / "run"), str(tmp_path / "page.html")]) == 0
    size = (tmp_path / "page.html").stat().st_size
    assert f"2 classes, {size:,} bytes; written to {tmp_path / 'page.html'}" in capsys.readouterr().out
    bfloat16 = ["mnist", "--hidden", "8", "--epochs", "1", "--bfloat16", "--dataset", "mnist_sample"]
    assert main(["train", *bfloat16, "--out", str(tmp_path / "other")]) == 0
    assert main(["export_page", str(tmp_path / "other"), str(tmp_path / "page.html")]) == 0
    assert main(["export_page", str(tmp_path), str(tmp_path / "page.html")]) == 2
    assert "no config.json" in capsys.readouterr().err
