"""Reads finished runs from their workdirs."""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dks_jax import models
from dks_jax.config import fits, flatten, recorded
from dks_jax.reporting.metrics_log import Record, read_records
from dks_jax.runtime.errors import InputError
from dks_jax.training.workdir import FREE_FIELDS, schedule_changes
from summary.macs import training_macs
from summary.methods import METHODS

SPLITS = ("train", "test")
# Fields that are needed from config.json; its section "data" is named "images." here.
NEEDED = {"method": str, "seed": int, "epochs": int, "model.name": str, "data.source": str, "data.name": str}
NEEDED |= {"images.train_images": int, "images.test_images": int}
# Names of results, and of what the log has of them.
MEASURES = {"ensemble": "error/mean", "nll": "cross_entropy/main", "ece": "ece/main"}


class Run(NamedTuple):
    """A finished run.

    folder: the workdir.
    method, seed: fields of the config.
    experiment: everything else that the result depends on: fields of the config and facts about the images.
    train, test: error of the main classifier after each epoch, in %.
    results: of the held-out images, errors in %: "last" and "best" of the main classifier, the last of each
      branch by name, and "ensemble", the last of the mean of the classifiers' probabilities; then "nll" and
      "ece" of the main classifier after the last epoch. Runs of earlier versions lack some of them.
    macs: multiply-accumulate operations of the network with its branches per image; None where unknown.
    """

    folder: Path
    method: str
    seed: int
    experiment: dict[str, Any]
    train: list[float]
    test: list[float]
    results: dict[str, float]
    macs: int | None = None


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
    results = {"last": test_curve[-1], "best": min(test_curve)}
    for branch in sorted(name for name in test[-1] if name.startswith("error/branch")):
        results[branch.removeprefix("error/")] = test[-1][branch]
    results |= {name: test[-1][logged] for name, logged in MEASURES.items() if logged in test[-1]}
    macs = training_macs(folder / "weights", has_branches=method != "baseline")
    return Run(folder, method, seed, experiment, train_curve, test_curve, results, macs)


def _splits(folder: Path, epochs: int) -> list[list[Record]]:
    """Reads the log of a finished run; returns the records of the training and of the held-out split."""
    records = _read(folder / "metrics.jsonl", read_records)
    for number, record in enumerate(records, 1):
        _check(record, f"line {number} of metrics.jsonl")
    train, test = ([r for r in records if r["split"] == split] for split in SPLITS)
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
        if name in MEASURES.values() and not (fits(value, float) and 0 <= value < math.inf):
            raise InputError(f"damaged: `{name}` in {where} is {value!r}, not a number of at least 0")
