"""The report of an evaluation: a description with warnings, the result as a table, as JSON and as CSV."""

import csv
import io
from collections.abc import Mapping
from typing import Any

import jax

from dks_jax import models
from dks_jax.config import Config
from dks_jax.data import source
from dks_jax.inference.breakdown import class_errors
from dks_jax.inference.evaluation import Evaluation, Result
from dks_jax.models import Preprocessing
from dks_jax.reporting.measurements import ECE_BINS
from dks_jax.reporting.tables import markdown_table
from dks_jax.weights import Metadata


def describe(evaluation: Evaluation) -> list[str]:
    """Lines that describe weights, data, preprocessing, precision and devices, and what was assumed."""
    config, metadata, split = evaluation.config, evaluation.metadata, evaluation.held_out.split
    fields = config.data
    kept = "streamed" if fields.streamed else "in memory"
    images = _count(split.num_examples, "held-out image", "held-out images")
    classes = _count(len(metadata.class_names), "class", "classes")
    return [
        f"weights: {evaluation.weights}, {models.describe(metadata.model)}, {_origin(metadata)}"
        f"{'classifiers' if len(evaluation.network.names) > 1 else 'classifier'} "
        f"{', '.join(evaluation.network.names)}",
        f"data: {', '.join(filter(None, _data(fields).values()))}, {images} in {classes}, {kept}",
        describe_preprocessing(Preprocessing.of(fields, split.image_shape)),
        f"precision: {config.precision}",
        f"devices: {jax.device_count()} {jax.devices()[0].device_kind}",
        *(f"assumed: {sentence}" for sentence in evaluation.assumed),
        *(f"warning: {sentence}" for sentence in warnings(evaluation)),
    ]


def warnings(evaluation: Evaluation) -> list[str]:
    """Sentences on files that are left out, and on differences between the config and the weights."""
    config, metadata = evaluation.config, evaluation.metadata
    return [
        *evaluation.held_out.notes,
        *_network_warnings(config.model, metadata.model),
        *_preprocessing_warnings(
            Preprocessing.of(config.data, evaluation.held_out.split.image_shape), metadata.preprocessing
        ),
    ]


def describe_preprocessing(own: Preprocessing) -> str:
    """Describes a preprocessing in one line, with crop and filter where they are not the usual ones."""
    means, stds = (" ".join(f"{value:.4g}" for value in values) for values in (own.mean, own.std))
    unusual = [f", {name} {own[name]}" for name in ("crop_ratio", "interpolation") if name in own.to_json()]
    size = "x".join(map(str, own.shape))
    return f"preprocessing: {own.name} to {size}{''.join(unusual)}, mean {means}, std {stds}"


def show(result: Result) -> str:
    """Formats a result as a table of the classifiers, with the line that the released DKS code prints."""
    own = result.classifiers
    columns = [
        ["classifier", *own],
        ["top-1 error", *(f"{f.top1_error:.2f} %" for f in own.values())],
        ["top-5 error", *(f"{f.top5_error:.2f} %" for f in own.values() if f.top5_error is not None)],
        ["NLL", *(_nll(f.nll) for f in own.values())],
        ["ECE", *(f"{f.ece:.4f}" for f in own.values())],
    ]
    rows = [list(row) for row in zip(*(column for column in columns if len(column) > 1), strict=True)]
    top5 = "" if result.main.top5_error is None else f", Top-5: {result.main.top5_error:.4f}%"
    lines = [f"skipped, since it cannot be decoded: {name}" for name in result.skipped]
    if result.skipped:
        total = result.num_examples + len(result.skipped)
        lines.append(f"skipped: {len(result.skipped):,} of {total:,} images")
    return "\n".join(
        [
            *lines,
            f"{_count(result.num_examples, 'image', 'images')}, {result.images_per_second:.1f} images/s",
            "",
            markdown_table(rows),
            "",
            f"[Error rate] Top-1: {result.main.top1_error:.4f}%{top5}",
        ]
    )


