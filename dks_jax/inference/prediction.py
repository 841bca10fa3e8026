"""Prediction of the likeliest classes of image files by the main classifier."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from dks_jax import data
from dks_jax.data import Preparation, StoredSplit, View
from dks_jax.data.imagenet_classes import display_name
from dks_jax.data.images import UnreadableError, join_errors
from dks_jax.data.sources import folder
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
    """

    label: int
    class_name: str | None
    probability: float


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
    network: DeeplySupervised, metadata: Metadata, paths: Sequence[Path], *, skip_unreadable: bool = False
) -> list[list[Prediction]]:
    """Predicts the five likeliest classes of each image, or all of fewer, the likeliest first.

    Args:
      network, metadata: result of `load_network`.
      paths: the image files.
      skip_unreadable: whether images that cannot be decoded get an empty list of predictions.

    Raises:
      InputError: images cannot be decoded, of which the message counts all, or a logit is not finite.
    """
    devices = Devices(batches_per_call=1)
    preparation = Preparation(metadata.preprocessing.mean, metadata.preprocessing.std)
    unread: dict[int, UnreadableError] = {}
    split = _unlabelled(paths, metadata.view).blanking_unreadable(unread)
    feed = data.held_out_feed(split, preparation, batch_size=BATCH_SIZE, devices=devices)
    forward = Forward(network.drop_branches(), feed, devices)
    class_names = metadata.class_names

    def prediction(label: int, probability: float) -> Prediction:
        return Prediction(label, display_name(class_names[label]) if class_names else None, probability)

    predictions: list[list[Prediction]] = []
    with tqdm(total=len(paths), unit="image", dynamic_ncols=True, disable=None) as bar:
        for output in forward.batches():
            size, seen = len(output.labels), len(predictions)
            require_finite_logits(output.logits, range(seen, seen + size), split.name)
            (logits,) = output.logits
            likeliest = np.argsort(-logits, axis=-1, kind="stable")[:, :MOST_LIKELY]
            probabilities = np.take_along_axis(np.exp(log_softmax(logits)), likeliest, axis=-1)
            for labels, own in zip(likeliest.tolist(), probabilities.tolist(), strict=True):
                predictions.append(list(map(prediction, labels, own)))
            bar.update(size)
    if unread and not skip_unreadable:
        raise join_errors([unread[index] for index in sorted(unread)])
    return [[] if index in unread else own for index, own in enumerate(predictions)]


def describe(preprocessing: Preprocessing) -> str:
    """Describes the preprocessing of the images in one line."""
    line = describe_preprocessing(preprocessing)
    return f"{line} (assumed: the PyTorch checkpoint does not say)" if preprocessing.assumed else line


def as_table(paths: Sequence[Path], predictions: Sequence[Sequence[Prediction]]) -> str:
    """Formats predictions as a Markdown table; an image is named in the first of its rows.

    Images without predictions are left out.
    """
    rows = [
        [
            str(path) if rank == 0 else "",
            str(prediction.label) if prediction.class_name is None else prediction.class_name,
            f"{100 * prediction.probability:.2f} %",
        ]
        for path, own in zip(paths, predictions, strict=True)
        for rank, prediction in enumerate(own)
    ]
    return markdown_table([["image", "class", "probability"], *rows])


def as_json(paths: Sequence[Path], predictions: Sequence[Sequence[Prediction]]) -> str:
    """Formats predictions as JSON: a list of {"image", "predictions": [{"label", "class", "probability"}]}.

    "class" is null where the weights have no class names. An image that was skipped has no predictions.
    """
    described = [
        {
            "image": str(path),
            "predictions": [
                {"label": p.label, "class": p.class_name, "probability": p.probability} for p in own
            ],
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
