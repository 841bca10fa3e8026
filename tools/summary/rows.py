"""Groups runs into rows: the runs of one experiment, by method."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from dks_jax.config import BY_METHOD
from summary.methods import METHODS
from summary.reading import Run


class Row(NamedTuple):
    """A row of the tables: the runs of one experiment.

    network, data, setting: labels of the experiment.
    runs: runs by method, sorted by seed.
    """

    network: str
    data: str
    setting: str
    runs: dict[str, list[Run]]

    @property
    def labels(self) -> tuple[str, str, str]:
        return self.network, self.data, self.setting


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
    rates = ("dropout", 0), ("drop_path", 0), ("head_dropout", 0)
    for argument, usual in (*rates, ("initialisation", "dks"), ("branches", BY_METHOD)):
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


def relative_compute(rows: Sequence[Row]) -> list[dict[str, float]]:
    """The compute of the training of each row's methods, in units of a baseline's.

    The compute is epochs times multiply-accumulate operations of the network with its branches. The unit is
    that of the baseline with the fewest epochs, of the same data and the same network but for its branches; a
    method is left out where there is none, or where the operations are unknown.
    """
    own = [
        {m: runs[0].experiment["epochs"] * runs[0].macs for m, runs in row.runs.items() if runs[0].macs}
        for row in rows
    ]
    alike = [_backbone_and_data(row) for row in rows]
    units: dict[tuple[str, str], float] = {}
    for key, compute in zip(alike, own, strict=True):
        if "baseline" in compute:
            units[key] = min(compute["baseline"], units.get(key, compute["baseline"]))
    return [
        {method: c / units[key] for method, c in compute.items() if key in units}
        for key, compute in zip(alike, own, strict=True)
    ]


def _backbone_and_data(row: Row) -> tuple[str, str]:
    runs = next(iter(row.runs.values()))
    return network_label(runs[0].experiment | {"model.branches": BY_METHOD}), row.data
