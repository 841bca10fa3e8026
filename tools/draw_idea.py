"""Draws the idea of deeply-supervised knowledge synergy: the network, its losses and who teaches whom.

    python tools/draw_idea.py [OUTPUT]

The default output is docs/idea.png of the repository.
"""

import argparse
import itertools
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Polygon, Rectangle

BLUE, BLUE_FILL, BLUE_BAND = "#35648f", "#cfdfee", "#eff4f9"
ORANGE, ORANGE_FILL, ORANGE_BAND = "#b86a2c", "#fbe9d8", "#fdf8f3"
GREEN, GREEN_FILL, INK, GREY = "#2d8277", "#bfe0d9", "#37424d", "#6f7b86"
BEND = {"connectionstyle": "angle,angleA=90,angleB=0,rad=10"}
KL = {"color": GREEN, "size": 16, "weight": "bold"}
PILL = {"boxstyle": "round,pad=0.4,rounding_size=0.5", "fc": INK, "ec": "none"}
CE = {"color": "white", "size": 13, "weight": "bold", "bbox": PILL}

# Positions and sizes: one unit is 100 pixels.
STAGE_X, HEAD_X, LOGITS_X = (3.5, 5.4, 7.3), 8.75, 10.2
ROWS = {"branch 1": 5.85, "branch 2": 3.8, "main": 1.45}
LOGITS = {"branch 1": (0.2, 0.3, 0.1, 0.25), "branch 2": (0.15, 0.4, 0.1, 0.2), "main": (0.1, 0.5, 0.05, 0.1)}
OWN_STAGES = {"branch 1": ("stage $2'$", "stage $3'$"), "branch 2": ("stage $3''$",)}
HILLS = ((-0.35, -0.3), (-0.1, 0.1), (0.04, -0.1), (0.14, 0.02), (0.35, -0.3))
ALL_PAIRS = 1 - np.eye(3, dtype=int)
VARIANTS = (
    ("deep supervision", "nobody teaches", 0 * ALL_PAIRS),
    ("top-down", "deeper teach shallower", np.tril(ALL_PAIRS)),
    ("bottom-up", "shallower teach deeper", np.triu(ALL_PAIRS)),
)


def text(ax: Axes, x: float, y: float, words: str, **style) -> None:
    ax.text(x, y, words, **{"color": INK, "size": 15, "ha": "center", "va": "center", **style})


def box(ax: Axes, center: tuple, width: float, height: float, **style) -> None:
    style = {"boxstyle": "round,pad=0,rounding_size=0.12", "lw": 1.8, **style}
    ax.add_patch(FancyBboxPatch((center[0] - width / 2, center[1] - height / 2), width, height, **style))


def arrow(ax: Axes, start: tuple, end: tuple, **style) -> None:
    style = {"arrowstyle": "-|>", "lw": 1.8, "mutation_scale": 15, "shrinkA": 0, "shrinkB": 0, **style}
    ax.add_patch(FancyArrowPatch(start, end, **style))


def draw_path(ax: Axes, name: str, blocks: list[tuple[float, float, str]], color: str, fill: str) -> None:
    """Draws blocks (x, width, label) from left to right, the logits, and the arrows between them."""
    y, line = ROWS[name], "-" if name == "main" else (0, (4, 2.5))
    for (x, w, label), (next_x, next_w, _) in itertools.pairwise([*blocks, (LOGITS_X, 1.3, "")]):
        box(ax, (x, y), w, 0.9, ec=color, fc=fill, linestyle=line)
        text(ax, x, y, label)
        arrow(ax, (x + w / 2 + 0.05, y), (next_x - next_w / 2 - 0.04, y), color=color)
    box(ax, (LOGITS_X, y), 1.3, 1.2, ec=color, fc="white", linestyle=line)
    text(ax, LOGITS_X, y + 0.32, name, color=color, weight="bold")
    ax.bar(LOGITS_X + np.linspace(-0.345, 0.345, 4), LOGITS[name], 0.18, bottom=y - 0.45, color=color)
    text(ax, LOGITS_X - 0.75, y + 0.65, "CE", **CE)


