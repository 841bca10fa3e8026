"""Differences between methods, paired by seed."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from summary.reading import Run
from summary.rows import Row


class Difference(NamedTuple):
    """The mean difference of the last test errors of two methods over the seeds that both have.

    mean: in percentage points; negative where the first method is better.
    standard_error: sample standard deviation (n - 1) of the differences over the root of their number; None
      for one pair.
    z: mean over standard error; None where that is unknown or zero.
    pairs: number of seeds.
    """

    mean: float
    standard_error: float | None
    z: float | None
    pairs: int


def compare(row: Row) -> dict[tuple[str, str], Difference]:
    """The differences of every method to the baseline, and of DKS to every other one, by their names."""
    methods = list(row.runs)
    wanted = [(method, "baseline") for method in methods]
    wanted += [("dks", method) for method in methods if method != "baseline"]
    found = {
        (a, b): paired(row.runs[a], row.runs[b])
        for a, b in wanted
        if a != b and a in row.runs and b in row.runs
    }
    return {names: difference for names, difference in found.items() if difference}


def paired(runs: Sequence[Run], others: Sequence[Run]) -> Difference | None:
    """The difference of two methods; None if no seed is common to both."""
    return difference(*({run.seed: run.results["last"] for run in own} for own in (runs, others)))


def difference(values: Mapping[int, float], others: Mapping[int, float]) -> Difference | None:
    """The difference of the results of two methods by seed; None if no seed is common to both."""
    pairs = [values[seed] - others[seed] for seed in values if seed in others]
    if not pairs:
        return None
    mean = statistics.fmean(pairs)
    error = statistics.stdev(pairs) / math.sqrt(len(pairs)) if len(pairs) > 1 else None
    # Differences that are equal but for rounding have no spread to compare with.
    z = mean / error if error and error > 1e-9 else None
    return Difference(mean, error, z, len(pairs))
