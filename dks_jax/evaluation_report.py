"""What an evaluation says of itself: its setting with warnings before, its result as a table and as JSON."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax

from dks_jax import models
from dks_jax.configuration import Config
from dks_jax.evaluation import Result, Setting
from dks_jax.evaluation_metrics import ECE_BINS
from dks_jax.tables import markdown_table


def describe(setting: Setting) -> list[str]:
    """Weights, data, preprocessing, precision and devices, a line each; warnings where they fit badly."""
    config, metadata, split = setting.config, setting.metadata, setting.held_out.split
    fields = config.data
    kept = "streamed" if fields.streamed else "in memory"
    images = _count(split.num_examples, "held-out image", "held-out images")
    classes = _count(len(setting.held_out.class_names), "class", "classes")
    return [
        f"weights: {setting.weights}, {models.describe(metadata['model'])}, {_origin(metadata)}"
        f"{'classifiers' if len(setting.network.names) > 1 else 'classifier'} "
        f"{', '.join(setting.network.names)}",
        f"data: {', '.join(filter(None, _data(fields).values()))}, {images} in {classes}, {kept}",
        describe_preprocessing(fields.preprocessing, split.image_shape, fields.mean, fields.std),
        f"precision: {config.precision}",
        f"devices: {jax.device_count()} {jax.devices()[0].device_kind}",
        *_network_warnings(config.model, metadata["model"]),
        *_class_warnings(setting.held_out.class_names, metadata["class_names"]),
        *_preprocessing_warnings(config, metadata["preprocessing"]),
    ]


def describe_preprocessing(
    name: str, shape: Sequence[int], mean: Sequence[float], std: Sequence[float]
) -> str:
    """How images become the input of a network, in one line; `shape` is height, width, channels."""
    means, stds = (" ".join(f"{value:.4g}" for value in values) for values in (mean, std))
    return f"preprocessing: {name} to {'x'.join(map(str, shape))}, mean {means}, std {stds}"


def show(result: Result) -> str:
    """The result to read: a table of the classifiers, and the line that the released code prints."""
    header = ["classifier", "top-1 error", "top-5 error", "NLL", "ECE"]
    rows = [
        [name, f"{f.top1_error:.2f} %", f"{f.top5_error:.2f} %", _nll(f.nll), f"{f.ece:.4f}"]
        for name, f in result.classifiers.items()
    ]
    lines = [f"skipped, since it cannot be decoded: {name}" for name in result.skipped]
    if result.skipped:
        total = result.num_examples + len(result.skipped)
        lines.append(f"skipped: {len(result.skipped):,} of {total:,} images")
    return "\n".join(
        [
            *lines,
            f"{_count(result.num_examples, 'image', 'images')}, {result.images_per_second:.1f} images/s",
            "",
            markdown_table([header, *rows]),
            "",
            f"[Error rate] Top-1: {result.main.top1_error:.4f}%, Top-5: {result.main.top5_error:.4f}%",
        ]
    )


def as_json(setting: Setting, result: Result) -> dict[str, Any]:
    """The result and what it is of, as JSON can hold it."""
    fields = setting.config.data
    return {
        "num_examples": result.num_examples,
        **result.main._asdict(),
        "classifiers": {name: own._asdict() for name, own in result.classifiers.items()},
        "ece_bins": ECE_BINS,
        "skipped": result.skipped,
        "images_per_second": result.images_per_second,
        "weights": setting.weights,
        "model": setting.metadata["model"],
        "data": _data(fields),
        "preprocessing": fields.preprocessing,
        "image_size": fields.image_size,
        "mean": fields.mean,
        "std": fields.std,
        "precision": setting.config.precision,
    }


def _data(fields: Config) -> dict[str, str]:
    """Which data; their name only where the source has several."""
    names = ("source", "name", "root") if fields.source in ("cifar", "tfds") else ("source", "root")
    return {name: fields[name] for name in names}


def _count(number: int, singular: str, plural: str) -> str:
    return f"{number:,} {singular if number == 1 else plural}"


def _nll(value: float) -> str:
    return f"{value:.4f}" if value < 1e4 else f"{value:.4g}"


def _origin(metadata: Mapping[str, Any]) -> str:
    origin = ""
    if metadata.get("epoch") is not None:
        origin += f"after epoch {metadata['epoch']}, "
    if metadata.get("test_error") is not None:
        origin += f"test error {metadata['test_error']:.2f} %, "
    return origin


def _network_warnings(here: Mapping[str, Any], there: Mapping[str, Any]) -> list[str]:
    """A line where the config describes another network; dropout is of training alone."""
    own, evaluated = ({n: v for n, v in model.items() if n != "dropout"} for model in (here, there))
    if own == evaluated:
        return []
    return [
        f"warning: the network differs: {models.describe(own)} in the config, {models.describe(evaluated)} "
        "in the weights, which is evaluated"
    ]


def _class_warnings(here: Sequence[str], there: Sequence[str]) -> list[str]:
    """A line where a label means another class here than in the weights, as far as names tell."""
    for label, (own, trained) in enumerate(zip(here, there, strict=False)):
        # A data set without names numbers its classes.
        if own != trained and str(label) not in (own, trained):
            return [
                f"warning: the classes differ: label {label} is {own!r} here, {trained!r} in the weights, so "
                "that the errors compare different classes"
            ]
    return []


def _preprocessing_warnings(config: Config, trained: Mapping[str, Any]) -> list[str]:
    """A line where the images are prepared in another way than is known of those trained on."""
    if trained.get("assumed"):
        return []
    fields = config.data
    here = {
        "name": fields.preprocessing,
        "size": [fields.image_size, fields.image_size],
        "mean": list(fields.mean),
        "std": list(fields.std),
    }
    there = {
        "name": trained["name"],
        "size": [trained["height"], trained["width"]],
        "mean": list(trained["mean"]),
        "std": list(trained["std"]),
    }
    differing = [
        f"{name} {here[name]} here, {there[name]} in the weights"
        for name in here
        if here[name] != there[name]
    ]
    return [f"warning: the preprocessing differs: {'; '.join(differing)}"] if differing else []
