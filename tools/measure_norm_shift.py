"""Measures how far batch means lie from the running mean, which one-pass batch normalisation takes as shift.

    python tools/measure_norm_shift.py --config configs/cifar10_wrn.py [--config.FIELD=VALUE ...] \\
        --steps 200 --output shift.png

trains for so many steps, and prints and draws |mean of the batch - running mean| / deviation of the batch:
the largest of all channels of all layers, and the 99.9th percentile of them, at each step. In float32 the
error of a variance in one pass grows with the square of it; see dks_jax/nn/batch_norm.py.
"""

import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dks_jax.command_line import ConfigParser, run
from dks_jax.nn import BatchNorm
from dks_jax.reporting.tables import markdown_table
from dks_jax.runtime.errors import InputError
from dks_jax.runtime.files import atomic_write, require_writable
from dks_jax.training.experiment import prepare
from dks_jax.training.steps import Steps

SHOWN = (1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000)
PERCENTILE = 99.9


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status: 0, 2 for wrong input, 130 after Ctrl-C."""
    return run(lambda: _measure(argv))


def _measure(argv: Sequence[str] | None) -> None:
    parser = ConfigParser("python tools/measure_norm_shift.py", __doc__)
    parser.add_argument("--steps", type=int, default=200, help="number of steps; default 200")
    parser.add_argument("--output", type=Path, required=True, help="PNG to write")
    options, config = parser.parse_with_config(sys.argv[1:] if argv is None else argv)
    if options.steps < 1:
        raise InputError(f"`--steps` must be 1 or more; got {options.steps}.")
    output = options.output.expanduser()
    require_writable(output, "--output")
    experiment = prepare(config, resumed=False)
    ratios = list(itertools.islice(distances(experiment.steps), options.steps))
    summary = [(float(np.percentile(ratio, PERCENTILE)), float(ratio.max())) for ratio in ratios]
    rows = [[str(step), *(f"{x:.3g}" for x in own)] for step, own in enumerate(summary, 1) if step in SHOWN]
    print(markdown_table([["step", f"{PERCENTILE}th percentile", "largest"], *rows]))
    title = f"{Path(options.config).name}, {len(ratios[0]):,} channels"
    _draw(np.array(summary), output, title)


def distances(steps: Steps) -> Iterator[np.ndarray]:
    """Distances in deviations of the batch at each step, [channel of all layers]."""
    state = steps.initial_state()
    for epoch in itertools.count():
        for chunk in steps.train_feed.chunks(epoch):
            before = {name: np.array(value, np.float64) for name, value in state.batch_stats.items()}
            state, _ = steps.train(state, chunk)
            yield distance(before, state.batch_stats)


def distance(before: Mapping[str, np.ndarray], after: Mapping[str, Any]) -> np.ndarray:
    """|mean of the batch - running mean before it| / deviation of the batch, [channel of all layers].

    Args:
      before, after: running statistics before and after a step, by name.
    """
    # The statistics of the batch follow from the running ones before and after it.
    keep = BatchNorm.momentum
    batch = {
        name: (np.asarray(after[name], np.float64) - keep * old) / (1 - keep) for name, old in before.items()
    }
    return np.concatenate(
        [
            np.abs(batch[name] - before[name]) / np.sqrt(np.maximum(batch[f"{name[:-4]}var"], 1e-12))
            for name in before
            if name.endswith("mean")
        ]
    )


def _draw(summary: np.ndarray, path: Path, title: str) -> None:
    from matplotlib.figure import Figure
    from matplotlib.ticker import StrMethodFormatter

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    steps = np.arange(1, len(summary) + 1)
    for values, label in zip(summary.T, (f"{PERCENTILE}th percentile", "largest"), strict=True):
        axes.plot(steps, values, label=label)
    axes.set(xlabel="step", ylabel="|mean - running mean| / deviation", yscale="log", title=title)
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.grid(alpha=0.3)
    axes.legend()
    with atomic_write(path) as partial:
        figure.savefig(partial, format="png", dpi=120)


if __name__ == "__main__":
    sys.exit(main())
