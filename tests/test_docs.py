"""README and docs: their examples run, in order, and show what they say."""

import re
import runpy
import shlex
import sys
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import convert_pytorch
import cost
import measure_images
import numpy as np
import pytest
import report
import summarize
import sweep
from PIL import Image

from dks_jax import early_exit, evaluate, export, models, predict, train
from dks_jax.data import View, decoding
from dks_jax.models import Preprocessing
from support.runs import ROOT, SMALL

PROGRAMS = {
    "train": train.main,
    "evaluate": evaluate.main,
    "export": export.main,
    "predict": predict.main,
    "early_exit": early_exit.main,
    "convert_pytorch": convert_pytorch.main,
    "cost": cost.main,
    "measure_images": measure_images.main,
    "report": report.main,
    "summarize": summarize.main,
    "sweep": sweep.main,
}
# The page that a newcomer reads first; the others take minutes.
ALWAYS = ("README",)
NO_EXTRA = pytest.mark.skipif(
    find_spec("jax2onnx") is None, reason="jax2onnx is not installed: pip install -e '.[export]'"
)
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def examples(page):
    """(language, text) of the code blocks of a page."""
    return re.findall(r"```(python|sh)\n(.*?)```", page.read_text(), re.DOTALL)


def script(file):
    """A program that runs a file as the interpreter does."""

    def main(arguments):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [file, *arguments])
            with pytest.raises(SystemExit) as end:
                runpy.run_path(file, run_name="__main__")
        return end.value.code

    return main


def run(language, text, names):
    if name := re.match(r"# (\w+\.py)\n", text):
        Path(name[1]).write_text(text)
        return
    if language == "python":
        exec(compile(text, "example", "exec"), names)
        return
    for command in text.replace("\\\n", " ").strip().splitlines():
        folder, program, arguments = re.fullmatch(
            r"python (-m dks_jax\.|tools/|)(\w+)(?:\.py)? (.*)", command
        ).groups()
        main = PROGRAMS[program] if folder else script(f"{program}.py")
        assert main(shlex.split(arguments)) == 0


def as_case(page):
    marks = [] if page.stem in ALWAYS else [pytest.mark.slow]
    if page.stem == "serving":
        marks.append(NO_EXTRA)
    return pytest.param(page, marks=marks, id=page.stem)


@pytest.mark.parametrize("page", [as_case(page) for page in PAGES if examples(page)])
def test_examples_run_in_order(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models, "NETWORKS", dict(models.NETWORKS))
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    if page.stem == "README":
        # It speaks of the run at its beginning, which takes minutes.
        assert train.main(["--config=configs/digits_wrn.py", *SMALL]) == 0
    names, everything = {"__name__": "example"}, ""
    for language, text in examples(page):
        capsys.readouterr()
        run(language, text, names)
        shown = capsys.readouterr().out
        # Every one shows something, but for those that are or make files.
        assert shown or "save(path)" in text or text.startswith("# ")
        everything += shown
    # What a page says that the log says; it may leave out the end of a line.
    for line, cut in re.findall(
        r"^    ((?:starting|these start) .*?)( \.\.\.)?$", page.read_text(), re.MULTILINE
    ):
        assert (line if cut else f"{line}\n") in everything


def test_the_ablations_are_sweeps_that_can_be_started():
    """Every run of every command of the page has an accepted config, and branches that can be built."""
    text = (ROOT / "docs" / "ablations.md").read_text().replace("configs/", f"{ROOT}/configs/")
    (shared,) = re.findall(r'^    sweep="python tools/sweep\.py (.*)"$', text, re.MULTILINE)
    commands = re.findall(r"^    \$sweep (.*)$", text, re.MULTILINE)
    assert len(commands) > 5
    for command in commands:
        runs = sweep.parse(shlex.split(f"{shared} {command}")).runs
        assert len(runs) >= 5
        for config in {str(run.config.model): run.config for run in runs}.values():
            if config.model.branches != "method":
                assert models.resolve_branches(config.model, config.model.branches)


def test_an_own_network_takes_less_than_thirty_lines():
    _, text = examples(ROOT / "docs" / "own_model.md")[0]
    assert len([line for line in text.splitlines() if line.strip()]) < 30


PREPROCESSINGS = [("squash", 0.875, "bilinear"), ("dks", 0.875, "bilinear"), ("standard", 0.95, "bicubic")]


@pytest.mark.parametrize("how", PREPROCESSINGS, ids=lambda how: how[0])
def test_the_serving_page_sees_the_pixels_that_the_library_sees(how, tmp_path):
    (text,) = (text for _, text in examples(ROOT / "docs" / "serving.md") if "def read(" in text)
    names = {"np": np, "Image": Image}
    exec(text[text.index("def read(") : text.index("def main(")], names)
    path = tmp_path / "image.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (67, 93, 3), np.uint8)).save(path)
    preprocessing = Preprocessing(how[0], 32, 32, 3, (0.5,) * 3, (0.25,) * 3, False, *how[1:])
    view = View(32, 3, how[0], crop_ratio=how[1], interpolation=how[2])
    np.testing.assert_array_equal(names["read"](path, asdict(preprocessing)), decoding.decode(path, view))


def anchors(page):
    """The anchors of the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]+))?\)", page.read_text()):
        other = page.parent / target if target else page
        assert other.exists(), target
        assert not anchor or anchor in anchors(other), f"{target}#{anchor}"
