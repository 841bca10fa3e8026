"""Tables in Markdown."""

from collections.abc import Sequence


def markdown_table(lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table of lines of cells, the first being its header, with columns aligned for a terminal."""
    header, *body = ([cell.replace("|", "\\|") for cell in line] for line in lines)
    widths = [max(3, *map(len, column)) for column in zip(header, *body, strict=True)]
    aligned = [
        [cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in (header, *body)
    ]
    aligned.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(line)} |" for line in aligned)