def draw_network(ax: Axes) -> None:
    box(ax, (5.95, 4.6), 11.6, 4.3, fc=ORANGE_BAND, ec="none")
    box(ax, (5.95, 1.305), 11.6, 2.13, fc=BLUE_BAND, ec="none")
    text(ax, 0.45, 6.3, "in training only", color=ORANGE, size=17, weight="bold", ha="left")
    text(ax, 0.45, 5.65, "auxiliary branches with\nstages of their own", ha="left")
    text(ax, 0.45, 0.58, "what you deploy", color=BLUE, size=17, weight="bold", ha="left")
    text(ax, LOGITS_X, 0.61, "logits", color=GREY)
    text(ax, 0.64, 4.4, "CE", **CE)
    text(ax, 1.08, 4.4, "cross-entropy with the label", ha="left")
    text(ax, 0.64, 3.85, "KL", **KL)
    text(ax, 1.08, 3.71, "each learns from the other,\nthe teacher held constant", ha="left")
    y, stages = ROWS["main"], [(x, 1.15, f"stage {i + 1}") for i, x in enumerate(STAGE_X)]
    blocks = [(0.9, 0.9, ""), (2.15, 0.9, "stem"), *stages, (HEAD_X, 0.9, "head")]
    draw_path(ax, "main", blocks, BLUE, BLUE_FILL)
    text(ax, 0.9, y + 0.65, "image")
    ax.add_patch(Circle((1.09, y + 0.22), 0.09, fc="#e9b872"))
    ax.add_patch(Polygon([(0.9 + dx, y + dy) for dx, dy in HILLS], fc="#7fae98"))
    for (name, labels), fork in zip(OWN_STAGES.items(), (4.38, 6.28), strict=True):
        blocks = [(x, 1.15, label) for x, label in zip(STAGE_X[-len(labels) :], labels, strict=True)]
        draw_path(ax, name, [*blocks, (HEAD_X, 0.9, "head")], ORANGE, ORANGE_FILL)
        ax.add_patch(Circle((fork, y), 0.07, fc=ORANGE, zorder=3))
        arrow(ax, (fork, y), (blocks[0][0] - 0.615, ROWS[name]), color=ORANGE, **BEND)

    for upper, lower in itertools.combinations(ROWS.values(), 2):
        gap, x, rad, label_x = (0.66, LOGITS_X, 0, 10.5) if upper - lower < 3 else (0, 10.91, -0.16, 11.51)
        style = {"arrowstyle": "<|-|>", "connectionstyle": f"arc3,rad={rad}", "color": GREEN, "lw": 2.4}
        arrow(ax, (x, upper - gap), (x, lower + gap), **style)
        text(ax, label_x, (upper + lower) / 2, "KL", **KL)


def draw_matrix(ax: Axes, corner: tuple, cell: float, teaches: np.ndarray) -> None:
    for (t, s), on in np.ndenumerate(teaches):
        x, y = corner[0] + cell * s, corner[1] - cell * (t + 1)
        ax.add_patch(Rectangle((x, y), cell, cell, fc=GREEN_FILL if on else "white", ec=GREEN, lw=1.2))
        if cell > 0.5:
            text(ax, x + cell / 2, y + cell / 2, str(on), color=INK if on else GREY, size=17)


def draw_matrices(ax: Axes) -> None:
    text(ax, 13.96, 6.56, "teaches[teacher, student]", size=15.5, family="monospace", weight="bold")
    for i, name in enumerate(ROWS):
        text(ax, 13.75 + 0.7 * i, 5.98, name.replace(" ", "\n"), size=13)
        text(ax, 13.25, 5.3 - 0.7 * i, name, size=14, ha="right")
    draw_matrix(ax, (13.4, 5.65), 0.7, ALL_PAIRS)
    text(ax, 14.45, 3.31, "DKS", weight="bold")
    text(ax, 14.45, 3.0, "all teach each other", color=GREY, size=14)
    for top, (name, words, teaches) in zip((2.54, 1.7, 0.86), VARIANTS, strict=True):
        draw_matrix(ax, (12.4, top), 0.21, teaches)
        text(ax, 13.3, top - 0.15, name, weight="bold", ha="left")
        text(ax, 13.3, top - 0.47, words, color=GREY, size=14, ha="left")


def main() -> None:
    parser = argparse.ArgumentParser(description="Draws the idea of DKS, by default to docs/idea.png.")
    parser.add_argument("output", nargs="?", default=Path(__file__).resolve().parents[1] / "docs/idea.png")
    output = parser.parse_args().output
    figure = Figure(figsize=(16, 7), dpi=100)
    ax = figure.add_axes((0, 0, 1, 1), xlim=(0, 16), ylim=(0, 7))
    ax.axis("off")
    draw_network(ax)
    draw_matrices(ax)
    figure.savefig(output, facecolor="white")


if __name__ == "__main__":
    main()
