"""The figure of a study: error against cost and against measured time."""

from pathlib import Path

from dks_jax.inference.evaluation import Evaluation
from dks_jax.inference.exits.latency import BATCH_SIZES
from dks_jax.inference.exits.study import Study
from dks_jax.runtime.files import atomic_write


def draw(evaluation: Evaluation, study: Study, path: Path) -> None:
    """Plots the top-1 error on the half that was not fitted on against MACs and time per image, as a PNG.

    Args:
      path: file to write or replace.
    """
    # The object-oriented interface needs no display and keeps no global state.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    figure.suptitle(f"{evaluation.weights}: {len(study.halves.reported):,} images that were not fitted on")
    macs, *timed = figure.subplots(1, 1 + len(BATCH_SIZES), sharey=True)
    staying, chosen = study.staying.measures, study.chosen.measures
    costs = [100 * point.measures.cost for point in study.curve]
    macs.plot(costs, [point.measures.error for point in study.curve], ".-", color="C0", label="confidence")
    macs.plot(
        [100 * point.measures.cost for point in study.patient],
        [point.measures.error for point in study.patient],
        "^",
        color="C1",
        label="patience",
    )
    alone = 100 * study.costs.of_leaving(())
    macs.plot(alone[:-1], study.errors[:-1], "x", color="0.4", label="one branch alone")
    macs.plot(100, staying.error, "s", color="black", label="staying")
    macs.plot(100 * chosen.cost, chosen.error, "o", color="C3", label="operating point")
    macs.set(xlabel="mean MACs (% of staying)", ylabel="top-1 error (%)")
    for axes, size in zip(timed, BATCH_SIZES, strict=True):
        points = [point for point in study.curve if size in point.seconds]
        for own, style, color in (
            (points, ".-", "C0"),
            ([study.staying], "s", "black"),
            ([study.chosen], "o", "C3"),
        ):
            times = [1000 * point.seconds[size].median for point in own]
            axes.plot(times, [point.measures.error for point in own], style, color=color)
        axes.set(xlabel=f"time per image at batch {size} (ms)", xlim=(0, None))
    for axes in (macs, *timed):
        axes.grid(alpha=0.3)
        axes.margins(0.08)
    macs.legend(fontsize="small")
    with atomic_write(path) as partial:
        figure.savefig(partial, format="png", dpi=120)
