"""How well weights classify held-out images: one pass over them, every classifier of the weights."""

import copy
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from dks_jax import data, models
from dks_jax.command_line import markdown_table
from dks_jax.configuration import Config
from dks_jax.data.images import HeldOut, Split, StoredSplit, UnreadableError
from dks_jax.data.preparation import Preparation
from dks_jax.errors import InputError
from dks_jax.evaluation_metrics import ECE_BINS, Figures, Scores, figures, scores
from dks_jax.experiment import computing_dtype
from dks_jax.metrics import Stopwatch
from dks_jax.steps import Devices, Forward
from dks_jax.supervision import DeeplySupervised
from dks_jax.weights import load_network


class Setting(NamedTuple):
    """Weights and held-out images that fit each other.

    weights: the path that was given.
    description: lines about both, with warnings where they fit badly.
    """

    config: Config
    weights: str
    network: DeeplySupervised
    metadata: dict[str, Any]
    held_out: HeldOut
    description: list[str]


class Result(NamedTuple):
    """Of a pass over the held-out images.

    classifiers: by name, in depth order.
    num_examples: how many images count.
    skipped: names of those that could not be read.
    logits: float32 [classifier, example, class] in the order of the split; None where they were not kept.
    """

    classifiers: dict[str, Figures]
    num_examples: int
    skipped: list[str]
    logits: np.ndarray | None
    images_per_second: float

    @property
    def main(self) -> Figures:
        """The figures of the main classifier."""
        return self.classifiers["main"]


def prepare(config: Config, weights: str) -> Setting:
    """Loads weights and held-out images, and checks that they fit.

    Of the config only `data` and `precision` matter: the network is the one that the weights describe.

    Raises:
      InputError: a field of the config is wrong, the weights or the images are absent or damaged, or the
        images have more classes or another number of channels than the weights.
    """
    computing_dtype(config.precision)
    config = copy.deepcopy(config)
    # What training images go through is no matter.
    config.data.update(train_per_class=0, random_resized_crop=False, color_jitter=0.0)
    # Which images of a data set of tfds are of one class only reading tells.
    config.data.streamed = config.data.source == "folder" or (
        config.data.source == "tfds" and not config.data.test_per_class
    )
    data.check(config.data)
    network, metadata = load_network(weights)
    held_out = data.load_held_out(config.data)
    _require_fit(network, metadata, held_out, weights)
    description = _describe(config, weights, network, metadata, held_out)
    return Setting(config, weights, network, metadata, held_out, description)


def evaluate(setting: Setting, *, skip_unreadable: bool = False, keep_logits: bool = False) -> Result:
    """One pass over the held-out images, each of which counts once.

    Args:
      skip_unreadable: whether to leave out images that cannot be decoded.
      keep_logits: whether the result holds them.

    Raises:
      InputError: an image cannot be read, or none where they are skipped; a logit is not finite.
    """
    fields, split = setting.config.data, setting.held_out.split
    skipped: dict[int, str] = {}
    if skip_unreadable and isinstance(split, StoredSplit):
        split = _skipping(split, skipped)
    devices = Devices(batches_per_call=1)
    dtype = computing_dtype(setting.config.precision)
    preparation = Preparation(tuple(fields.mean), tuple(fields.std), dtype=dtype)
    feed = data.held_out_feed(split, preparation, batch_size=fields.batch_size, devices=devices)
    forward = Forward(setting.network, devices)
    parts: list[Scores] = []
    kept: list[np.ndarray] = []
    seen = 0
    watch = Stopwatch()
    begin = time.perf_counter()
    with tqdm(total=split.num_examples, unit="image", dynamic_ncols=True, disable=None) as bar:
        for output in forward.batches(feed):
            size = len(output.labels)
            readable = [i for i in range(size) if seen + i not in skipped]
            logits = output.logits[:, readable]
            require_finite(logits, [_name(split, seen + i) for i in readable])
            parts.append(scores(logits, output.labels[readable]))
            if keep_logits:
                kept.append(logits)
            seen += size
            bar.update(size)
            end = time.perf_counter()
            watch.add(fields.batch_size, size, end - begin)
            begin = end
    if len(skipped) == split.num_examples:
        raise InputError(
            f"`--skip_unreadable` must leave some image; none of the {len(skipped)} can be decoded, "
            f"{skipped[0]} the first of them."
        )
    whole = Scores(*(np.concatenate(arrays, axis=1) for arrays in zip(*parts, strict=True)))
    of_each = [Scores(*own) for own in zip(*whole, strict=True)]
    return Result(
        classifiers=dict(zip(setting.network.names, map(figures, of_each), strict=True)),
        num_examples=whole.ranks.shape[1],
        skipped=[name for _, name in sorted(skipped.items())],
        logits=np.concatenate(kept, axis=1) if keep_logits else None,
        images_per_second=watch.images_per_second,
    )


def require_finite(logits: np.ndarray, names: Sequence[str]) -> None:
    """Raises InputError where a logit of [classifier, example, class] is not finite; names the example."""
    finite = np.all(np.isfinite(logits), axis=(0, 2))
    if not finite.all():
        raise InputError(
            f"The logits must be finite; those of {names[int(np.argmin(finite))]} are not: the weights are "
            "of a training that diverged, or their network overflows; try --config.precision=float32."
        )