def as_json(evaluation: Evaluation, result: Result) -> dict[str, Any]:
    """A result, with the weights and the data it belongs to, in types that JSON can hold."""
    fields = evaluation.config.data
    return {
        "num_examples": result.num_examples,
        **result.main._asdict(),
        "classifiers": {name: own._asdict() for name, own in result.classifiers.items()},
        "ece_bins": ECE_BINS,
        "per_class": _per_class(evaluation, result),
        "skipped": result.skipped,
        "images_per_second": result.images_per_second,
        "weights": evaluation.weights,
        "model": evaluation.metadata.model,
        "data": _data(fields),
        "preprocessing": fields.preprocessing,
        "image_size": fields.image_size,
        "crop_ratio": fields.crop_ratio,
        "interpolation": fields.interpolation,
        "mean": fields.mean,
        "std": fields.std,
        "precision": evaluation.config.precision,
        "assumed": list(evaluation.assumed),
        "warnings": warnings(evaluation),
    }


def as_csv(evaluation: Evaluation, result: Result) -> str:
    """The predictions of a result as CSV with a header and a line for each evaluated image.

    The columns: `path`, below `data.root`, or another name where the image has no file; `label`, its class;
    `prediction` and `probability`, the class that the main classifier finds the likeliest and its
    probability, 0 to 1; then for each branch the same two, as e.g. `branch1` and `branch1_probability`. Of
    classes with equal logits the first one is the prediction, as in the errors. A path that is no valid
    UTF-8 has surrogate escapes.
    """
    *branches, _ = evaluation.network.names
    names, own = evaluation.metadata.class_names, result.examples
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    header = [column for branch in branches for column in (branch, f"{branch}_probability")]
    writer.writerow(["path", "label", "prediction", "probability", *header])
    predictions, confidences = own.predictions.T.tolist(), own.confidences.T.tolist()
    for index, label, predicted, sure in zip(own.indices, own.labels, predictions, confidences, strict=True):
        *of_branches, main = zip((names[place] for place in predicted), sure, strict=True)
        columns = [value for pair in (main, *of_branches) for value in pair]
        writer.writerow([evaluation.name_of(int(index)), names[label], *columns])
    return text.getvalue()


def _per_class(evaluation: Evaluation, result: Result) -> list[dict[str, Any]]:
    """The number of images and the error of the main classifier in %, of each class that has images."""
    own, names = result.examples, evaluation.metadata.class_names
    images, wrong = class_errors(own.labels, own.predictions[-1], len(names))
    return [
        {"class": name, "images": count, "top1_error": 100 * errors / count}
        for name, count, errors in zip(names, images.tolist(), wrong.tolist(), strict=True)
        if count
    ]


def _data(fields: Config) -> dict[str, str]:
    """The fields that say which data are used; the name only where the source has several data sets."""
    names = ("source", "name", "root") if source(fields.source).named else ("source", "root")
    return {name: fields[name] for name in (*names, "held_out")}


def _count(number: int, singular: str, plural: str) -> str:
    return f"{number:,} {singular if number == 1 else plural}"


def _nll(value: float) -> str:
    return f"{value:.4f}" if value < 1e4 else f"{value:.4g}"


def _origin(metadata: Metadata) -> str:
    origin = ""
    if metadata.epoch is not None:
        origin += f"after epoch {metadata.epoch}, "
    if metadata.test_error is not None:
        origin += f"test error {metadata.test_error:.2f} %, "
    return origin


def _network_warnings(here: Mapping[str, Any], there: Mapping[str, Any]) -> list[str]:
    """Warns if the config describes another network, apart from what matters in training only."""
    left_out = {"branches", "dropout", "initialisation", *models.regularisation.ARGUMENTS}
    own, evaluated = (
        {name: value for name, value in model.items() if name not in left_out} for model in (here, there)
    )
    if own == evaluated:
        return []
    return [
        f"the network differs: {models.describe(own)} in the config, {models.describe(evaluated)} "
        "in the weights, which is evaluated"
    ]


def _preprocessing_warnings(own: Preprocessing, trained: Preprocessing) -> list[str]:
    """Warns if the preprocessing differs from that in training, where that is known."""
    if trained.assumed:
        return []
    here, there = _compared(own), _compared(trained)
    differing = [
        f"{name} {here[name]} here, {there[name]} in the weights"
        for name in here
        if here[name] != there[name]
    ]
    return [f"the preprocessing differs: {'; '.join(differing)}"] if differing else []


def _compared(own: Preprocessing) -> dict[str, Any]:
    return {
        "name": own.name,
        "size": [own.height, own.width],
        "mean": list(own.mean),
        "std": list(own.std),
        "crop ratio": own.crop_ratio,
        "interpolation": own.interpolation,
    }
