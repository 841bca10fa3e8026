"""Prints the table of a cell of docs/evidence.md, and the differences of DKS to the other arms.

    python tools/evidence_table.py docs/evidence/NAME.csv

Each line of the file is a run: arm, seed, `last`, the test error in % after the last epoch, and more columns.
"""

import csv
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from summary.differences import difference

from dks_jax import command_line
from dks_jax.reporting.tables import markdown_table
from dks_jax.runtime.errors import InputError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status: 0, 2 where the input is wrong, 130 after Ctrl-C."""
    parser = command_line.Parser("python tools/evidence_table.py", description=__doc__)
    parser.add_argument("file", type=Path, metavar="FILE.csv", help="the file of records")

    def action() -> None:
        print(describe(read(parser.parse_args(argv).file)), flush=True)

    return command_line.run(action)


def read(file: Path) -> dict[str, list[dict[str, str]]]:
    """The lines of a file by arm.

    Raises:
      InputError: the file is absent, or no file of records.
    """
    try:
        lines = list(csv.DictReader(file.read_text("utf-8").splitlines()))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"`FILE.csv` must be a file of records; {file} cannot be read: {error}.") from error
    if not lines or not {"arm", "seed", "last"} <= lines[0].keys():
        raise InputError(f"`FILE.csv` must have lines with arm, seed and last; {file} has none.")
    arms = dict.fromkeys(line["arm"] for line in lines)
    return {arm: [line for line in lines if line["arm"] == arm] for arm in arms}


def describe(arms: Mapping[str, Sequence[Mapping[str, str]]]) -> str:
    """The table of the arms, and a line for each difference: mean, standard error, z, number of seeds."""
    first = next(iter(arms.values()))[0]
    others = [name for name in first if name not in ("arm", "seed", "last", "epochs")]
    table = [["arm", "runs", "last", *others]]
    for arm, own in arms.items():
        last = [float(line["last"]) for line in own]
        spread = f" ± {statistics.stdev(last):.2f}" if len(last) > 1 else ""
        means = [f"{statistics.fmean(float(line[name]) for line in own):.2f}" for name in others]
        table.append([arm, str(len(own)), f"{statistics.fmean(last):.2f}{spread}", *means])
    lines = [markdown_table(table), ""]
    by_seed = {arm: {int(x["seed"]): float(x["last"]) for x in own} for arm, own in arms.items()}
    for arm, own in by_seed.items():
        if arm != "dks" and (found := difference(by_seed.get("dks", {}), own)):
            error = "" if found.standard_error is None else f" ± {found.standard_error:.2f}"
            z = "" if found.z is None else f", z {found.z:.1f}"
            lines.append(f"DKS minus {arm}: {found.mean:+.2f}{error}{z}, {found.pairs} seeds")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