def show(result: Result) -> str:
    """The result to read: a table of the classifiers, and the line that the released code prints."""
    header = ["classifier", "top-1 error", "top-5 error", "NLL", "ECE"]
    rows = [
        [name, f"{f.top1_error:.2f} %", f"{f.top5_error:.2f} %", f"{f.nll:.4f}", f"{f.ece:.4f}"]
        for name, f in result.classifiers.items()
    ]
    lines = [f"skipped, since it cannot be decoded: {name}" for name in result.skipped]
    if result.skipped:
        total = result.num_examples + len(result.skipped)
        lines.append(f"skipped: {len(result.skipped):,} of {total:,} images")
    return "\n".join(
        [
            *lines,
            f"{result.num_examples:,} images, {result.images_per_second:.1f} images/s",
            "",
            markdown_table([header, *rows]),
            "",
            f"[Error rate] Top-1: {result.main.top1_error:.4f}%, Top-5: {result.main.top5_error:.4f}%",
        ]
    )


def description(setting: Setting, result: Result) -> dict[str, Any]:
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
        "data": {name: fields[name] for name in ("source", "name", "root")},
        "preprocessing": fields.preprocessing,
        "image_size": fields.image_size,
        "mean": fields.mean,
        "std": fields.std,
        "precision": setting.config.precision,
    }


def _skipping(split: StoredSplit, skipped: dict[int, str]) -> StoredSplit:
    """The split with a black image for each that cannot be decoded; `skipped` gets its index and name."""
    black = np.zeros(split.image_shape, np.uint8), 0

    def read(index: int, rng: np.random.Generator | None = None) -> tuple[np.ndarray, int]:
        try:
            return split.read(index, rng)
        except UnreadableError as error:
            skipped[index] = error.name
            return black

    return split._replace(read=read)


def _name(split: Split | StoredSplit, index: int) -> str:
    return split.name(index) if isinstance(split, StoredSplit) else f"held-out image {index}"


def _require_fit(
    network: DeeplySupervised, metadata: dict[str, Any], held_out: HeldOut, weights: str
) -> None:
    """Raises InputError where the network cannot take the images, or lacks classes of theirs."""
    shape, channels = held_out.split.image_shape, metadata["preprocessing"]["channels"]
    if shape[-1] != channels:
        raise InputError(
            f"`--weights` must be of a network for images with {shape[-1]} channels, as those of the data; "
            f"{weights} takes {channels}."
        )
    logits = jax.eval_shape(network, jax.ShapeDtypeStruct((1, *shape), jnp.float32))
    if len(held_out.class_names) > logits.shape[-1]:
        raise InputError(
            f"`--weights` must know all {len(held_out.class_names)} classes of the data; {weights} has "
            f"{logits.shape[-1]}."
        )


def _describe(
    config: Config, weights: str, network: DeeplySupervised, metadata: dict[str, Any], held_out: HeldOut
) -> list[str]:
    """Weights, data, preprocessing, precision and devices, a line each; warnings."""
    fields, split = config.data, held_out.split
    named = fields.source in ("cifar", "tfds")
    source = ", ".join(filter(None, (fields.source, fields.name if named else "", fields.root)))
    kept = "streamed" if fields.streamed else "in memory"
    mean, std = (" ".join(f"{value:.4g}" for value in values) for values in (fields.mean, fields.std))
    return [
        f"weights: {weights}, {models.describe(metadata['model'])}, {_origin(metadata)}"
        f"classifiers {', '.join(network.names)}",
        f"data: {source}, {split.num_examples:,} held-out images in {len(held_out.class_names)} classes, "
        f"{kept}",
        f"preprocessing: {fields.preprocessing} to {'x'.join(map(str, split.image_shape))}, mean {mean}, "
        f"std {std}",
        f"precision: {config.precision}",
        f"devices: {jax.device_count()} {jax.devices()[0].device_kind}",
        *_class_warnings(metadata, held_out.class_names),
        *_preprocessing_warnings(config, metadata["preprocessing"]),
    ]


def _origin(metadata: dict[str, Any]) -> str:
    origin = ""
    if metadata.get("epoch") is not None:
        origin += f"after epoch {metadata['epoch']}, "
    if metadata.get("test_error") is not None:
        origin += f"test error {metadata['test_error']:.2f} %, "
    return origin


def _class_warnings(metadata: dict[str, Any], class_names: Sequence[str]) -> list[str]:
    """A line where a label means another class here than in the weights, as far as names tell."""
    for label, (here, there) in enumerate(zip(class_names, metadata.get("class_names") or (), strict=False)):
        # A data set without names numbers its classes.
        if here != there and str(label) not in (here, there):
            return [f"warning: the classes differ: label {label} is {here!r} here, {there!r} in the weights"]
    return []


def _preprocessing_warnings(config: Config, trained: dict[str, Any]) -> list[str]:
    """A line where the images are prepared in another way than those that the weights were trained on."""
    fields = config.data
    here = {
        "name": fields.preprocessing,
        "size": [fields.image_size, fields.image_size],
        "mean": list(fields.mean),
        "std": list(fields.std),
    }
    there = {
        "name": trained.get("name", "squash"),
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
