"""Plots of the learning curves of a run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dks_jax.runtime.files import atomic_write


def draw_curves(records: Sequence[Mapping[str, Any]], path: Path, title: str) -> None:
    """Plots loss and top-1 error over the epochs as a PNG, dashed for training and solid for held-out images.

    Args:
      records: records of metrics.jsonl.
      path: file to write or replace.
      title: title of the figure.
    """
    # The object-oriented interface needs no display and keeps no global state.
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

    # Those of the training: held-out records have the error of their mean too, but older ones do not.
    classifiers = [name.removeprefix("error/") for name in records[0] if name.startswith("error/")]
    figure = Figure(figsize=(10, 4), layout="constrained")
    figure.suptitle(title)
    loss_axes, error_axes = figure.subplots(1, 2)
    for split, style in (("train", "--"), ("test", "-")):
        rows = [record for record in records if record["split"] == split]
        epochs = [row["epoch"] for row in rows]
        loss_axes.plot(epochs, [row["loss"] for row in rows], style, color="black", label=split)
        for i, classifier in enumerate(reversed(classifiers)):
            errors = [row[f"error/{classifier}"] for row in rows]
            error_axes.plot(epochs, errors, style, color=f"C{i}", label=f"{classifier}, {split}")
    loss_axes.set(xlabel="epoch", ylabel="loss", yscale="log")
    # Ticks between the powers of ten, because a loss often stays within one decade.
    loss_axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
    loss_axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    loss_axes.yaxis.set_minor_formatter(NullFormatter())
    error_axes.set(xlabel="epoch", ylabel="top-1 error (%)", ylim=(0, None))
    for axes in (loss_axes, error_axes):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    with atomic_write(path) as partial:
        figure.savefig(partial, format="png", dpi=120)
