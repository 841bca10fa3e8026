"""Writes a self-contained HTML page on one or several runs: what is wrong, how sure they are, what differs.

    python tools/report.py RUN... [--output FILE.html]

RUN is the workdir of a finished run, or a folder of workdirs, e.g. runs/. The weights of each run are
evaluated on its held-out images. The page has the learning curves and the tables of tools/summarize.py, and
for each run the errors by class, the confusions, the calibration of every classifier, the most confident
mistakes with their images, where the branches disagree with the main classifier, config and versions. It
asks no server for anything. Where the images are no longer there, the page says so and has the rest.

The exit status is 0, 2 for wrong input, 130 after Ctrl-C.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from report_page.gathering import gather
from report_page.page import page

from dks_jax import command_line
from dks_jax.runtime import compilation, output
from dks_jax.runtime.files import atomic_write, require_writable


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status, which the docstring of the module explains."""
    return command_line.run(lambda: _report(parse(argv)))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses a command line; raises InputError if an argument is wrong, or the page cannot be written."""
    parser = command_line.Parser("python tools/report.py", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="workdir, or folder of workdirs")
    default = Path("report.html")
    parser.add_argument(
        "--output",
        type=Path,
        default=default,
        metavar="FILE.html",
        help="file to write; default: report.html",
    )
    arguments = parser.parse_args(argv)
    require_writable(arguments.output, "--output")
    return arguments


def _report(arguments: argparse.Namespace) -> None:
    compilation.enable_cache()
    reported, left_out = gather(arguments.runs)
    text = page(reported, left_out)
    with atomic_write(arguments.output) as partial:
        # Names of files may be bytes that are no UTF-8; those show as question marks.
        partial.write_text(text, encoding="utf-8", errors="replace")
    output.say(f"report: {arguments.output}")


if __name__ == "__main__":
    sys.exit(main())
