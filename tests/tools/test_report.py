"""The page about runs: its figures are evaluation's, names are text, nothing is asked of a server."""

import base64
import io
import json
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
import report
from PIL import Image
from report_page.figures import ticks
from report_page.gathering import Outcome, shown_names
from report_page.markup import element, table
from report_page.sections import calibration, confusion, disagreement, mistakes, per_class
from report_page.thumbnails import data_uri

from dks_jax import evaluate, models
from dks_jax.data.imagenet_classes import wordnet_ids
from dks_jax.inference.evaluation import Examples
from dks_jax.inference.metrics import Metrics
from support.browser import BROWSER, measure, visit
from support.runs import DIGITS, user_error
from support.tiny_network import save_tiny

pytestmark = pytest.mark.usefixtures("tiny_model")

NAMES = ["<script>", f'b & "c" and {"longer" * 12}']
VOID = {"meta", "link", "img"}


class Page(HTMLParser):
    """What a page holds: elements with their attributes and texts; fails where elements are not closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements = [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append([tag, dict(attrs), ""])
        if tag not in VOID:
            self.open.append(self.elements[-1])

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        for own in self.open:
            own[2] += data

    def texts(self, tag):
        return [text for name, _, text in self.elements if name == tag]

    def attributes(self, tag):
        return [attributes for name, attributes, _ in self.elements if name == tag]


@pytest.fixture
def make_run(image_folder, tmp_path):
    """Makes finished runs of two epochs on a folder of two classes, whose names are no good HTML."""
    for split in ("train", "test"):
        for old, new in zip("ab", NAMES, strict=True):
            (image_folder / split / old).rename(image_folder / split / new)
    fields = {"source": "folder", "root": str(image_folder), "held_out": "test", "train_split": "train"}
    fields |= {"mean": "(0.5,0.5,0.5)", "std": "(0.25,0.25,0.25)"}

    def make(name, method="dks", errors=(50.0, 50.0), **weights):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        overrides = {f"data.{field}": value for field, value in fields.items()} | {"epochs": "2"}
        config = models.load_config(f"{DIGITS.removeprefix('--config=')}:{method}", overrides)
        data = {"train_images": 4, "test_images": 2}
        description = {"config": json.loads(config.to_json()), "data": data}
        description |= {"resumed": [], "versions": {"jax": "<b>0</b>"}}
        (folder / "config.json").write_text(json.dumps(description))
        with (folder / "metrics.jsonl").open("w") as file:
            for epoch, error in enumerate(errors, 1):
                for split in ("train", "test"):
                    record = {"step": epoch, "epoch": epoch, "split": split, "error/main": error}
                    file.write(json.dumps(record) + "\n")
        shape = {"channels": 3, "mean": 0.5, "std": 0.25}
        branches = method != "baseline"
        save_tiny(folder / "weights", 2, class_names=NAMES, branches=branches, **shape, **weights)
        return folder

    return make


def page_of(tmp_path, *runs):
    file = tmp_path / "page.html"
    assert report.main([*map(str, runs), f"--output={file}"]) == 0
    return Page(file.read_text(encoding="utf-8"))


def test_the_page_has_the_figures_of_evaluation_and_names_are_text(make_run, tmp_path):
    # All images are taken for the second class.
    run = make_run("<i>dks", **{"head.fc.bias": np.array([0, 9], np.float32)})
    page = page_of(tmp_path, run, make_run("baseline", "baseline"))
    assert evaluate.main([f"--weights={run}", f"--output={tmp_path / 'x.json'}"]) == 0
    main = json.loads((tmp_path / "x.json").read_text())
    assert main["top1_error"] == 50
    (line,) = (text for text in page.texts("tr") if text.startswith("<i>dks"))
    assert line.endswith(f"DKS0250.00{main['nll']:.4f}{main['ece']:.4f}")
    # Parts of both runs, in order; a network without branches has none that disagree.
    assert page.texts("h1") == ["WRN-16-1"]
    assert page.texts("h2") == ["Overview", "<i>dks DKS", "baseline baseline"]
    parts = ["Errors by class", "Confusion", "Calibration", "Most confident mistakes"]
    assert page.texts("h3") == [*parts, "Where the branches disagree", *parts]
    captions = page.texts("caption")
    assert len(captions) == len(page.texts("table")) == len([text for text in captions if text])
    assert any("Difference" in text for text in captions)
    # What looks like HTML in names of classes, runs and versions shows as it is.
    assert not {"script", "i", "b"} & {name for name, _, _ in page.elements}
    assert "<script>" in page.texts("th")
    assert any("<b>0</b>" in text for text in page.texts("td"))
    picture = page.attributes("img")[0]
    assert picture["alt"] == "test/<script>/1.png: <script>, taken for " + NAMES[1]
    assert {own["role"] for own in page.attributes("svg") if "aria-label" in own} == {"img"}
    assert {own["alt"] != "" for own in page.attributes("img")} == {True}


def test_no_part_of_the_page_is_asked_of_a_server(make_run, tmp_path):
    page = page_of(tmp_path, make_run("dks"))
    links = [own[name] for _, own, _ in page.elements for name in ("src", "href") if name in own]
    assert {link.partition(",")[0].partition("-")[0] for link in links} == {
        *("data:", "data:image/png;base64", "#run", "#overview")
    }
    text = (tmp_path / "page.html").read_text()
    assert not any(word in text for word in ("http://", "https://", "url(", "@import", "<iframe", "<object"))
    (policy,) = (own["content"] for own in page.attributes("meta") if "http-equiv" in own)
    assert policy.startswith("default-src 'none'")
    # The same command writes the same bytes.
    assert page_of(tmp_path, tmp_path / "runs").elements == page.elements


def test_without_its_images_a_run_has_the_rest_of_the_page(make_run, image_folder, tmp_path):
    run = make_run("dks", errors=(40.0, 30.0))
    shutil.rmtree(image_folder)
    page = page_of(tmp_path, run)
    (warning,) = (text for text in page.texts("p") if text.startswith("Not evaluated"))
    assert str(image_folder) in warning
    assert page.texts("h3") == []
    assert len(page.texts("polyline")) == 2
    assert any("30.00 (1)" in text for text in page.texts("td"))


def test_another_error_than_training_has_logged_is_said_and_so_are_images_that_are_left_out(
    make_run, image_folder, tmp_path
):
    run = make_run("dks", errors=(40.0, 30.0))
    (image_folder / "test" / NAMES[0] / "2.png").write_bytes(b"no image")
    remarks = [text for text in page_of(tmp_path, run).texts("p") if "left out" in text or "30.00 %" in text]
    assert len(remarks) == 2


def test_a_run_that_cannot_be_reported_is_named_and_nothing_is_written(make_run, tmp_path, capsys):
    whole, unfinished, bare = make_run("whole"), make_run("unfinished"), make_run("bare")
    lines = (unfinished / "metrics.jsonl").read_text().splitlines(keepends=True)
    (unfinished / "metrics.jsonl").write_text("".join(lines[:2]))
    shutil.rmtree(bare / "weights")
    file = tmp_path / "page.html"
    nowhere = f"--output={tmp_path / 'no/x.html'}"
    for wrong in ([tmp_path / "none"], [whole, unfinished], [bare], [whole, nowhere]):
        assert report.main([f"--output={file}", *map(str, wrong)]) == 2
        error = user_error(capsys, alone=True)
        assert str(wrong[-1]).removeprefix("--output=").removesuffix("/x.html") in error
    (bare / "weights").mkdir()
    assert report.main([f"--output={file}", str(bare)]) == 2
    assert str(bare) in user_error(capsys, alone=True)
    shutil.rmtree(bare)
    assert not file.exists()
    # In a folder of workdirs an unfinished one is left out, and listed.
    page = page_of(tmp_path, tmp_path / "runs")
    (line,) = (text for text in page.texts("li") if "unfinished" in text)
    assert line.startswith(str(unfinished))


def outcome(labels, predictions, names, confidences=None):
    """An outcome of classifiers with these predictions [classifier, example]."""
    predictions, labels = np.array(predictions), np.array(labels)
    confidences = np.full(predictions.shape, 0.9) if confidences is None else np.array(confidences)
    classifiers = [*(f"branch{i + 1}" for i in range(len(predictions) - 1)), "main"]
    examples = Examples(np.arange(len(labels)), labels, predictions, confidences)
    metrics = {name: Metrics(0.0, None, 0.0, 0.0) for name in classifiers}
    return Outcome(metrics, names, examples, [], [])


def rows(section):
    """The cells of the lines of a section's table."""
    return [[*own] for own in cells(Page(section))]


