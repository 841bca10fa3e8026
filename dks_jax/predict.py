"""Classifies image files: the five likeliest classes of each, by the main classifier.

    python -m dks_jax.predict --weights PATH [--json] IMAGE...

An IMAGE is a file, or a folder whose images are all taken. They are prepared as the weights say.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from dks_jax import compilation, data
from dks_jax.command_line import Parser, run
from dks_jax.data import folder
from dks_jax.data.images import StoredSplit
from dks_jax.data.preparation import Preparation
from dks_jax.data.views import View
from dks_jax.errors import InputError
from dks_jax.evaluation_metrics import log_softmax, require_finite_logits
from dks_jax.evaluation_report import describe_preprocessing
from dks_jax.imagenet_classes import display_name
from dks_jax.steps import Devices, Forward
from dks_jax.supervision import DeeplySupervised
from dks_jax.tables import markdown_table
from dks_jax.weights import load_network

BATCH_SIZE = 32
MOST_LIKELY = 5


class Prediction(NamedTuple):
    """One class that an image may be of.

    class_name: None where the weights have no names.
    """

    label: int
    class_name: str | None
    probability: float


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status: 0, 2 where the input is wrong, 130 after Ctrl-C."""
    return run(lambda: _predict(parse(sys.argv[1:] if argv is None else argv)))


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Reads a command line.

    Raises:
      InputError: a flag is wrong.
    """
    layout = argparse.RawDescriptionHelpFormatter
    parser = Parser(
        "python -m dks_jax.predict", description=__doc__, formatter_class=layout, allow_abbrev=False
    )
    parser.add_weights()
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image file, or folder of image files")
    return parser.parse_args(argv)


def _predict(arguments: argparse.Namespace) -> None:
    compilation.keep_programs()
    paths = find_images(arguments.images)
    network, metadata = load_network(arguments.weights)
    predictions = predict(network, metadata, paths)
    print(describe(metadata["preprocessing"]), file=sys.stderr)
    print(as_json(paths, predictions) if arguments.json else as_table(paths, predictions), flush=True)


def find_images(names: Sequence[str]) -> list[Path]:
    """The files that are named, and those of the folders that are, at any depth and in sorted order.

    In folders images are recognised by extension; hidden files and what lies in hidden folders are left out.

    Raises:
      InputError: a file is absent, or a folder holds no image.
    """
    paths: list[Path] = []
    for name in names:
        path = Path(name).expanduser()
        if path.is_dir():
            paths += folder.find_images(path)
        elif path.is_file():
            paths.append(path)
        else:
            raise InputError(f"IMAGE must be an image file or a folder of them; there is no {path}.")
    return paths


def predict(
    network: DeeplySupervised, metadata: Mapping[str, Any], paths: Sequence[Path]
) -> list[list[Prediction]]:
    """For each image the likeliest classes, the likeliest first: five, or as many as there are.

    Args:
      network, metadata: as `load_network` gives them.

    Raises:
      InputError: an image cannot be read, or a logit is not finite.
    """
    preprocessing = metadata["preprocessing"]
    devices = Devices(batches_per_call=1)
    preparation = Preparation(tuple(preprocessing["mean"]), tuple(preprocessing["std"]))
    split = _unlabelled(paths, preprocessing)
    feed = data.held_out_feed(split, preparation, batch_size=BATCH_SIZE, devices=devices)
    forward = Forward(network.drop_branches(), devices)
    class_names = metadata["class_names"]

    def prediction(label: int, probability: float) -> Prediction:
        return Prediction(label, display_name(class_names[label]) if class_names else None, probability)

    predictions: list[list[Prediction]] = []
    with tqdm(total=len(paths), unit="image", dynamic_ncols=True, disable=None) as bar:
        for output in forward.batches(feed):
            size, seen = len(output.labels), len(predictions)
            require_finite_logits(output.logits, range(seen, seen + size), split.name)
            (logits,) = output.logits
            likeliest = np.argsort(-logits, axis=-1, kind="stable")[:, :MOST_LIKELY]
            probabilities = np.take_along_axis(np.exp(log_softmax(logits)), likeliest, axis=-1)
            for labels, own in zip(likeliest.tolist(), probabilities.tolist(), strict=True):
                predictions.append(list(map(prediction, labels, own)))
            bar.update(size)
    return predictions


def describe(preprocessing: Mapping[str, Any]) -> str:
    """How the images are prepared, by the metadata of the weights, in one line."""
    shape = [preprocessing[side] for side in ("height", "width", "channels")]
    line = describe_preprocessing(preprocessing["name"], shape, preprocessing["mean"], preprocessing["std"])
    return f"{line} (assumed: the PyTorch checkpoint does not say)" if preprocessing.get("assumed") else line


def as_table(paths: Sequence[Path], predictions: Sequence[Sequence[Prediction]]) -> str:
    """A Markdown table with a row for each image and class; the image is named in its first row."""
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
    """A list of {"image", "predictions": [{"label", "class", "probability"}]}; the class may be null."""
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


def _unlabelled(paths: Sequence[Path], preprocessing: Mapping[str, Any]) -> StoredSplit:
    """The images as a split, the label of each 0."""
    view = View(preprocessing["height"], preprocessing["channels"], preprocessing["name"])

    def read(index: int, rng: np.random.Generator | None = None) -> tuple[np.ndarray, int]:
        return folder.decode(paths[index], view, rng), 0

    return StoredSplit(
        num_examples=len(paths),
        image_shape=view.shape,
        checksum=0,
        read=read,
        name=lambda index: str(paths[index]),
    )


if __name__ == "__main__":
    sys.exit(main())
