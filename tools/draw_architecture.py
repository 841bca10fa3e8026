"""Draws the architecture: which folders of dks_jax import which, and the way of a batch through them.

Run `python tools/draw_architecture.py [OUTPUT]`; the default output is docs/architecture.png of the
repository. The arrows between the folders are the imports of the code. Those that follow from other arrows
are left out.
"""

import argparse
import ast
import sys
import textwrap
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from draw_idea import (
    BLUE,
    BLUE_BAND,
    BLUE_FILL,
    GREEN,
    GREEN_FILL,
    GREY,
    INK,
    ORANGE,
    ORANGE_FILL,
    arrow,
    box,
    text,
)
from matplotlib.axes import Axes
from matplotlib.figure import Figure

PACKAGE = Path(__file__).resolve().parents[1] / "dks_jax"
COMMANDS = ("train", "evaluate", "predict", "early_exit", "export")
SLATE, SLATE_FILL = "#5d6975", "#e6eaee"
COLORS = {"blue": (BLUE, BLUE_FILL), "green": (GREEN, GREEN_FILL), "orange": (ORANGE, ORANGE_FILL)}
COLORS["grey"] = (SLATE, SLATE_FILL)
Imports = dict[str, set[str]]
STRAIGHT = {"color": INK, "lw": 1.6}
UP = {"connectionstyle": "angle,angleA=90,angleB=0,rad=6"}


class Place(NamedTuple):
    """Where a part of the package stands in the picture: its row, 0 at the top, and from where to where."""

    row: int
    left: float
    right: float
    color: str


# A part stands above all that it imports and overlaps them, so that every arrow is vertical.
PLACES = {
    "commands": Place(0, 0.4, 15.6, "grey"),
    "command_line": Place(1, 0.4, 3.2, "grey"),
    "training": Place(1, 3.7, 11.2, "orange"),
    "inference": Place(1, 11.5, 15.5, "orange"),
    "weights": Place(2, 3.6, 12.2, "grey"),
    "models": Place(3, 0.4, 6.75, "blue"),
    "data": Place(3, 7.0, 12.2, "green"),
    "supervision": Place(4, 0.5, 4.6, "blue"),
    "synergy": Place(5, 0.5, 2.6, "blue"),
    "nn": Place(5, 2.8, 6.35, "blue"),
    "config": Place(5, 6.6, 12.2, "grey"),
    "reporting": Place(5, 12.5, 15.5, "grey"),
    "runtime": Place(6, 0.4, 15.6, "grey"),
}
# Neighbours that import the same parts share a frame, and its arrows.
FRAMES = (("training", "inference"), ("synergy", "nn", "config", "reporting"))
TOP, ROW, HEIGHT = 14.4, 1.38, 1.12
MARGIN = 0.1


def part(module: tuple[str, ...]) -> str:
    """The part of the package that a module belongs to: its folder, or itself on the highest level."""
    return "commands" if module[0] in COMMANDS else module[0]


def imports(package: Path) -> Imports:
    """Which other parts each part of the package imports."""
    found: Imports = defaultdict(set)
    for path in sorted(package.rglob("*.py")):
        module = path.relative_to(package).with_suffix("").parts
        if module == ("__init__",):
            continue
        importer = part(module)
        found[importer] |= set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                first, *rest = node.module.split(".")
                names = [tuple(rest)] if rest else [(alias.name,) for alias in node.names]
                found[importer] |= {part(name) for name in names if first == package.name}
        found[importer] -= {importer}
    return dict(found)


def direct(found: Imports) -> Imports:
    """The imports without those that follow from others: where a imports b and b imports c, a to c."""

    def below(name: str) -> set[str]:
        return found[name].union(*map(below, found[name]))

    return {name: own - set().union(*map(below, own)) for name, own in found.items()}


def frame_of(name: str) -> tuple[str, ...]:
    """The parts that share a frame with one, itself alone where there is none."""
    return next((frame for frame in FRAMES if name in frame), (name,))


def bounds(names: tuple[str, ...]) -> tuple[float, float, float, float]:
    """Left, right, bottom and top of a part, or of the frame around several."""
    places, margin = [PLACES[name] for name in names], MARGIN if len(names) > 1 else 0.0
    middle = TOP - ROW * places[0].row
    return (
        places[0].left - margin,
        places[-1].right + margin,
        middle - HEIGHT / 2 - margin,
        middle + HEIGHT / 2 + margin,
    )