def cells(page):
    """The texts of the cells of each line."""
    line = []
    for tag, _, text in page.elements:
        if tag == "tr" and line:
            yield line
            line = []
        if tag in ("th", "td"):
            line.append(text)
    yield line


def test_classes_are_listed_from_the_worst():
    own = outcome([0, 0, 1, 1, 1, 1, 3], [[0, 0, 1, 1, 1, 1, 3], [1, 0, 1, 1, 1, 0, 0]], list("abcd"))
    header, *lines = rows(per_class(own))
    assert header == ["class", "images", "main", "branch1"]
    # A class without images has no error.
    assert lines == [
        ["d", "1", "100.00", "0.00"],
        ["a", "2", "50.00", "0.00"],
        ["b", "4", "25.00", "0.00"],
    ]


def test_confusions_are_a_matrix_of_few_classes_and_a_list_of_many():
    labels, predicted = [0, 0, 1, 1, 2], [0, 1, 1, 0, 0]
    header, *lines = rows(confusion(outcome(labels, [predicted], list("abc"))))
    assert header == ["", "a", "b", "c"]
    assert lines == [["a", "1", "1", ""], ["b", "1", "1", ""], ["c", "1", "", ""]]
    many = [f"class {i}" for i in range(30)]
    labels, predicted = [*range(30), 7, 7], [*range(29), 0, 3, 3]
    assert rows(confusion(outcome(labels, [predicted], many)))[1:] == [
        ["class 7", "class 3", "2", "66.7"],
        ["class 29", "class 0", "1", "100.0"],
    ]
    assert "table" not in confusion(outcome([0, 1], [[0, 1]], list("ab")))


