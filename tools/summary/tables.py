"""The tables of a summary, in Markdown and as comma-separated values."""

import csv
import io
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

from dks_jax.reporting.tables import markdown_table
from summary.differences import compare
from summary.methods import METHODS, PAPER
from summary.reading import MEASURES, Run
from summary.rows import Row, relative_compute

LEGEND = "Mean ± standard deviation over seeds (number of runs). Data: training + test images."
TITLES = {
    "last": "**Test error of the main classifier, last epoch, in %**",
    "best": "**The same at the best epoch of each run**, optimistic because the test images choose the epoch",
}
MEASURED = "**Each method after the last epoch**, on the test images; compute is that of the training"
DIFFERENCES = (
    "**Difference of the test error of the main classifier, last epoch, in percentage points**, mean over "
    "the seeds that both methods have"
)


def summary(runs: Sequence[Run]) -> dict[str, Any]:
    """Summarises one or more runs by their number, their seeds and statistics of each of their `results`.

    The statistics of e.g. the error "last" are last_mean, last_std (sample standard deviation with n - 1;
    None for a single run), last_min and last_max, in %. A result that some of the runs lack has none.
    """
    figures: dict[str, Any] = {"runs": len(runs), "seeds": " ".join(str(run.seed) for run in runs)}
    for name in _common(runs):
        values = [run.results[name] for run in runs]
        std = statistics.stdev(values) if len(values) > 1 else None
        spread = {"mean": statistics.fmean(values), "std": std, "min": min(values), "max": max(values)}
        figures |= {f"{name}_{statistic}": value for statistic, value in spread.items()}
    return figures


def _common(runs: Sequence[Run]) -> list[str]:
    return [name for name in runs[0].results if all(name in run.results for run in runs)]


def markdown(rows: Sequence[Row], left_out: Sequence[str]) -> str:
    """Formats the tables of errors, of measures and of differences, and the list of what was left out."""
    parts = [LEGEND]
    for table in tables(rows):
        parts += [table.title, markdown_table(table.lines)]
    if left_out:
        parts += ["**Left out**", "\n".join(f"- {line}" for line in left_out)]
    return "\n\n".join(parts) + "\n"


class Table(NamedTuple):
    """A table of a summary.

    title: a line above it, in Markdown.
    lines: lines of as many cells each, the first of which is the header.
    """

    title: str
    lines: list[list[str]]


def tables(rows: Sequence[Row]) -> list[Table]:
    """The tables of errors, of measures and, where there are several methods, of differences."""
    # The label of the setting is empty in every row where there is one experiment alone.
    labels = ["network", "data", "setting"][: 3 if any(row.setting for row in rows) else 2]
    errors = dict.fromkeys(name for row in rows for runs in row.runs.values() for name in _common(runs))
    found = [
        Table(TITLES.get(error, f"**Test error of {error}, last epoch, in %**"), _errors(rows, labels, error))
        for error in errors
        if error not in MEASURES
    ]
    found.append(Table(MEASURED, _measures(rows, labels)))
    differences = _differences(rows, labels)
    if len(differences) > 1:
        found.append(Table(DIFFERENCES, differences))
    return found


def _errors(rows: Sequence[Row], labels: Sequence[str], error: str) -> list[list[str]]:
    """Lines of a table of one error, with a column for each method."""
    methods = [m for m in METHODS if m in PAPER or any(m in row.runs for row in rows)]
    lines = [[*labels, *(METHODS[method][0] for method in methods)]]
    for row in rows:
        cells = [_cell(row.runs[method], error) if method in row.runs else "" for method in methods]
        if any(cells):
            lines.append([*row.labels[: len(labels)], *cells])
    return lines


def _measures(rows: Sequence[Row], labels: Sequence[str]) -> list[list[str]]:
    """Lines with what is known of each method of each row beside the tables of the errors."""
    header = ["method", "error, %", "mean of classifiers, %", "NLL", "ECE", "compute"]
    lines = [[*labels, *header]]
    for row, compute in zip(rows, relative_compute(rows), strict=True):
        for method, runs in row.runs.items():
            digits = {"last": 2, "ensemble": 2, "nll": 4, "ece": 4}
            cells = [_cell(runs, name, number) for name, number in digits.items()]
            relative = f"{compute[method]:.2f}" if method in compute else ""
            lines.append([*row.labels[: len(labels)], METHODS[method][0], *cells, relative])
    return lines


def _differences(rows: Sequence[Row], labels: Sequence[str]) -> list[list[str]]:
    lines = [[*labels, "difference", "mean", "standard error", "z", "pairs"]]
    for row in rows:
        for (a, b), difference in compare(row).items():
            error, z = (
                "-" if value is None else f"{value:.2f}"
                for value in (difference.standard_error, difference.z)
            )
            names = f"{METHODS[a][0]} - {METHODS[b][0]}"
            figures = [f"{difference.mean:+.2f}", error, z, str(difference.pairs)]
            lines.append([*row.labels[: len(labels)], names, *figures])
    return lines


def _cell(runs: Sequence[Run], name: str, digits: int = 2) -> str:
    if name not in _common(runs):
        return ""
    figures = summary(runs)
    std = f" ± {figures[f'{name}_std']:.{digits}f}" if len(runs) > 1 else ""
    return f"{figures[f'{name}_mean']:.{digits}f}{std} ({len(runs)})"


def comma_separated(rows: Sequence[Row]) -> str:
    """Formats the unrounded `summary` of the runs as CSV, with a line for each row and method.

    Columns such as minus_baseline_mean, _standard_error, _z and _pairs have the differences to other methods.
    """
    lines = []
    for row, compute in zip(rows, relative_compute(rows), strict=True):
        differences = compare(row)
        for method, runs in row.runs.items():
            labels = {"network": row.network, "data": row.data, "setting": row.setting, "method": method}
            line: dict[str, Any] = {**labels, **summary(runs), "compute": compute.get(method)}
            for (own, other), difference in differences.items():
                if own == method:
                    figures = difference._asdict().items()
                    line |= {f"minus_{other}_{name}": value for name, value in figures}
            lines.append(line)
    text = io.StringIO()
    columns = dict.fromkeys(name for line in lines for name in line)
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()
