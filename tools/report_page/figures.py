"""The figures of the page, as SVG whose colours are those of the page in either theme."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from summary.methods import METHODS
from summary.rows import Row

from dks_jax.inference.metrics import Reliability
from report_page.markup import Markup, element

# Bins with fewer examples are pale, since their accuracy says little.
FEW = 10


class Panel(NamedTuple):
    """The area of a figure in which values are drawn.

    left, top, right, bottom: its edges, in units of the SVG.
    x, y: the ranges of the values.
    """

    left: float
    top: float
    right: float
    bottom: float
    x: tuple[float, float]
    y: tuple[float, float]

    def across(self, value: float) -> float:
        """The horizontal place of a value."""
        low, high = self.x
        return round(self.left + (value - low) / (high - low) * (self.right - self.left), 2)

    def up(self, value: float) -> float:
        """The vertical place of a value."""
        low, high = self.y
        return round(self.bottom - (value - low) / (high - low) * (self.bottom - self.top), 2)

    def points(self, xs: Sequence[float], ys: Sequence[float]) -> str:
        """The places of values, as a polyline has them."""
        return " ".join(f"{self.across(x):g},{self.up(y):g}" for x, y in zip(xs, ys, strict=True))


def ticks(low: float, high: float, most: int = 5, *, whole: bool = False) -> list[float]:
    """At most so many round numbers from `low` to `high`, evenly spaced."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * (1 - 1e-9))
    if whole:
        step = max(1, math.ceil(step))
    first = math.ceil(low / step - 1e-9)
    return [float(f"{i * step:.6g}") for i in range(first, math.floor(high / step + 1e-9) + 1)]


def method_colour(method: str) -> str:
    """The colour of a method, as CSS has it."""
    return f"var(--{method})"


def classifier_colour(place: int, count: int) -> str:
    """The colour of the classifier at a place of so many, the main one last, as CSS has it."""
    return "var(--main)" if place == count - 1 else f"var(--branch-{place % 4})"


def learning_curves(row: Row) -> Markup:
    """Training (dashed) and held-out error over the epochs: mean and range of each method's runs."""
    shown = np.array([(run.train, run.test) for runs in row.runs.values() for run in runs])
    epochs = np.arange(1, shown.shape[-1] + 1)
    # The first tenth is left out of the range, because its steep fall would flatten the rest of the curves.
    top = 1.05 * max(1.0, shown[..., len(epochs) // 10 :].max())
    panel = Panel(46, 10, 590, 280, (0, 1.02 * len(epochs)), (0, top))
    curves = [
        mark
        for method, runs in row.runs.items()
        for split in ("train", "test")
        for mark in _curve(panel, split, np.array([getattr(run, split) for run in runs]), method)
    ]
    ends = ", ".join(
        f"{METHODS[method][0]} {np.mean([run.test[-1] for run in runs]):.2f} %"
        for method, runs in row.runs.items()
    )
    return element(
        "svg",
        *_axes(panel, ticks(0, top), ticks(0, len(epochs), 8, whole=True)),
        # A nested drawing cuts off what lies outside of it.
        element(
            "svg",
            *curves,
            x=panel.left,
            y=panel.top,
            width=panel.right - panel.left,
            height=panel.bottom - panel.top + 2,
            viewBox=f"{panel.left} {panel.top} {panel.right - panel.left} {panel.bottom - panel.top + 2}",
        ),
        viewBox="0 0 600 312",
        role="img",
        aria_label=f"Error over {len(epochs)} epochs. Held out, after the last one: {ends}.",
    )


def _curve(panel: Panel, split: str, curves: np.ndarray, method: str) -> list[Markup]:
    """The marks of one method's errors [run, epoch] on a split."""
    colour, epochs = method_colour(method), np.arange(1, curves.shape[1] + 1)
    line = panel.points(epochs, curves.mean(axis=0))
    marks = [element("polyline", points=line, class_=f"curve {split}", stroke=colour)]
    if len(curves) > 1:
        outline = [*curves.max(axis=0), *curves.min(axis=0)[::-1]]
        around = panel.points([*epochs, *epochs[::-1]], outline)
        marks.insert(0, element("polygon", points=around, class_="band", fill=colour))
    if len(epochs) == 1:
        # A line through a single point is invisible.
        marks.append(element("circle", cx=panel.across(1), cy=panel.up(curves.mean()), r=4, fill=colour))
    return marks


def _axes(panel: Panel, ys: Sequence[float], xs: Sequence[float]) -> list[Markup]:
    """Horizontal lines at the ticks `ys`, and the numbers of both axes."""
    marks = []
    for y in ys:
        height = panel.up(y)
        marks.append(element("line", x1=panel.left, x2=panel.right, y1=height, y2=height, class_="grid"))
        marks.append(element("text", f"{y:g}", x=panel.left - 8, y=height, dy="0.35em", class_="end"))
    marks += [
        element("text", f"{x:g}", x=panel.across(x), y=panel.bottom, dy="1.6em", class_="middle") for x in xs
    ]
    return marks


def reliability_diagram(own: Reliability, label: str, colour: str) -> Markup:
    """The share of right predictions over the confidence in bins, and the number of images in each below.

    Args:
      label: what the figure is of, for those who do not see it.
      colour: colour of the bars, as CSS has it.
    """
    panel = Panel(38, 10, 258, 200, (0, 1), (0, 1))
    below = Panel(38, 236, 258, 270, (0, 1), (0, float(own.counts.max())))
    bins, marks = len(own.counts), []
    for place, (count, confidence, accuracy) in enumerate(zip(*own, strict=True)):
        if not count:
            continue
        left, right = panel.across(place / bins) + 1, panel.across((place + 1) / bins) - 1
        pale = " pale" if count < FEW else ""
        marks += [
            _bar(left, right, (panel.up(accuracy), panel.bottom), class_=f"bar{pale}", fill=colour),
            # From the accuracy to the confidence: what the calibration error adds up.
            _bar(left, right, (panel.up(accuracy), panel.up(confidence)), class_=f"gap{pale}"),
            _bar(left, right, (below.up(count) - 1, below.bottom), class_="count"),
        ]
    diagonal = {"x1": panel.left, "y1": panel.bottom, "x2": panel.right, "y2": panel.top}
    marked = [0, 0.25, 0.5, 0.75, 1]
    return element(
        "svg",
        *_axes(panel, marked, marked),
        *marks,
        element("line", **diagonal, class_="diagonal"),
        element("line", x1=below.left, x2=below.right, y1=below.bottom, y2=below.bottom, class_="grid"),
        element("text", "images", x=below.right, y=290, class_="end"),
        element("text", "confidence", x=below.left, y=290),
        viewBox="0 0 270 296",
        role="img",
        aria_label=f"Reliability diagram of {label}",
    )


def _bar(left: float, right: float, heights: tuple[float, float], **look: str) -> Markup:
    top, bottom = sorted(heights)
    size = {"width": round(right - left, 2), "height": round(bottom - top, 2)}
    return element("rect", x=round(left, 2), y=top, **size, **look)
