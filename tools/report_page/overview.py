"""The beginning of the page: all runs, their curves, and the tables of tools/summarize.py."""

from collections.abc import Sequence

from summary.methods import METHODS
from summary.rows import Row, network_label
from summary.tables import LEGEND, Table, tables

from report_page.figures import learning_curves, method_colour
from report_page.gathering import Outcome, Reported
from report_page.markup import Markup, chip, element, joined, table

# Columns that say what a line is of, beside the labels of its experiment.
SUBJECTS = ("method", "difference")


def overview(reported: Sequence[Reported], rows: Sequence[Row], left_out: Sequence[str]) -> Markup:
    """The section that has all runs side by side.

    Args:
      rows: the same runs in rows.
      left_out: lines on workdirs that are no part of the report.
    """
    curves = element("div", *map(_curves, rows), class_="panels")
    parts = [element("h2", "Overview"), _runs(reported), curves, element("p", LEGEND, class_="note")]
    # The titles have Markdown's stars.
    titled = [(own.title.replace("**", ""), _lines(own, rows)) for own in tables(rows)]
    found = [table(title, lines, texts=_labels(lines[0], *SUBJECTS)) for title, lines in titled]
    parts.append(element("div", *found, class_="beside"))
    if left_out:
        lines = element("ul", *(element("li", line) for line in left_out))
        parts += [element("h3", "Left out"), lines]
    return element("section", *parts, id="overview")


def _lines(own: Table, rows: Sequence[Row]) -> list[list[str]]:
    """The lines of a table, without the labels of the experiment where there is one alone."""
    if len(rows) > 1:
        return own.lines
    header, *body = [line[_labels(own.lines[0]) :] for line in own.lines]
    if header[0] in SUBJECTS:
        return [header, *body]
    # A column for each method, and one line.
    pairs = zip(header, body[0], strict=True)
    return [["method", "error, %"], *([method, error] for method, error in pairs if error)]


def _labels(header: Sequence[str], *more: str) -> int:
    """The number of columns that say which experiment a line is of."""
    return sum(name in ("network", "data", "setting", *more) for name in header)


def _runs(reported: Sequence[Reported]) -> Markup:
    """The table of the runs, each of which leads to its section."""
    networks = [network_label(own.run.experiment) for own in reported]
    lines: list[list[str]] = [["run", "method", "network", "seed", "epochs", "error, %", "NLL", "ECE"]]
    for number, ((name, run, _, outcome), network) in enumerate(zip(reported, networks, strict=True), 1):
        figures = ["not evaluated", "", ""]
        if isinstance(outcome, Outcome):
            main = outcome.classifiers["main"]
            figures = [f"{main.top1_error:.2f}", f"{main.nll:.4f}", f"{main.ece:.4f}"]
        own = element("a", name, href=f"#run-{number}"), method_chip(run.method), network
        lines.append([*own, str(run.seed), str(run.experiment["epochs"]), *figures])
    if len(set(networks)) == 1:
        lines = [[*line[:2], *line[3:]] for line in lines]
    return table(
        "Weights after the last epoch, evaluated on the held-out images",
        lines,
        texts=_labels(lines[0], "run", *SUBJECTS),
    )


def method_chip(method: str) -> Markup:
    """The name of a method with its colour."""
    return chip(METHODS[method][0], method_colour(method))


def _curves(row: Row) -> Markup:
    """The learning curves of one experiment with their legend."""
    title = ", ".join(filter(None, row.labels))
    named = [
        element("li", joined([method_chip(method), f" ({len(runs)} {'run' if len(runs) == 1 else 'runs'})"]))
        for method, runs in row.runs.items()
    ]
    styles = [
        element("li", element("span", text, class_=f"line {kind}"))
        for kind, text in (("test", "held out"), ("train", "training"))
    ]
    caption = element(
        "figcaption",
        element("strong", f"Error in % over the epochs: {title}"),
        element("ul", *named, *styles, class_="legend"),
    )
    return element("figure", caption, learning_curves(row), class_="curves")