def test_branches_are_compared_with_the_main_classifier():
    labels, main = [0, 0, 0, 1, 1, 1, 1, 0], [0, 0, 0, 1, 1, 0, 0, 1]
    branch = [0, 0, 1, 1, 0, 0, 1, 1]
    (_, line) = rows(disagreement(outcome(labels, [branch, main], list("ab"))))
    # They agree in 5 of 8, of which 2 are wrong; of the other 3 the main classifier has one wrong.
    assert line == ["branch1", "62.50", "3", "2", "1", "2", "40.00", "33.33"]
    assert disagreement(outcome(labels, [main], list("ab"))) == ""
    same = rows(disagreement(outcome(labels, [main, main], list("ab"))))[1]
    assert same[-1] == "-"


def test_each_classifier_has_a_diagram_with_a_bar_for_each_bin_that_has_images():
    own = outcome([0] * 4, [[0, 0, 1, 0], [0, 0, 0, 0]], list("ab"), [[0.5, 0.6, 0.7, 0.99], [1.0] * 4])
    page = Page(calibration(own))
    bars = [attributes for attributes in page.attributes("rect") if attributes["class"].startswith("bar")]
    assert len(page.texts("svg")) == 2
    assert len(bars) == 4 + 1
    assert {attributes["class"] for attributes in bars} == {"bar pale"}
    assert min(float(bar["height"]) for bar in page.attributes("rect")) >= 0


