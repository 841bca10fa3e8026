"""Converts weights between PyTorch and this library, exactly and in both directions.

    python tools/convert_pytorch.py import [--model NAME] --torch FILE --weights DIR [--check [IMAGE ...]]
    python tools/convert_pytorch.py export --weights DIR --torch FILE [--drop_branches] [--check [IMAGE ...]]

Known are resnet18, 34, 50, 101 and 152 as torchvision names their layers, with or without the branches of
DHM, and wide_resnet as released with DKS, whose training checkpoint comes with branches and optimizer. FILE
is a .pth, .pt or .pt7, a state dict, bare or under `state_dict`, `model` or `params`, with or without
`module.`, or a .safetensors. The network is recognised by names and shapes. Nothing in a file is executed; a
file that does not fit is refused whole.

DIR can then be evaluated (python -m dks_jax.evaluate), used (python -m dks_jax.predict), trained further
(--config.init_weights=DIR) and exported. What is exported torchvision's own models load strictly.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import agreement
import jax.numpy as jnp
import numpy as np

from dks_jax import data, models, torch_files
from dks_jax.command_line import Parser, run
from dks_jax.data import folder
from dks_jax.data.augment import normalise
from dks_jax.data.images import Split
from dks_jax.data.preparation import Preparation
from dks_jax.data.views import View
from dks_jax.errors import InputError
from dks_jax.files import require_writable
from dks_jax.predict import find_images
from dks_jax.steps import Devices, Forward
from dks_jax.supervision import backbone_only
from dks_jax.tables import markdown_table
from dks_jax.torch_weights import read_checkpoint, state_dict, write_checkpoint
from dks_jax.weights import load_network, load_weights
from dks_jax.weights_folder import METADATA, Weights, save_weights

DIRECTIONS = ("import", "export")
BATCH = 8
RANDOM_IMAGES = 8


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status: 0, 2 where the input is wrong, 130 after Ctrl-C."""
    return run(lambda: _convert(parse(argv)))


