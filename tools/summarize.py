"""Summarises training runs as the paper does: a table of test errors over seeds, and the learning curves.

    python tools/summarize.py RUN... [--output DIR]

RUN is the workdir of a run, or a folder of workdirs, e.g. runs/. The tables are printed. With --output they
are also written to DIR/table.md and, unrounded, to DIR/table.csv, and the curves to DIR/curves.png and .svg.

Runs that differ only in the seed are averaged. Each method is a column; any other difference in the config or
the images makes a separate row, and so does a learning rate that was changed on the way, as `resumed` in
config.json has it. Unfinished, damaged and repeated runs are left out and listed.
"""

import argparse
import csv
import io
import json
import math
import statistics
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from dks_jax import command_line, models
from dks_jax.config import BY_METHOD, fits, flatten, recorded
from dks_jax.reporting.metrics_log import Record, read_records
from dks_jax.reporting.tables import markdown_table
from dks_jax.runtime.errors import InputError
from dks_jax.runtime.files import atomic_write
from dks_jax.training.workdir import FREE_FIELDS, schedule_changes

# Column titles and colours by `config.method`. The colours are Okabe and Ito's, which remain distinct for
# colour-blind readers.
METHODS = {
    "baseline": ("baseline", "#000000"),
    "ds": ("DS", "#e69f00"),
    "dks": ("DKS", "#0072b2"),
    "top_down": ("top-down", "#009e73"),
    "bottom_up": ("bottom-up", "#cc79a7"),
}
# Methods that always have a column, as in the paper; another method has one if there are runs of it.
PAPER = ("baseline", "ds", "dks")
TITLES = {
    "last": "**Test error of the main classifier, last epoch, in %**",
    "best": "**The same at the best epoch of each run**, optimistic because the test images choose the epoch",
}
LINES = {"train": "--", "test": "-"}
# Fields that are needed from config.json; its section "data" is named "images." here.
NEEDED = {"method": str, "seed": int, "epochs": int, "model.name": str, "data.source": str, "data.name": str}
NEEDED |= {"images.train_images": int, "images.test_images": int}


class Run(NamedTuple):
    """A finished run.

    folder: the workdir.
    method, seed: fields of the config.
    experiment: everything else that the result depends on: fields of the config and facts about the images.
    train, test: error of the main classifier after each epoch, in %.
    errors: test errors in %: "last" and "best" of the main classifier, and the last of each branch by name.
    """

    folder: Path
    method: str
    seed: int
    experiment: dict[str, Any]
    train: list[float]
    test: list[float]
    errors: dict[str, float]


class Row(NamedTuple):
    """A row of the tables: the runs of one experiment.

    network, data, setting: labels of the experiment.
    runs: runs by method, sorted by seed.
    """

    network: str
    data: str
    setting: str
    runs: dict[str, list[Run]]


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
    layout = argparse.RawDescriptionHelpFormatter
    parser = command_line.Parser("python tools/summarize.py", description=__doc__, formatter_class=layout)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="workdir, or folder of workdirs")
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder to write to; by default none")
    arguments = parser.parse_args(argv)
    # The curves would overwrite the curves.png of the run.
    if arguments.output and is_run(arguments.output):
        raise InputError(f"`--output` must not be the workdir of a run; got {arguments.output}.")
    return arguments


def is_run(folder: Path) -> bool:
    """Whether a folder is the workdir of a run, which may be damaged."""
    return (folder / "config.json").exists() or (folder / "metrics.jsonl").exists()


def find_runs(given: Iterable[Path]) -> list[Path]:
    """Finds the workdirs among the given folders and directly in them, each once.

    Raises:
      InputError: one of the folders is not a workdir and holds none.
    """
    found: dict[Path, Path] = {}
    for folder in given:
        runs = [folder] if is_run(folder) else sorted(filter(is_run, folder.glob("*")))
        if not runs:
            problem = "is neither" if folder.exists() else "does not exist"
            raise InputError(
                f"`RUN` must be the workdir of a run or a folder of workdirs; {folder} {problem}."
            )
        for run in runs:
            found.setdefault(run.resolve(), run)
    return list(found.values())


def read_runs(folders: Iterable[Path]) -> tuple[list[Run], list[str]]:
    """Reads finished runs, one for each experiment, method and seed.

    Returns:
      The runs, and a line for each folder that was left out, with the reason.

    Raises:
      InputError: no run is finished.
    """
    runs: list[Run] = []
    left_out = []
    for folder in folders:
        try:
            run = read_run(folder)
        except InputError as reason:
            left_out.append(f"{folder}: {reason}")
            continue
        alike = [other for other in runs if (other.method, other.experiment) == (run.method, run.experiment)]
        if twin := next((other for other in alike if other.seed == run.seed), None):
            left_out.append(f"{folder}: duplicate: same config, images and seed as {twin.folder}")
        else:
            runs.append(run)
    if not runs:
        raise InputError(f"There is no finished run to summarise: {'; '.join(left_out)}.")
    return runs, left_out


