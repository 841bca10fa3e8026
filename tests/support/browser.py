"""Chromium without a window: what a page shows, says and asks for."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
FLAGS = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
FLAGS += " --disable-component-update --disable-sync --enable-logging=stderr"
# Shows a page in a frame, whose width is that of a telephone where a window may not be so narrow, and writes
# down what a function finds in the frame. It is no part of the page, and its policy does not concern it.
FRAME = """<!doctype html><iframe srcdoc="{page}" style="width: {width}px; height: 900px; border: 0"
onload="document.title = JSON.stringify(({measure})(this.contentWindow, this.contentDocument))"></iframe>"""


class Visit(NamedTuple):
    """A visit of a page.

    dom: the page as the browser has it in the end.
    console: lines on its console.
    requests: addresses that the page has asked for, but for its own.
    """

    dom: str
    console: list[str]
    requests: list[str]


def visit(page: Path, folder: Path, *, dark: bool = False) -> Visit:
    """Opens a page in the light or the dark theme; what the browser needs goes to `folder`."""
    log = folder / "net.json"
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    places = [f"--user-data-dir={folder / 'profile'}", f"--log-net-log={log}"]
    # Chromium itself finds nothing either.
    command = [BROWSER, *FLAGS.split(), "--host-resolver-rules=MAP * ~NOTFOUND", scheme, *places]
    result = subprocess.run(
        [*command, "--dump-dom", page.as_uri()], capture_output=True, text=True, check=True, timeout=120
    )
    events = [event.get("params", {}) for event in json.loads(log.read_text())["events"]]
    # Chromium itself asks for this and that, with no page as the initiator.
    asked = [own["url"] for own in events if own.get("initiator", "not an origin") != "not an origin"]
    shutil.rmtree(folder / "profile")
    return Visit(result.stdout, re.findall(r"CONSOLE.*", result.stderr), sorted({*asked}))


def measure(page: Path, folder: Path, function: str, *, width: int, dark: bool = False):
    """What a function of JavaScript, of the window and the document, finds in a page of a width in pixels."""
    frame = folder / "frame.html"
    content, function = (html.escape(text) for text in (page.read_text("utf-8"), function))
    frame.write_text(FRAME.format(page=content, width=width, measure=function), "utf-8")
    dom = visit(frame, folder, dark=dark).dom
    return json.loads(html.unescape(re.search(r"<title>(.*?)</title>", dom)[1]))