def _convert(arguments: argparse.Namespace) -> None:
    convert = import_weights if arguments.direction == "import" else export_weights
    convert(arguments)
    if arguments.check is not None:
        check(arguments)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """What a command line asks for."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = Parser(
        "python tools/convert_pytorch.py", description=__doc__, formatter_class=layout, allow_abbrev=False
    )
    parser.add_argument("direction", choices=DIRECTIONS, help="from PyTorch or to it")
    parser.add_argument("--torch", type=Path, required=True, metavar="FILE", help="the PyTorch checkpoint")
    parser.add_argument("--weights", type=Path, required=True, metavar="DIR", help="the folder of weights")
    parser.add_argument(
        "--model", choices=models.MODELS, metavar="NAME", help="e.g. resnet50 or wide_resnet; import only"
    )
    parser.add_argument(
        "--drop_branches", action="store_true", help="leave the branches out, for torchvision; export only"
    )
    parser.add_argument(
        "--check",
        nargs="*",
        metavar="IMAGE",
        help="run these images, or random ones, through PyTorch and this library, and compare",
    )
    arguments = parser.parse_args(argv)
    other = "drop_branches" if arguments.direction == "import" else "model"
    if getattr(arguments, other):
        raise InputError(f"`--{other}` must not be given with {arguments.direction}.")
    if arguments.check:
        arguments.check = find_images(arguments.check)
    # Before anything is written.
    for path in arguments.check or ():
        folder.decode(path, View(32, 3, "squash"))
    arguments.torch, arguments.weights = arguments.torch.expanduser(), arguments.weights.expanduser()
    return arguments


def import_weights(arguments: argparse.Namespace) -> None:
    """Writes the folder of weights of a PyTorch checkpoint."""
    target = arguments.weights
    empty = target.is_dir() and not any(target.iterdir())
    if target.exists() and not empty and not (target / METADATA).exists():
        raise InputError(
            f"`--weights` must name a new folder, or one of weights to replace; {target} is neither."
        )
    weights = read_checkpoint(arguments.torch, arguments.model)
    target.parent.mkdir(parents=True, exist_ok=True)
    save_weights(target, weights)
    print(f"{describe(weights)}\nweights in {target}")


def export_weights(arguments: argparse.Namespace) -> None:
    """Writes the PyTorch checkpoint of a folder of weights."""
    file = arguments.torch
    require_writable(file, "--torch")
    weights = load_weights(arguments.weights)
    if arguments.drop_branches:
        weights = weights._replace(
            params=backbone_only(weights.params),
            batch_stats=backbone_only(weights.batch_stats),
            momentum=None,
        )
    write_checkpoint(file, weights)
    print(f"{describe(weights)}\nPyTorch checkpoint in {file}")


def check(arguments: argparse.Namespace) -> None:
    """Prints how far the logits of both files differ on the same images, and whether the top five agree.

    Both are read again from disk, the one by this library, the other by plain PyTorch.

    Raises:
      InputError: they differ.
    """
    import torch
    import torch_forward

    network, metadata = load_network(arguments.weights)
    if arguments.direction == "export" and arguments.drop_branches:
        network = network.drop_branches()
    content = torch_files.read(arguments.torch)
    tensors = {name: tensor.stored.float() for name, tensor in state_dict(content, arguments.torch).items()}
    preprocessing = metadata["preprocessing"]
    mean, std = tuple(preprocessing["mean"]), tuple(preprocessing["std"])
    pixels = read_images(arguments.check, preprocessing)
    devices = Devices(batches_per_call=1)
    split = Split(pixels, np.zeros(len(pixels), np.int32))
    feed = data.held_out_feed(split, Preparation(mean, std), batch_size=BATCH, devices=devices)
    ours = np.concatenate([output.logits for output in Forward(network, devices).batches(feed)], axis=1)
    images = torch.tensor(np.asarray(normalise(jnp.asarray(pixels), mean, std))).permute(0, 3, 1, 2)
    theirs = torch.cat([torch_forward.logits(tensors, batch) for batch in images.split(BATCH)], dim=1).numpy()
    print(table(network.names, ours, theirs))
    agreement.require(agreement.compare(ours, theirs), "PyTorch", "do not use the result, and report it")


def table(names: Sequence[str], ours: np.ndarray, theirs: np.ndarray) -> str:
    """A table of the differences of logits [classifier, image, class]."""
    rows = [["classifier", "images", "largest logit", "largest difference", "same top 5"]]
    for name, own, their in zip(names, ours, theirs, strict=True):
        best, their_best = (np.argsort(-x, axis=-1, kind="stable")[:, :5] for x in (own, their))
        same = np.all(best == their_best, axis=-1).sum()
        difference, largest = agreement.compare(own, their).values()
        rows.append([name, str(len(own)), f"{largest:.4g}", f"{difference:.2e}", f"{same} of {len(own)}"])
    return markdown_table(rows)


def read_images(paths: Sequence[Path], preprocessing: Mapping[str, Any]) -> np.ndarray:
    """Images, uint8 [image, height, width, channel]; random ones where there are no paths."""
    view = View(preprocessing["height"], preprocessing["channels"], preprocessing["name"])
    if paths:
        return np.stack([folder.decode(path, view) for path in paths])
    return np.random.default_rng(0).integers(0, 256, (RANDOM_IMAGES, *view.shape), np.uint8)


def describe(weights: Weights) -> str:
    """The network and its weights in one line."""
    metadata = weights.metadata
    size = sum(np.size(array) for array in weights.params.values())
    parts = [
        models.describe(metadata["model"]),
        f"{len(metadata['class_names'])} classes",
        f"{weights.num_branches} branches",
        f"{size:,} parameters",
    ]
    if weights.momentum is not None:
        parts.append("momentum")
    if metadata.get("epoch") is not None:
        parts.append(f"after {metadata['epoch']} epochs")
    return ", ".join(parts)


if __name__ == "__main__":
    sys.exit(main())