def read_run(folder: Path) -> Run:
    """Reads the run in a workdir.

    Raises:
      InputError: the run is unfinished or damaged; the message is only the reason.
    """
    description = _read(folder / "config.json", lambda path: json.loads(path.read_text()))
    _require(description, {"config": dict, "data": dict, "resumed": list}, "config.json")
    written = flatten({**description["config"], "images": description["data"]})
    _require(written, NEEDED, "config.json")
    fields = written | recorded(description["config"], models.arguments)
    if fields["method"] not in METHODS:
        raise InputError(f"damaged: config.json has the unknown method {fields['method']!r}")
    method, seed = fields.pop("method"), fields.pop("seed")
    experiment = {name: value for name, value in fields.items() if name not in FREE_FIELDS}
    if changes := schedule_changes(description["resumed"], experiment["optimizer.schedule"]):
        experiment["resumed"] = changes
    train, test = _splits(folder, fields["epochs"])
    train_curve, test_curve = ([record["error/main"] for record in split] for split in (train, test))
    errors = {"last": test_curve[-1], "best": min(test_curve)}
    for branch in sorted(name for name in test[-1] if name.startswith("error/branch")):
        errors[branch.removeprefix("error/")] = test[-1][branch]
    return Run(folder, method, seed, experiment, train_curve, test_curve, errors)


def _splits(folder: Path, epochs: int) -> list[list[Record]]:
    """Reads the log of a finished run; returns the records of the training and of the held-out split."""
    records = _read(folder / "metrics.jsonl", read_records)
    for number, record in enumerate(records, 1):
        _check(record, f"line {number} of metrics.jsonl")
    train, test = ([r for r in records if r["split"] == split] for split in LINES)
    if not test or len(test) < epochs:
        raise InputError(f"unfinished: {len(test)} of {epochs} epochs")
    if any([r["epoch"] for r in split] != list(range(1, epochs + 1)) for split in (train, test)):
        raise InputError(f"damaged: metrics.jsonl does not hold the epochs 1 to {epochs} in order, each once")
    if not (folder / "weights").is_dir():
        raise InputError(f"unfinished: {epochs} of {epochs} epochs, but no weights/")
    return [train, test]