def require_drawable(found: Imports, arrows: Imports) -> None:
    """Ends the program where the picture has no place for a part or for an arrow."""
    if set(found) != set(PLACES):
        odd = ", ".join(sorted(set(found) ^ set(PLACES)))
        sys.exit(f"PLACES must have each part of the package once; these differ: {odd}.")
    for frame in FRAMES:
        if any(arrows[name] != arrows[frame[0]] for name in frame):
            sys.exit(f"FRAMES must hold parts that import the same ones; {', '.join(frame)} do not.")
    for name, imported in arrows.items():
        for other in imported:
            (left, right, *_), (own_left, own_right, *_) = bounds(frame_of(name)), bounds((other,))
            x = (max(left, own_left) + min(right, own_right)) / 2
            rows = range(PLACES[name].row + 1, PLACES[other].row)
            between = [n for n, p in PLACES.items() if p.row in rows and p.left <= x <= p.right]
            if (
                min(right, own_right) <= max(left, own_left)
                or between
                or not PLACES[name].row < PLACES[other].row
            ):
                sys.exit(f"PLACES leaves no straight way from {name} down to {other}, which it imports.")


def contents(name: str) -> str:
    """The files and folders of a part."""
    if name == "commands":
        return ", ".join(f"{command}.py" for command in COMMANDS)
    folder = PACKAGE / name
    if not folder.is_dir():
        return ""
    inside = [path for path in sorted(folder.iterdir()) if path.stem not in ("__init__", "__pycache__")]
    return ", ".join(
        f"{p.name}/" if p.is_dir() else p.stem for p in inside if p.is_dir() or p.suffix == ".py"
    )


def draw_folders(ax: Axes) -> None:
    found = imports(PACKAGE)
    arrows = direct(found)
    require_drawable(found, arrows)
    for frame in FRAMES:
        left, right, bottom, top = bounds(frame)
        middle = (left + right) / 2, (bottom + top) / 2
        box(ax, middle, right - left, top - bottom, fc="white", ec=GREY, lw=1.2, linestyle=(0, (4, 2.5)))
    for name, place in PLACES.items():
        left, right, bottom, top = bounds((name,))
        edge, fill = COLORS[place.color]
        box(ax, ((left + right) / 2, (bottom + top) / 2), right - left, top - bottom, ec=edge, fc=fill)
        title = f"{name}/" if (PACKAGE / name).is_dir() else name if name == "commands" else f"{name}.py"
        lines = textwrap.wrap(contents(name), int((right - left) * 12.2))
        middle, y = (left + right) / 2, (bottom + top) / 2
        text(ax, middle, y + (0.06 + 0.1 * len(lines) if lines else 0), title, size=14.5, weight="bold")
        text(ax, middle, y - 0.17, "\n".join(lines), size=12, linespacing=1.1)
    for source, target in sorted({(frame_of(name), other) for name, own in arrows.items() for other in own}):
        (left, right, bottom, _), (own_left, own_right, _, top) = bounds(source), bounds((target,))
        x = (max(left, own_left) + min(right, own_right)) / 2
        arrow(ax, (x, bottom - 0.02), (x, top + 0.03), **STRAIGHT)


def card(ax: Axes, center: tuple, width: float, color: str, *, words: tuple[str, str, str]) -> None:
    """A station on the way of a batch: its name, what it is, and below it in grey where the code stands."""
    (x, y), (title, what, where) = center, words
    edge, fill = COLORS[color]
    box(ax, (x, y), width, 1.0, ec=edge, fc=fill)
    text(ax, x, y + 0.2, title, size=14, weight="bold")
    text(ax, x, y - 0.2, what, size=12)
    text(ax, x, y - 0.6, where, size=11.5, color=GREY, va="top", linespacing=1.1)


