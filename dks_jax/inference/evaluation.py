"""Evaluation of all classifiers of a network in one pass over held-out images."""

import copy
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from dks_jax import data
from dks_jax.config import Config
from dks_jax.data import HeldOut, Preparation, Split, StoredSplit, classes
from dks_jax.data.images import UnreadableError, join_errors
from dks_jax.inference.forward import Forward
from dks_jax.inference.metrics import ExampleScores, Metrics, example_scores, metrics, require_finite_logits
from dks_jax.nn.precision import DTYPES
from dks_jax.reporting.measurements import Stopwatch
from dks_jax.runtime.devices import Devices
from dks_jax.runtime.errors import InputError
from dks_jax.supervision import DeeplySupervised
from dks_jax.weights import Metadata, build_network, load_weights, require_head

# The fields of a config that have an effect on an evaluation.
FIELDS = (
    "precision",
    "deterministic",
    *("data.source", "data.name", "data.root", "data.train_split", "data.held_out"),
    *("data.image_size", "data.channels", "data.preprocessing", "data.mean", "data.std"),
    *("data.crop_ratio", "data.interpolation", "data.test_per_class", "data.batch_size"),
)


class Evaluation(NamedTuple):
    """Weights and held-out images that fit each other, ready to be evaluated.

    Attributes:
      config: the config, with the fields reset that have no effect on an evaluation.
      weights: path of the weights, as given.
      network: the network in evaluation mode.
      metadata: description of the weights.
      held_out: the held-out images, with the labels of the network.
      assumed: sentences on what was assumed about the weights and the labels.
    """

    config: Config
    weights: str
    network: DeeplySupervised
    metadata: Metadata
    held_out: HeldOut
    assumed: tuple[str, ...]

    def name_of(self, index: int) -> str:
        """The name of the image at an index of the split, e.g. its path."""
        return _name(self.held_out.split, index)


class Examples(NamedTuple):
    """What the classifiers, in depth order, say of each evaluated image, in the order of the split.

    indices: places of the images in the split, integers [example].
    labels: integers [example].
    predictions: the likeliest class, of equal ones the first, integers [classifier, example].
    confidences: its probability, float64 [classifier, example], 0 to 1.
    """

    indices: np.ndarray
    labels: np.ndarray
    predictions: np.ndarray
    confidences: np.ndarray


class Result(NamedTuple):
    """The result of an evaluation.

    Attributes:
      classifiers: metrics of each classifier by name, in depth order.
      num_examples: number of images that were evaluated.
      skipped: names of the images that could not be decoded.
      logits: float32 [classifier, example, class] in the order of the split; None where they were not kept.
      images_per_second: throughput, without compilation where possible.
      examples: labels and predictions of the single images.
    """

    classifiers: dict[str, Metrics]
    num_examples: int
    skipped: list[str]
    logits: np.ndarray | None
    images_per_second: float
    examples: Examples

    @property
    def main(self) -> Metrics:
        """The metrics of the main classifier."""
        return self.classifiers["main"]


def prepare(config: Config, weights: str) -> Evaluation:
    """Loads weights and held-out images, and checks that they fit each other.

    Args:
      config: a config, of which `data`, `precision` and `deterministic` are used; the network is the one that
        the weights describe. Number of channels, mean and deviation that are open are those of the weights.
      weights: path of the weights; see `load_network`.

    Raises:
      InputError: a field of the config is wrong, the weights or the images are absent or damaged, or the
        classes or the number of channels of the images are not those of the weights.
    """
    config = copy.deepcopy(config)
    fields = config.data
    # These fields only concern training images, and must not fail the checks.
    fields.update(train_per_class=0, padding=0, random_resized_crop=False, color_jitter=0.0)
    fields.update(train_size=0, policy="none")
    source = data.source(fields.source)
    fields.streamed = not source.in_memory and not (source.read_for_labels and fields.test_per_class)
    data.check(fields)
    loaded = load_weights(Path(weights))
    require_head(loaded, Path(weights))
    metadata = loaded.metadata
    trained = metadata.preprocessing
    config.data = fields = data.resolve(fields, training=False, channels=trained.channels)
    if not fields.mean:
        fields.update(mean=trained.mean, std=trained.std)
    held_out = data.load_held_out(fields)
    _require_channels(held_out, trained.channels, weights)
    labels, assumed = classes.match(held_out, metadata.class_names, imported=metadata.imported)
    present = len(held_out.class_names) - len(held_out.empty)
    if present < len(metadata.class_names):
        assumed += (
            f"the images are of {present} of the {len(metadata.class_names)} classes, and errors, NLL "
            "and ECE are over the logits of all of them",
        )
    held_out = held_out.relabelled(labels, metadata.class_names)
    assumed = (*loaded.remarks, *assumed)
    return Evaluation(config, weights, build_network(loaded), metadata, held_out, assumed)