def _read(path: Path, reader: Callable[[Path], Any]) -> Any:
    try:
        return reader(path)
    except OSError as error:
        raise InputError(f"damaged: {path.name} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"damaged: {path.name} holds text that is no JSON") from error


def _require(values: Any, kinds: Mapping[str, type], where: str) -> None:
    for name, kind in kinds.items():
        if not isinstance(values, dict) or not fits(values.get(name), kind):
            raise InputError(f"damaged: {where} has no `{name}` of type {kind.__name__}")


def _check(record: Any, where: str) -> None:
    _require(record, {"epoch": int, "split": str, "error/main": float}, where)
    for name, value in record.items():
        if name.startswith("error/") and not (fits(value, float) and 0 <= value <= 100):
            raise InputError(f"damaged: `{name}` in {where} is {value!r}, not a number from 0 to 100")


def make_rows(runs: Sequence[Run]) -> list[Row]:
    """Groups runs by experiment and method; the rows are sorted by their labels."""
    experiments: list[dict[str, Any]] = []
    for run in runs:
        if run.experiment not in experiments:
            experiments.append(run.experiment)
    rows = []
    for experiment in experiments:
        labels = network_label(experiment), data_label(experiment)
        alike = [other for other in experiments if (network_label(other), data_label(other)) == labels]
        own = sorted((r for r in runs if r.experiment == experiment), key=lambda run: run.seed)
        methods = [method for method in METHODS if any(run.method == method for run in own)]
        by_method = {method: [run for run in own if run.method == method] for method in methods}
        rows.append(Row(*labels, setting_label(experiment, alike), by_method))
    return sorted(rows, key=lambda row: (row.data, row.network, row.setting))


def network_label(experiment: Mapping[str, Any]) -> str:
    """The network and its arguments, e.g. "WRN-28-10 dropout 0.3"."""
    model = {name.removeprefix("model."): v for name, v in experiment.items() if name.startswith("model.")}
    name = model.pop("name")
    if name == "wide_resnet" and {"depth", "width"} <= model.keys():
        name = f"WRN-{model.pop('depth')}-{model.pop('width')}"
    for argument, usual in (("dropout", 0), ("branches", BY_METHOD)):
        if model.get(argument) == usual:
            del model[argument]
    return " ".join([name, *(f"{argument} {value}" for argument, value in model.items())])


def data_label(experiment: Mapping[str, Any]) -> str:
    """The source and the numbers of images, e.g. "cifar100, 50,000 + 10,000 images"."""
    source, name = experiment["data.source"], experiment["data.name"]
    label = name if name.startswith(source) else f"{source} {name}".strip()
    return f"{label}, {experiment['images.train_images']:,} + {experiment['images.test_images']:,} images"


def setting_label(experiment: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> str:
    """The fields in which an experiment differs from others, e.g. "epochs 40; norm_groups 2"."""
    parts = []
    for name in sorted({name for other in others for name in other}):
        value = experiment.get(name, "absent")
        # An explicit teaching matrix is always shown, since the column of the method would mislead.
        explicit = name == "synergy.teaches" and value != BY_METHOD
        if explicit or any(other.get(name, "absent") != value for other in others):
            text = value if value and isinstance(value, str) else json.dumps(value)
            parts.append(f"{name} {text if len(text) <= 60 else text[:57] + '...'}")
    return "; ".join(parts)


def summary(runs: Sequence[Run]) -> dict[str, Any]:
    """Summarises one or more runs by their number, their seeds and statistics of each of their `errors`.

    The statistics of e.g. the error "last" are last_mean, last_std (sample standard deviation with n - 1;
    None for a single run), last_min and last_max, in %.
    """
    figures: dict[str, Any] = {"runs": len(runs), "seeds": " ".join(str(run.seed) for run in runs)}
    for error in runs[0].errors:
        values = [run.errors[error] for run in runs if error in run.errors]
        std = statistics.stdev(values) if len(values) > 1 else None
        spread = {"mean": statistics.fmean(values), "std": std, "min": min(values), "max": max(values)}
        figures |= {f"{error}_{name}": value for name, value in spread.items()}
    return figures


def markdown(rows: Sequence[Row], left_out: Sequence[str]) -> str:
    """Formats a table for each error, and the list of the folders that were left out."""
    labels = ["network", "data", "setting"][: 3 if any(row.setting for row in rows) else 2]
    methods = [m for m in METHODS if m in PAPER or any(m in row.runs for row in rows)]
    header = [*labels, *(METHODS[method][0] for method in methods)]
    parts = ["Mean ± standard deviation over seeds (number of runs). Data: training + test images."]
    for error in dict.fromkeys(e for row in rows for runs in row.runs.values() for e in runs[0].errors):
        cells = [[_cell(row.runs.get(method), error) for method in methods] for row in rows]
        body = [[*row[: len(labels)], *own] for row, own in zip(rows, cells, strict=True) if any(own)]
        parts.append(TITLES.get(error, f"**Test error of {error}, last epoch, in %**"))
        parts.append(markdown_table([header, *body]))
    if left_out:
        parts += ["**Left out**", "\n".join(f"- {line}" for line in left_out)]
    return "\n\n".join(parts) + "\n"


def _cell(runs: Sequence[Run] | None, error: str) -> str:
    if not runs or error not in runs[0].errors:
        return ""
    figures = summary(runs)
    std = f" ± {figures[f'{error}_std']:.2f}" if len(runs) > 1 else ""
    return f"{figures[f'{error}_mean']:.2f}{std} ({len(runs)})"


def comma_separated(rows: Sequence[Row]) -> str:
    """Formats the unrounded `summary` of the runs as CSV, with a line for each row and method."""
    lines = [
        {"network": row.network, "data": row.data, "setting": row.setting, "method": method, **summary(runs)}
        for row in rows
        for method, runs in row.runs.items()
    ]
    text = io.StringIO()
    columns = dict.fromkeys(name for line in lines for name in line)
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def draw(rows: Sequence[Row]) -> Figure:
    """Draws train and test error over the epochs, in a panel for each row.

    The curve of a method is the mean of its runs, with a band for their range.
    """
    columns = math.ceil(math.sqrt(len(rows)))
    lines = math.ceil(len(rows) / columns)
    figure = Figure(figsize=(4.8 * columns, 3.6 * lines + 0.3), layout="constrained")
    for i, row in enumerate(rows):
        draw_row(figure.add_subplot(lines, columns, i + 1), row)
    styles = [Line2D([], [], color="0.4", ls=style, label=split) for split, style in LINES.items()]
    band = Patch(color="0.4", alpha=0.25, lw=0, label="range over runs")
    figure.legend(handles=[*styles, band], loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def draw_row(axes: Axes, row: Row) -> None:
    """Draws the learning curves of one experiment."""
    shown = np.array([(run.train, run.test) for runs in row.runs.values() for run in runs])
    epochs = np.arange(1, shown.shape[-1] + 1)
    for method, runs in row.runs.items():
        name, color = METHODS[method]
        plural = "s" if len(runs) > 1 else ""
        for split, style in LINES.items():
            curves = np.array([getattr(run, split) for run in runs])
            label = f"{name} ({len(runs)} run{plural})" if split == "test" else None
            # A line through a single point is invisible.
            marker = "." if len(epochs) == 1 else None
            axes.plot(epochs, curves.mean(0), style, color=color, lw=1.3, marker=marker, label=label)
            axes.fill_between(epochs, curves.min(0), curves.max(0), color=color, alpha=0.2, lw=0)
    # The first tenth is left out of the range, because its steep fall would flatten the rest of the curves.
    top = 1.05 * max(1.0, shown[..., len(epochs) // 10 :].max())
    title = (f"{row.network} on {row.data}", row.setting)
    text = "\n".join(textwrap.fill(line, 62) for line in title if line)
    axes.set_title(text, loc="left", fontsize=9, parse_math=False)
    axes.set(xlabel="epoch", ylabel="error (%)", xlim=(0, 1.02 * len(epochs)), ylim=(0, top))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper right", fontsize=9, frameon=False)


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
