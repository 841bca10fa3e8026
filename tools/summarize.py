"""Summarises training runs: tables of test errors over seeds, as in the paper, and the learning curves.

    python tools/summarize.py RUN... [--output DIR]

RUN is the workdir of a run, or a folder of workdirs, e.g. runs/. The tables are printed. With --output they
are also written to DIR/table.md and, unrounded, to DIR/table.csv, and the curves to DIR/curves.png and .svg.

Runs that differ only in the seed are averaged. Each method is a column; any other difference in the config or
the images makes a separate row, and so does a learning rate that was changed on the way, as `resumed` in
config.json has it. Unfinished, damaged and repeated runs are left out and listed. Further tables have the
likelihood, the calibration, the error of the mean of all classifiers and the compute of each method, and the
differences between methods, paired by seed; docs/running.md explains them.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from matplotlib import rc_context
from summary.curves import draw
from summary.reading import find_runs, is_run, read_runs
from summary.rows import Row, make_rows
from summary.tables import comma_separated, markdown

from dks_jax import command_line
from dks_jax.runtime.errors import InputError
from dks_jax.runtime.files import atomic_write


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status: 0, 2 where the input is wrong, 130 after Ctrl-C."""
    return command_line.run(lambda: _summarize(parse(argv)))


def _summarize(arguments: argparse.Namespace) -> None:
    runs, left_out = read_runs(find_runs(arguments.runs))
    rows = make_rows(runs)
    tables = markdown(rows, left_out)
    if arguments.output:
        write(arguments.output, tables, rows)
    print(tables, end="")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses a command line; raises InputError if an argument is wrong."""
    parser = command_line.Parser("python tools/summarize.py", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="workdir, or folder of workdirs")
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder to write to; by default none")
    arguments = parser.parse_args(argv)
    # The curves would overwrite the curves.png of the run.
    if arguments.output and is_run(arguments.output):
        raise InputError(f"`--output` must not be the workdir of a run; got {arguments.output}.")
    return arguments


def write(output: Path, tables: str, rows: Sequence[Row]) -> None:
    """Writes tables and curves to a folder."""
    texts, figure = {"table.md": tables, "table.csv": comma_separated(rows)}, draw(rows)
    output.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        with atomic_write(output / name) as partial:
            partial.write_text(text, encoding="utf-8", newline="")
    # A fixed salt and no date make the SVG reproducible.
    for form, metadata in (("png", None), ("svg", {"Date": None})):
        with atomic_write(output / f"curves.{form}") as partial, rc_context({"svg.hashsalt": "dks-jax"}):
            figure.savefig(partial, format=form, dpi=200, metadata=metadata)


if __name__ == "__main__":
    sys.exit(main())
