import json
import re
from html.parser import HTMLParser

import jax
import matplotlib.pyplot as plt
import numpy as np
import optax
import pytest
from browser import PROGRAM, browser

from jax_mnist import Dataset, History, Learner, Splits, interpret, linear, mnist_loss
from jax_mnist.analysis.report import as_figures, write_report

HISTORY = History(np.arange(1, 4), *np.linspace(0.1, 0.9, 15).reshape(5, 3))


@pytest.fixture(scope="module")
def reported(sample):
    """Return the arguments of a report on an untrained model; the class names need escaping in HTML."""
    splits = Splits(*(part[::40] for part in sample))
    learner = Learner(linear(), mnist_loss, optax.sgd(0.1))
    interpretation = interpret(learner, learner.model.init(jax.random.key(0)), splits, examples=6)
    return interpretation, splits, ("<7>", "3 & 3")


@pytest.fixture(scope="module")
def page(reported, tmp_path_factory):
    directory = tmp_path_factory.mktemp("report") / "new" / "directory"
    return write_report(directory, *reported, 'A "linear" <model>', {"learning rate": "<0.1>"}, HISTORY)


def test_report_is_deterministic_and_opens_no_figure(reported, page, tmp_path):
    before = plt.get_fignums()
    again = write_report(tmp_path, *reported, 'A "linear" <model>', {"learning rate": "<0.1>"}, HISTORY)
    assert again.read_bytes() == page.read_bytes()
    assert plt.get_fignums() == before


def test_report_on_float_images_is_that_on_uint8(reported, page, tmp_path):
    interpretation, splits, classes = reported
    floats = Splits(*(Dataset(part.images.astype(np.float32) / 255, part.labels) for part in splits))
    again = write_report(
        tmp_path, interpretation, floats, classes, 'A "linear" <model>', {"learning rate": "<0.1>"}, HISTORY
    )
    assert again.read_bytes() == page.read_bytes()


class Page(HTMLParser):
    """The elements and the text of a page; `open` holds the elements that are still open."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.words = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_page_is_well_formed_and_self_contained(page):
    parsed = Page(page.read_text())
    assert parsed.open == []
    assert not {tag for tag, _ in parsed.elements} & {"script", "iframe", "object"}
    targets = [attributes[name] for _, attributes in parsed.elements for name in ("src", "href") if name in attributes]
    assert targets
    assert all(target.startswith("data:") for target in targets)
    assert not re.search(r"url\(|@import", page.read_text())
    assert sorted(file.name for file in page.parent.iterdir()) == ["report.html", "report.json"]


def test_pictures_have_alt_texts_and_tables_have_headings(page):
    elements = Page(page.read_text()).elements
    pictures = [attributes for tag, attributes in elements if tag == "img"]
    assert len(pictures) == 4 + 3 * 6
    assert all(attributes["alt"] for attributes in pictures)
    tags = [tag for tag, _ in elements]
    assert tags.count("caption") == tags.count("table") == 3
    assert all("scope" in attributes for tag, attributes in elements if tag == "th")
    assert [tag for tag in tags if tag in ("h1", "h2")] == ["h1", *["h2"] * 6]


def test_names_are_escaped(page):
    words = "\n".join(Page(page.read_text()).words)
    for name in ('A "linear" <model>', "<0.1>", "<7>", "3 & 3"):
        assert name in words


def test_page_and_json_have_the_same_numbers(page, reported):
    interpretation, splits, classes = reported
    figures = json.loads((page.parent / "report.json").read_text())
    assert figures == as_figures(interpretation, classes)
    assert np.sum(figures["confusion_matrix"]) == figures["count"] == len(splits.valid)
    assert figures["correct"] == round(figures["accuracy"] * figures["count"])
    assert sum(bin["count"] for bin in figures["calibration"]) == figures["count"]
    words = " ".join(Page(page.read_text()).words)
    for shown in (f"{figures['accuracy']:.4f}", f"{figures['loss']:.4f}", f"{figures['per_class'][1]['recall']:.4f}"):
        assert shown in words
    for name, value in (("top_losses", "loss"), ("largest_gradients", "gradient_norm")):
        assert [example[value] for example in figures[name]] == sorted(
            (example[value] for example in figures[name]), reverse=True
        )
        assert f"#{figures[name][0]['index']}" in words


def test_non_finite_numbers_are_null_in_json(reported):
    interpretation, _, classes = reported
    per_class = interpretation.per_class._replace(recall=np.array([np.nan, 0.5]))  # a class without images
    metrics = interpretation.metrics._replace(loss=np.inf)
    figures = as_figures(interpretation._replace(per_class=per_class, metrics=metrics), classes)
    assert (figures["loss"], figures["per_class"][0]["recall"], figures["per_class"][1]["recall"]) == (None, None, 0.5)
    json.dumps(figures, allow_nan=False)


@pytest.mark.slow
@pytest.mark.skipif(PROGRAM is None, reason="Chromium is not installed")
@pytest.mark.parametrize("width", [1200, 390])
def test_browser_shows_the_page_without_a_network(page, tmp_path, width):
    """Check that all pictures are drawn, nothing is fetched, and nothing is wider than the window."""
    with browser(tmp_path) as chromium:
        chromium.open(page, width, mobile=width < 500)
        widths = chromium.run("[...document.images].map(image => image.complete && image.naturalWidth)")
        sent = [event["params"] for event in chromium.events if event.get("method") == "Network.requestWillBeSent"]
        assert len(widths) == 4 + 3 * 6
        assert min(widths) >= 28
        assert {request["request"]["url"].partition(":")[0] for request in sent} <= {"file", "data"}
        assert chromium.run("document.documentElement.scrollWidth <= innerWidth")
        section = "getComputedStyle(document.querySelector('section')).backgroundColor"
        assert chromium.run(section) == "rgb(255, 255, 255)"