def draw_network(ax: Axes, x: float, y: float) -> None:
    box(ax, (x, y), 3.0, 1.9, ec=BLUE, fc="white")
    text(ax, x, y + 0.72, "network", size=14, weight="bold")
    text(ax, x, y - 1.05, "supervision.py, models/, nn/", size=11.5, color=GREY, va="top")
    low, high = y - 0.5, y + 0.26
    for offset, width, label in ((-1.08, 0.64, "stem"), (-0.1, 0.82, "stages"), (1.02, 0.76, "head")):
        box(ax, (x + offset, low), width, 0.54, ec=BLUE, fc=BLUE_FILL, lw=1.4)
        text(ax, x + offset, low, label, size=12)
    box(ax, (x + 0.85, high), 1.1, 0.54, ec=ORANGE, fc=ORANGE_FILL, lw=1.4, linestyle=(0, (4, 2.5)))
    text(ax, x + 0.85, high, "branches", size=12)
    for start, end in ((-0.74, -0.53), (0.33, 0.62)):
        arrow(ax, (x + start, low), (x + end, low), color=BLUE, lw=1.4, mutation_scale=12)
    arrow(ax, (x - 0.1, low + 0.29), (x + 0.28, high), color=ORANGE, lw=1.4, mutation_scale=12, **UP)


def draw_batch(ax: Axes) -> None:
    y, network = 2.95, 7.4
    box(ax, (9.7, 3.08), 11.84, 3.54, fc=BLUE_BAND, ec="none")
    text(ax, 3.95, 4.6, "compiled: training/steps.py", size=13, color=BLUE, weight="bold", ha="left")
    card(ax, (1.05, y), 1.4, "green", words=("source", "uint8 images", "data/sources/"))
    card(ax, (2.75, y), 1.4, "green", words=("feed", "batches", "data/feeds/"))
    card(ax, (4.75, y), 1.7, "green", words=("preparation", "augmentation", "data/preparation.py"))
    draw_network(ax, network, y)
    card(ax, (9.85, y), 1.3, "blue", words=("logits", "main last", "[classifier,\nbatch, class]"))
    card(ax, (11.6, y), 1.6, "blue", words=("objective", "CE + teaches·KL", "synergy.py"))
    card(ax, (13.3, y), 1.2, "orange", words=("optimizer", "SGD", "training/\noptimizers.py"))
    card(ax, (14.9, y), 1.2, "orange", words=("state", "parameters", ""))
    ways = (1.75, 2.05), (3.45, 3.9), (5.6, 5.9), (8.9, 9.2), (10.5, 10.8), (12.4, 12.7), (13.9, 14.3)
    for start, end in ways:
        arrow(ax, (start + 0.02, y), (end - 0.02, y), **STRAIGHT)
    # The state goes back to the network above, the labels pass below it, so that no lines cross.
    line = {"solid_capstyle": "projecting", **STRAIGHT}
    ax.plot([14.9, 14.9, network], [y + 0.52, y + 1.4, y + 1.4], **line)
    arrow(ax, (network, y + 1.4), (network, y + 0.98), **STRAIGHT)
    text(ax, 11.6, y + 1.2, "for the next step", size=12)
    ax.plot([3.67, 3.67, 10.98], [y, y - 1.45, y - 1.45], **line)
    arrow(ax, (10.98, y - 1.45), (10.98, y - 0.53), **STRAIGHT)
    text(ax, 9.9, y - 1.24, "labels", size=12)
    card(ax, (11.0, 0.65), 3.4, "grey", words=("metrics", "metrics.jsonl, TensorBoard, curves", ""))
    card(ax, (14.15, 0.65), 2.3, "grey", words=("on disk", "checkpoints, weights", ""))
    arrow(ax, (12.22, y - 0.52), (12.22, 1.18), **STRAIGHT)
    arrow(ax, (14.9, y - 0.52), (14.9, 1.18), **STRAIGHT)
    text(ax, 9.2, 0.65, "reporting/", size=11.5, color=GREY, ha="right")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Draws the folders of dks_jax and the way of a batch.")
    default = PACKAGE.parent / "docs" / "architecture.png"
    parser.add_argument("output", nargs="?", default=default, help="the PNG to write")
    output = parser.parse_args(argv).output
    figure = Figure(figsize=(16, 15.6), dpi=100)
    ax = figure.add_axes((0, 0, 1, 1), xlim=(0, 16), ylim=(0, 15.6))
    ax.axis("off")
    text(ax, 0.4, 15.25, "The folders of dks_jax: imports go down", size=17, weight="bold", ha="left")
    draw_folders(ax)
    text(ax, 0.4, 5.2, "The way of a batch", size=17, weight="bold", ha="left")
    draw_batch(ax)
    figure.savefig(output, facecolor="white")


if __name__ == "__main__":
    main()
