"""Prediction of the likeliest classes of image files, by the main classifier or with early exits."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from dks_jax import data
from dks_jax.data import Feed, Preparation, StoredSplit, View
from dks_jax.data.imagenet_classes import display_name
from dks_jax.data.images import UnreadableError, join_errors
from dks_jax.data.sources import folder
from dks_jax.inference.exits.rules import Rule
from dks_jax.inference.exits.staged import StagedNetwork
from dks_jax.inference.forward import Forward
from dks_jax.inference.metrics import log_softmax, require_finite_logits
from dks_jax.inference.report import describe_preprocessing
from dks_jax.models import Preprocessing
from dks_jax.reporting.tables import markdown_table
from dks_jax.runtime.devices import Devices
from dks_jax.runtime.errors import InputError
from dks_jax.supervision import DeeplySupervised
from dks_jax.weights import Metadata

BATCH_SIZE = 32
MOST_LIKELY = 5


class Prediction(NamedTuple):
    """One of the likeliest classes of an image.

    Attributes:
      label: index of the class.
      class_name: name of the class; None where the weights have no class names.
      probability: probability of the class, 0 to 1.
      classifier: name of the classifier at which the image left the network; None without early exits.
    """

    label: int
    class_name: str | None
    probability: float
    classifier: str | None = None


def find_images(names: Sequence[str], say: Callable[[str], None] = lambda _: None) -> list[Path]:
    """Lists the named image files, and the images of the named folders at any depth in sorted order.

    Hidden files and folders are left out.

    Args:
      say: takes a line about the other files in a folder.

    Raises:
      InputError: a file is absent, or a folder holds no images.
    """
    paths: list[Path] = []
    for name in names:
        path = Path(name).expanduser()
        if path.is_dir():
            found = folder.find_images(path)
            paths += found.images
            if others := found.others:
                first = others[0].relative_to(path)
                say(f"left out of {path}: {len(others):,} files that are not images, e.g. {first}")
        elif path.is_file():
            paths.append(path)
        else:
            raise InputError(f"`IMAGE` must be an image file or a folder of images; there is no {path}.")
    return paths


def predict(
    network: DeeplySupervised,
    metadata: Metadata,
    paths: Sequence[Path],
    *,
    rule: Rule | None = None,
    skip_unreadable: bool = False,
) -> list[list[Prediction]]:
    """Predicts the five likeliest classes of each image, or all of fewer, the likeliest first.

    Args:
      network, metadata: result of `load_network`.
      paths: the image files.
      rule: the rule by which images leave the network early, with the exits of its branches; None for
        predictions by the main classifier.
      skip_unreadable: whether images that cannot be decoded get an empty list of predictions.

    Raises:
      InputError: images cannot be decoded, of which the message counts all, or a logit is not finite.
    """
    devices = Devices(batches_per_call=1)
    preparation = Preparation(metadata.preprocessing.mean, metadata.preprocessing.std)
    unread: dict[int, UnreadableError] = {}
    split = _unlabelled(paths, metadata.view).blanking_unreadable(unread)
    feed = data.held_out_feed(split, preparation, batch_size=BATCH_SIZE, devices=devices)
    class_names = metadata.class_names

    def prediction(label: int, probability: float, classifier: str | None) -> Prediction:
        name = display_name(class_names[label]) if class_names else None
        return Prediction(label, name, probability, classifier)

    predictions: list[list[Prediction]] = []
    with tqdm(total=len(paths), unit="image", dynamic_ncols=True, disable=None) as bar:
        for logits, classifiers in _outputs(network, rule, feed, devices, bar.update):
            seen = len(predictions)
            require_finite_logits(logits[None], range(seen, seen + len(logits)), split.name)
            likeliest = np.argsort(-logits, axis=-1, kind="stable")[:, :MOST_LIKELY]
            probabilities = np.take_along_axis(np.exp(log_softmax(logits)), likeliest, axis=-1)
            for labels, own, classifier in zip(
                likeliest.tolist(), probabilities.tolist(), classifiers, strict=True
            ):
                predictions.append(list(map(prediction, labels, own, [classifier] * len(own))))
    if unread and not skip_unreadable:
        raise join_errors([unread[index] for index in sorted(unread)])
    return [[] if index in unread else own for index, own in enumerate(predictions)]


def _outputs(
    network: DeeplySupervised,
    rule: Rule | None,
    feed: Feed,
    devices: Devices,
    progress: Callable[[int], object],
) -> Iterator[tuple[np.ndarray, Sequence[str | None]]]:
    """Yields the logits [image, class] of consecutive images, and the classifiers at which they left."""
    if rule is None:
        for output in Forward(network.drop_branches(), feed, devices).batches():
            progress(len(output.labels))
            yield output.logits[0], [None] * len(output.labels)
    else:
        left = StagedNetwork(network, rule.exits, feed, devices).run(rule, progress)
        yield left.logits, [network.names[index] for index in left.classifier]


def describe(preprocessing: Preprocessing) -> str:
    """Describes the preprocessing of the images in one line."""
    line = describe_preprocessing(preprocessing)
    return f"{line} (assumed: the PyTorch checkpoint does not say)" if preprocessing.assumed else line


def as_table(paths: Sequence[Path], predictions: Sequence[Sequence[Prediction]]) -> str:
    """Formats predictions as a Markdown table; an image is named in the first of its rows.

    Images without predictions are left out. With early exits the last column is the classifier.
    """
    early = any(prediction.classifier for own in predictions for prediction in own)
    rows = [
        [
            str(path) if rank == 0 else "",
            str(prediction.label) if prediction.class_name is None else prediction.class_name,
            f"{100 * prediction.probability:.2f} %",
            *([prediction.classifier or ""] if early else []),
        ]
        for path, own in zip(paths, predictions, strict=True)
        for rank, prediction in enumerate(own)
    ]
    header = ["image", "class", "probability", *(["classifier"] if early else [])]
    return markdown_table([header, *rows])


def as_json(paths: Sequence[Path], predictions: Sequence[Sequence[Prediction]]) -> str:
    """Formats predictions as JSON: a list of {"image", "predictions": [{"label", "class", "probability"}]}.

    "class" is null where the weights have no class names. An image that was skipped has no predictions. With
    early exits an image has a "classifier" too, the name of that at which it left.
    """
    described = [
        {
            "image": str(path),
            "predictions": [
                {"label": p.label, "class": p.class_name, "probability": p.probability} for p in own
            ],
            **({"classifier": own[0].classifier} if own and own[0].classifier else {}),
        }
        for path, own in zip(paths, predictions, strict=True)
    ]
    return json.dumps(described, indent=2)


def _unlabelled(paths: Sequence[Path], view: View) -> StoredSplit:
    """The images as a split in which every label is 0."""

    def read(index: int, rng: np.random.Generator | None = None) -> tuple[np.ndarray, int]:
        return folder.decode(paths[index], view, rng), 0

    return StoredSplit(
        num_examples=len(paths),
        image_shape=view.shape,
        checksum=0,
        read=read,
        name=lambda index: str(paths[index]),
    )
