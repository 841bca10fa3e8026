"""Prints a Markdown table of all fields of a config, made from its schema and from the known networks.

    python tools/describe_fields.py [--write FILE.md]

With --write the table takes the place of what stands in FILE.md between its two markers; nothing is printed.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from dks_jax.command_line import Parser, fields, run
from dks_jax.config import Field
from dks_jax.models import NETWORKS
from dks_jax.reporting.tables import markdown_table
from dks_jax.runtime.errors import InputError
from dks_jax.runtime.files import atomic_write

MARKERS = "<!-- fields of the schema -->\n", "<!-- end of the fields -->\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status: 0, 2 where the input is wrong, 130 after Ctrl-C."""
    return run(lambda: _describe(argv))


def table() -> str:
    """The table of the fields, and one for the arguments of each kind of network."""
    return "\n\n".join([_rows(fields()), *map(_network, _groups())])


def between_markers(page: str, path: Path) -> tuple[str, str, str]:
    """What stands before the table of a page, the table, and what stands after it.

    Args:
      path: of the page, for the message.

    Raises:
      InputError: the page has not each marker once, the first before the second.
    """
    first, second = MARKERS
    before, found, rest = page.partition(first)
    inside, ended, after = rest.partition(second)
    if not (found and ended) or first in rest or second in after:
        raise InputError(
            f"`--write` must name a page with the lines {first.strip()!r} and {second.strip()!r}, each of "
            f"them once and in this order; {path} is no such page."
        )
    return before + first, inside, second + after


def _describe(argv: Sequence[str] | None) -> None:
    parser = Parser("python tools/describe_fields.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("--write", type=Path, metavar="FILE.md", help="the page to refresh")
    path = parser.parse_args(argv).write
    if path is None:
        print(table())
        return
    if not path.is_file():
        raise InputError(f"`--write` must name a page, e.g. docs/configuration.md; there is no {path}.")
    before, _, after = between_markers(path.read_text(), path)
    with atomic_write(path) as partial:
        partial.write_text(f"{before}\n{table()}\n\n{after}")


def _groups() -> list[list[str]]:
    """The names of the networks, those with the same arguments together."""
    groups: list[list[str]] = []
    for name, family in NETWORKS.items():
        for group in groups:
            if NETWORKS[group[0]].arguments == family.arguments:
                group.append(name)
                break
        else:
            groups.append([name])
    return groups


def _network(names: Sequence[str]) -> str:
    listed = ", ".join(f"`{name}`" for name in names)
    arguments = NETWORKS[names[0]].arguments
    if not arguments:
        return f"{listed}: no argument."
    return f"{listed}:\n\n{_rows({f'model.{name}': row for name, row in arguments.items()})}"


def _rows(fields: Mapping[str, Field]) -> str:
    rows = [[f"`{name}`", row.accepted, f"`{row.default!r}`", row.meaning] for name, row in fields.items()]
    return markdown_table([["field", "accepted", "default", "meaning"], *rows])


if __name__ == "__main__":
    sys.exit(main())
