"""Reads the runs of a report and evaluates their weights, each once."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from summary.reading import Run, find_runs, is_run, read_run, read_runs

from dks_jax import models
from dks_jax.command_line import read_config
from dks_jax.data import Split
from dks_jax.data.imagenet_classes import display_name
from dks_jax.inference import evaluation, report
from dks_jax.inference.evaluation import Examples
from dks_jax.inference.metrics import Metrics
from dks_jax.runtime.errors import InputError
from dks_jax.weights.loading import find_weights
from report_page.thumbnails import data_uri

MISTAKES = 24


class Mistake(NamedTuple):
    """An image that the main classifier takes for another class.

    name: name of the image.
    label: its class.
    predictions: the class that each classifier predicts, the main one last.
    confidence: probability that the main classifier gives to its prediction.
    picture: the image as the network sees it, as a data URI.
    """

    name: str
    label: int
    predictions: tuple[int, ...]
    confidence: float
    picture: str


class Outcome(NamedTuple):
    """What the evaluation of a run's weights has found.

    classifiers: metrics by the name of the classifier, the main one last.
    class_names: names of the classes in label order, as they are shown.
    examples: labels and predictions of all images.
    mistakes: those of the main classifier, the most confident first, at most MISTAKES.
    notes: sentences on what was assumed, on differences to the training, and on images that were left out.
    """

    classifiers: dict[str, Metrics]
    class_names: list[str]
    examples: Examples
    mistakes: list[Mistake]
    notes: list[str]


class Reported(NamedTuple):
    """A run of the report.

    name: name of its workdir, or the path where several are called the same.
    run: what its log says.
    description: its config.json.
    outcome: the evaluation of its weights, or the sentence that says why there is none.
    """

    name: str
    run: Run
    description: dict[str, Any]
    outcome: Outcome | str


def gather(given: Iterable[Path]) -> tuple[list[Reported], list[str]]:
    """Reads and evaluates runs.

    Args:
      given: workdirs, which must be of finished runs, and folders of workdirs, in which others are left out.

    Returns:
      The runs, and a line for each workdir that was left out, with the reason.

    Raises:
      InputError: a given workdir is of no finished run or has no weights, or there is no finished run.
    """
    given = list(given)
    for folder in filter(is_run, given):
        try:
            read_run(folder)
        except InputError as reason:
            raise InputError(
                f"`RUN` must be the workdir of a finished run, or a folder of workdirs; {folder} is none, "
                f"{reason}."
            ) from reason
    runs, left_out = read_runs(find_runs(given))
    for run in runs:
        find_weights(run.folder)
    names = [run.folder.resolve().name for run in runs]
    if len(set(names)) < len(names):
        names = [str(run.folder) for run in runs]
    return [_report(run, name) for run, name in zip(runs, names, strict=True)], left_out


def _report(run: Run, name: str) -> Reported:
    description = json.loads((run.folder / "config.json").read_text())
    try:
        return Reported(name, run, description, _evaluate(run))
    except InputError as error:
        # Data may be gone long before a run is: the log still has its curves.
        return Reported(name, run, description, str(error))


def _evaluate(run: Run) -> Outcome:
    _, fields = read_config(run.folder)
    prepared = evaluation.prepare(models.restore_config(fields, {}), str(run.folder))
    result = evaluation.evaluate(prepared, skip_unreadable=True)
    notes = [*prepared.assumed, *report.warnings(prepared)]
    if result.skipped:
        notes.append(f"images that cannot be decoded are left out: {len(result.skipped):,}")
    if abs(result.main.top1_error - run.results["last"]) > 0.005:
        notes.append(
            f"the error is {result.main.top1_error:.2f} %, and the training has logged "
            f"{run.results['last']:.2f} %: the images, the precision or the machine are not the same"
        )
    examples = result.examples
    mistakes = [_mistake(prepared, examples, place) for place in most_confident_mistakes(examples)]
    names = shown_names(prepared.metadata.class_names)
    return Outcome(result.classifiers, names, examples, mistakes, notes)


def shown_names(class_names: Sequence[str]) -> list[str]:
    """Names of classes as they are shown: those of ImageNet in words, which differ, without their ids."""
    return [display_name(name).removesuffix(f" ({name})") for name in class_names]


def most_confident_mistakes(examples: Examples, most: int = MISTAKES) -> Sequence[int]:
    """The places among the examples of the main classifier's wrong predictions, the most confident first."""
    wrong = np.flatnonzero(examples.predictions[-1] != examples.labels)
    return wrong[np.argsort(-examples.confidences[-1, wrong], kind="stable")][:most].tolist()


def _mistake(prepared: evaluation.Evaluation, examples: Examples, place: int) -> Mistake:
    index, split = int(examples.indices[place]), prepared.held_out.split
    image = split.images[index] if isinstance(split, Split) else split.read(index)[0]
    return Mistake(
        prepared.name_of(index),
        int(examples.labels[place]),
        tuple(examples.predictions[:, place].tolist()),
        float(examples.confidences[-1, place]),
        data_uri(image),
    )
