"""What `tools/summarize.py` prints and writes, read back."""

import csv

import summarize

DATA = "digits, 100 + 20 images"


def tables(capsys, *arguments):
    """The tables of errors as lists of lists of cells, and the lines on what is left out."""
    cells, left_out = all_tables(capsys, *arguments)
    return [table for table in cells if not {"method", "difference"} & {*table[0]}], left_out


def table_with(column, capsys, *arguments):
    """The lines of the one table with a column, as dictionaries."""
    ((header, *lines),) = (table for table in all_tables(capsys, *arguments)[0] if column in table[0])
    return [dict(zip(header, line, strict=True)) for line in lines]


def all_tables(capsys, *arguments):
    """What the command line prints: tables as lists of lists of cells, and the lines on what is left out."""
    capsys.readouterr()
    assert summarize.main([str(argument) for argument in arguments]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    blocks = [block.splitlines() for block in captured.out.strip().split("\n\n")]
    found = [[line.strip("|").split("|") for line in block] for block in blocks if block[0].startswith("|")]
    cells = [[[cell.strip() for cell in line] for line in table if "---" not in line[0]] for table in found]
    return cells, [line[2:] for line in blocks[-1] if line.startswith("- ")]


def read_csv(folder):
    with (folder / "table.csv").open(newline="") as file:
        return list(csv.DictReader(file))
