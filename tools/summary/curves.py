"""The learning curves of a summary."""

import math
import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from summary.methods import METHODS
from summary.rows import Row

LINES = {"train": "--", "test": "-"}


def draw(rows: Sequence[Row]) -> Figure:
    """Draws train and test error over the epochs, in a panel for each row.

    The curve of a method is the mean of its runs, with a band for their range.
    """
    columns = math.ceil(math.sqrt(len(rows)))
    lines = math.ceil(len(rows) / columns)
    figure = Figure(figsize=(4.8 * columns, 3.6 * lines + 0.3), layout="constrained")
    for i, row in enumerate(rows):
        draw_row(figure.add_subplot(lines, columns, i + 1), row)
    styles = [Line2D([], [], color="0.4", ls=style, label=split) for split, style in LINES.items()]
    band = Patch(color="0.4", alpha=0.25, lw=0, label="range over runs")
    figure.legend(handles=[*styles, band], loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def draw_row(axes: Axes, row: Row) -> None:
    """Draws the learning curves of one experiment."""
    shown = np.array([(run.train, run.test) for runs in row.runs.values() for run in runs])
    epochs = np.arange(1, shown.shape[-1] + 1)
    for method, runs in row.runs.items():
        name, color = METHODS[method]
        plural = "s" if len(runs) > 1 else ""
        for split, style in LINES.items():
            curves = np.array([getattr(run, split) for run in runs])
            label = f"{name} ({len(runs)} run{plural})" if split == "test" else None
            # A line through a single point is invisible.
            marker = "." if len(epochs) == 1 else None
            axes.plot(epochs, curves.mean(0), style, color=color, lw=1.3, marker=marker, label=label)
            axes.fill_between(epochs, curves.min(0), curves.max(0), color=color, alpha=0.2, lw=0)
    # The first tenth is left out of the range, because its steep fall would flatten the rest of the curves.
    top = 1.05 * max(1.0, shown[..., len(epochs) // 10 :].max())
    title = (f"{row.network} on {row.data}", row.setting)
    text = "\n".join(textwrap.fill(line, 62) for line in title if line)
    axes.set_title(text, loc="left", fontsize=9, parse_math=False)
    axes.set(xlabel="epoch", ylabel="error (%)", xlim=(0, 1.02 * len(epochs)), ylim=(0, top))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="best", fontsize=9, frameon=False)
