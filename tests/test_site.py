"""The documentation as a site, and the notebook of the tour."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib import import_module
from importlib.util import find_spec

import pytest

from support.runs import ROOT
from test_api import FACES

TOUR = ROOT / "docs" / "tour.ipynb"


class Resources(HTMLParser):
    """Collects what a browser fetches to show a page, and the anchors of the page."""

    def __init__(self, page):
        super().__init__()
        self.fetched, self.anchors = [], set()
        self.feed(page.read_text())

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.anchors.add(given.get("id"))
        # Other links are followed by the reader alone.
        wanted = given.get("href") if tag == "link" else None if tag == "a" else given.get("src")
        self.fetched += [wanted] if wanted else []


def needs(*packages):
    if absent := [name for name in packages if find_spec(name) is None]:
        pytest.skip(f"{', '.join(absent)} is not installed: pip install -e '.[docs]'")


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_asks_no_other_host(tmp_path):
    needs("mkdocs", "material", "mkdocstrings_handlers")
    site = tmp_path / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    pages = {str(page.relative_to(site)): Resources(page) for page in site.rglob("*.html")}
    assert {"index.html", "configs.html", "tour.html", "CONTRIBUTING.html"} < set(pages)
    for name, page in pages.items():
        assert page.fetched
        assert [url for url in page.fetched if re.match(r"(https?:)?//", url)] == [], name
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*[\"']?(https?:)?//", sheet.read_text())
    for face in FACES:
        page = pages[f"api/{face.removeprefix('dks_jax.')}.html"]
        assert {f"{face}.{name}" for name in import_module(face).__all__} <= page.anchors
    for config in (ROOT / "configs").glob("*.py"):
        assert config.stem in pages["configs.html"].anchors


def test_the_tour_is_committed_as_it_ran():
    cells = [cell for cell in json.loads(TOUR.read_text())["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} == {"stream", "display_data"}
    for output in outputs:
        text = "".join(output.get("text", ()))
        # Neither warnings nor paths of the machine.
        assert output.get("name") != "stderr"
        assert not re.search(r"(^|\s)/\w", text)
        assert "arning" not in text


@pytest.mark.slow
def test_the_tour_runs(tmp_path, monkeypatch):
    needs("nbclient", "ipykernel")
    # Its kernel is a process of its own.
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    program = (
        "import sys, nbformat; from nbclient import NotebookClient; "
        "notebook = nbformat.read(sys.argv[1], as_version=4); "
        "NotebookClient(notebook, timeout=600).execute(); "
        "nbformat.write(notebook, 'tour.ipynb')"
    )
    subprocess.run([sys.executable, "-c", program, str(TOUR)], cwd=tmp_path, check=True, capture_output=True)
    *_, last = json.loads((tmp_path / "tour.ipynb").read_text())["cells"]
    assert "the same: True" in "".join(last["outputs"][0]["text"])