def test_imagenet_s_classes_are_shown_in_words_which_differ():
    assert shown_names(["n01440764", "own (1)"]) == ["tench", "own (1)"]
    assert len({*shown_names(wordnet_ids())}) == 1000


def test_nothing_wrong_is_said():
    assert "0 of 2 images" in mistakes(outcome([0, 1], [[0, 1]], list("ab")))


def test_a_small_picture_is_kept_exactly_and_a_large_one_is_made_small():
    def read(uri):
        kind, _, text = uri.removeprefix("data:image/").partition(";base64,")
        return kind, Image.open(io.BytesIO(base64.b64decode(text)))

    random = np.random.default_rng(0)
    for channels in (1, 3):
        image = random.integers(0, 256, (8, 9, channels), np.uint8)
        kind, small = read(data_uri(image))
        assert kind == "png"
        np.testing.assert_array_equal(np.asarray(small).reshape(image.shape), image)
        kind, large = read(data_uri(random.integers(0, 256, (300, 224, channels), np.uint8)))
        assert kind == "jpeg"
        assert max(large.size) == 160


def test_text_is_escaped_wherever_it_stands():
    made = element("p", "<b>", element("i", "a & b"), title='"><script>', hidden=None, open=True)
    assert made == '<p title="&quot;&gt;&lt;script&gt;" open>&lt;b&gt;<i>a &amp; b</i></p>'
    page = Page(table("<x>", [["<th>", "y"], ["<script>", "<td>"]]))
    assert [name for name, _, _ in page.elements if name == "script"] == []
    assert page.texts("td") == ["<td>"]


def test_ticks_are_round_numbers_within_the_range():
    assert ticks(0, 11.3) == [0, 2.5, 5, 7.5, 10]
    assert ticks(0, 1.05) == [0, 0.25, 0.5, 0.75, 1]
    assert ticks(0, 3, 8, whole=True) == [0, 1, 2, 3]
    assert ticks(0, 1, 8, whole=True) == [0, 1]
    assert ticks(0, 105) == [0, 25, 50, 75, 100]


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
def test_in_a_browser_it_asks_for_nothing_and_fits_a_telephone_in_both_themes(make_run, tmp_path):
    page_of(tmp_path, make_run("dks"), make_run("baseline", "baseline"))
    page = tmp_path / "page.html"
    seen = visit(page, tmp_path)
    assert (seen.console, seen.requests) == ([], [])
    # The same is noticed of a page that does.
    bad = tmp_path / "bad.html"
    bad.write_text('<img src="http://127.0.0.1:9/x.png"><script>console.log("hello")</script>')
    seen = visit(bad, tmp_path)
    assert seen.requests == ["http://127.0.0.1:9/x.png"]
    assert "hello" in seen.console[0]
    # Every picture is shown, and nothing but the tables in their boxes is wider than the page.
    function = """(window, document) => ({
        width: window.innerWidth,
        hidden: document.documentElement.scrollWidth - document.documentElement.clientWidth,
        look: window.getComputedStyle(document.body).backgroundColor,
        tables: [...document.querySelectorAll(".scroll")].filter(e => e.scrollWidth > e.clientWidth).length,
        pictures: [...document.images].map(e => e.naturalWidth),
        overflowing: [...document.querySelectorAll("body *")].filter(
            e => !e.closest(".scroll, svg") && e.getBoundingClientRect().right > window.innerWidth
        ).map(e => e.outerHTML.slice(0, 80)),
    })"""
    light, dark = (measure(page, tmp_path, function, width=400, dark=own) for own in (False, True))
    for own in (light, dark):
        assert (own["width"], own["hidden"]) == (400, 0)
        assert own["overflowing"] == []
        assert own["tables"] > 0
        assert min(own["pictures"]) > 0
    assert light["look"] != dark["look"]
    assert measure(page, tmp_path, function, width=1200)["hidden"] == 0