def evaluate(evaluation: Evaluation, *, skip_unreadable: bool = False, keep_logits: bool = False) -> Result:
    """Evaluates all classifiers in one pass over the held-out images.

    Args:
      evaluation: weights and images, from `prepare`.
      skip_unreadable: whether to leave out images that cannot be decoded.
      keep_logits: whether the result holds the logits.

    Raises:
      InputError: images cannot be decoded, of which the message counts all, or all images are skipped, or a
        logit is not finite.
    """
    fields, split = evaluation.config.data, evaluation.held_out.split
    skipped: dict[int, UnreadableError] = {}
    if isinstance(split, StoredSplit):
        split = split.blanking_unreadable(skipped)
    devices = Devices(batches_per_call=1, deterministic=evaluation.config.deterministic)
    dtype = DTYPES[evaluation.config.precision]
    preparation = Preparation(tuple(fields.mean), tuple(fields.std), dtype=dtype)
    feed = data.held_out_feed(split, preparation, batch_size=fields.batch_size, devices=devices)
    forward = Forward(evaluation.network, feed, devices)
    parts: list[ExampleScores] = []
    labels: list[np.ndarray] = []
    predictions: list[np.ndarray] = []
    kept: list[np.ndarray] = []
    seen = 0
    watch = Stopwatch()
    begin = time.perf_counter()
    with tqdm(total=split.num_examples, unit="image", dynamic_ncols=True, disable=None) as bar:
        for output in forward.batches():
            size = len(output.labels)
            readable = [i for i in range(size) if seen + i not in skipped]
            logits = output.logits[:, readable]
            require_finite_logits(logits, [seen + i for i in readable], partial(_name, split))
            labels.append(output.labels[readable])
            predictions.append(np.argmax(logits, axis=-1))
            parts.append(example_scores(logits, labels[-1]))
            if keep_logits:
                kept.append(logits)
            seen += size
            bar.update(size)
            end = time.perf_counter()
            watch.add(fields.batch_size, size, begin, begin, end)
            begin = end
    errors = [skipped[index] for index in sorted(skipped)]
    if errors and not skip_unreadable:
        raise join_errors(errors)
    if len(skipped) == split.num_examples:
        raise InputError(
            "`--skip_unreadable` must leave at least one image, and none can be decoded: check the "
            f"{len(skipped)} images, of which the first is {errors[0].name}."
        )
    whole = ExampleScores(*(np.concatenate(arrays, axis=1) for arrays in zip(*parts, strict=True)))
    of_each = [ExampleScores(*own) for own in zip(*whole, strict=True)]
    return Result(
        classifiers=dict(
            zip(
                evaluation.network.names,
                (metrics(own, len(evaluation.metadata.class_names)) for own in of_each),
                strict=True,
            )
        ),
        num_examples=whole.ranks.shape[1],
        skipped=[error.name for error in errors],
        logits=np.concatenate(kept, axis=1) if keep_logits else None,
        images_per_second=watch.images_per_second,
        examples=Examples(
            indices=np.array([i for i in range(split.num_examples) if i not in skipped]),
            labels=np.concatenate(labels),
            predictions=np.concatenate(predictions, axis=1),
            confidences=whole.confidences,
        ),
    )


def _name(split: Split | StoredSplit, index: int) -> str:
    return split.name(index) if isinstance(split, StoredSplit) else f"held-out image {index}"


def _require_channels(held_out: HeldOut, channels: int, weights: str) -> None:
    own = held_out.split.image_shape[-1]
    if own != channels:
        raise InputError(
            f"`--weights` must be of a network for images with {own} channels, as the data have; the network "
            f"of {weights} takes {channels}: give other weights, or --config.data.channels={channels} where "
            "the images may be converted."
        )
