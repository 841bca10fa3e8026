"""Converts weights between PyTorch and this library, exactly and in both directions.

    python tools/convert_pytorch.py import [--model NAME] [--entry NAME] [--classes TEXTFILE]
        --torch FILE --weights DIR [--check [IMAGE ...]]
    python tools/convert_pytorch.py export --weights DIR --torch FILE [--branches | --drop_branches]
        [--names LIBRARY] [--check [IMAGE ...]]

Supported are the networks of docs/pytorch.md, with the names of torchvision and timm, and of the codes
released with DKS, DHM and DCM. A training checkpoint of DKS includes branches and optimizer. FILE is a
.safetensors file, or one of torch.save with a state dict, either bare or as an entry of any name. Prefixes
that all names share, e.g. `module.`, are taken off. The network is recognised by the names and shapes of its
arrays. Nothing in a file is executed, and a file that does not fit in every array is refused.

Names of the classes, mean and deviation in FILE are used; --classes gives the names, one per line in the
order of the labels.

An export of a run contains the plain backbone, and with --branches its published branches too. An export of
imported weights contains all that was imported, or with --drop_branches only the backbone.

DIR can then be evaluated (python -m dks_jax.evaluate), used (python -m dks_jax.predict), trained further
(--config.init_weights=DIR) and exported. The library whose names it has loads an exported file strictly.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import agreement
import jax.numpy as jnp
import numpy as np

from dks_jax import models
from dks_jax.command_line import Parser, run
from dks_jax.data import View
from dks_jax.data.augmentation import normalise
from dks_jax.data.sources import folder
from dks_jax.inference.exporting.checking import logits, read_images
from dks_jax.inference.prediction import find_images
from dks_jax.reporting.tables import markdown_table
from dks_jax.runtime.errors import InputError, printable
from dks_jax.runtime.files import require_writable
from dks_jax.weights import (
    METADATA,
    Metadata,
    Weights,
    load_network,
    load_weights,
    read_checkpoint,
    require_head,
    save_weights,
    state_dicts,
    torch_files,
    write_checkpoint,
)

DIRECTIONS = ("import", "export")
BATCH = 8


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status: 0, 2 where the input is wrong, 130 after Ctrl-C."""
    return run(lambda: _convert(parse(argv)))


def _convert(arguments: argparse.Namespace) -> None:
    convert = import_weights if arguments.direction == "import" else export_weights
    convert(arguments)
    if arguments.check is not None:
        check(arguments)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses a command line; raises InputError if an argument is wrong."""
    parser = Parser("python tools/convert_pytorch.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("direction", choices=DIRECTIONS, help="from PyTorch or to it")
    parser.add_argument("--torch", type=Path, required=True, metavar="FILE", help="the PyTorch checkpoint")
    parser.add_argument("--weights", type=Path, required=True, metavar="DIR", help="the folder of weights")
    parser.add_argument(
        "--model", choices=models.NETWORKS, metavar="NAME", help="e.g. resnet50 or wide_resnet; import only"
    )
    parser.add_argument(
        "--entry",
        metavar="NAME",
        help="the entry of FILE that holds the state dict, if it has several; import only",
    )
    parser.add_argument(
        "--classes",
        type=Path,
        metavar="TEXTFILE",
        help="the names of the classes, one per line in the order of the labels; import only",
    )
    parser.add_argument(
        "--names",
        metavar="LIBRARY",
        help="whose names the tensors get, where several libraries have the network: e.g. timm; export only",
    )
    branches = parser.add_mutually_exclusive_group()
    branches.add_argument(
        "--branches", action="store_true", help="export the branches of a run too; export only"
    )
    branches.add_argument(
        "--drop_branches", action="store_true", help="leave the branches out, for torchvision; export only"
    )
    parser.add_argument(
        "--check",
        nargs="*",
        metavar="IMAGE",
        help="run these images, or random ones, through PyTorch and this library, and compare",
    )
    arguments = parser.parse_args(argv)
    foreign = {"import": ("branches", "drop_branches", "names"), "export": ("model", "entry", "classes")}
    for other in foreign[arguments.direction]:
        if getattr(arguments, other) not in (None, False):
            raise InputError(f"`--{other}` must not be given with {arguments.direction}.")
    if arguments.check:
        arguments.check = find_images(arguments.check)
    # An image that cannot be decoded is reported before anything is written.
    for path in arguments.check or ():
        folder.decode(path, View(32, 3, "squash"))
    arguments.torch, arguments.weights = arguments.torch.expanduser(), arguments.weights.expanduser()
    return arguments


def import_weights(arguments: argparse.Namespace) -> None:
    """Converts a PyTorch checkpoint to a folder of weights."""
    target = arguments.weights
    empty = target.is_dir() and not any(target.iterdir())
    if target.exists() and not empty and not (target / METADATA).exists():
        raise InputError(
            f"`--weights` must name a new folder, or a folder of weights to replace; {target} is neither."
        )
    weights = read_checkpoint(arguments.torch, arguments.model, arguments.entry)
    require_head(weights, arguments.torch)
    if arguments.classes:
        names = read_classes(arguments.classes, len(weights.metadata.class_names))
        weights = weights._replace(metadata=weights.metadata.replace(class_names=names))
    target.parent.mkdir(parents=True, exist_ok=True)
    save_weights(target, weights)
    print("\n".join([*weights.remarks, describe(weights), f"weights in {target}"]))


def read_classes(file: Path, count: int) -> tuple[str, ...]:
    """Reads the names of `count` classes, one per line in UTF-8; empty lines are passed over.

    Raises:
      InputError: the file is absent or no text, or does not hold as many different names.
    """
    try:
        lines = file.expanduser().read_text("utf-8-sig").split("\n")
    except FileNotFoundError as error:
        raise InputError(f"`--classes` must name a text file; {file} is absent.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"`--classes` must name a text file in UTF-8; {file} is none.") from error
    names = tuple(name for line in lines if (name := line.strip()))
    if len(names) != count:
        raise InputError(
            f"`--classes` must name a file with the {count} classes of the network, one per line; {file} has "
            f"{len(names)}."
        )
    if twins := [name for name in names if names.count(name) > 1]:
        raise InputError(f"The names in {file} must differ; {printable(twins[0])} is there more than once.")
    return names


def export_weights(arguments: argparse.Namespace) -> None:
    """Converts a folder of weights to a PyTorch checkpoint."""
    file = arguments.torch
    require_writable(file, "--torch")
    torch_files.require_ending(file)
    weights = load_weights(arguments.weights)
    if not _keeps_branches(arguments, weights.metadata):
        weights = weights.without_branches()
    write_checkpoint(file, weights, arguments.names)
    print(f"{describe(weights)}\nPyTorch checkpoint in {file}")


def _keeps_branches(arguments: argparse.Namespace, metadata: Metadata) -> bool:
    """Whether the branches of the weights, if they have any, are converted."""
    if arguments.direction == "import":
        return True
    return arguments.branches or (metadata.imported and not arguments.drop_branches)


def check(arguments: argparse.Namespace) -> None:
    """Prints how much the logits of both files differ on the same images, and whether the top five agree.

    Both files are read again from disk, one by this library and the other by plain PyTorch.

    Raises:
      InputError: the logits differ.
    """
    import torch
    import torch_forward

    network, metadata = load_network(arguments.weights)
    if not _keeps_branches(arguments, metadata):
        network = network.drop_branches()
    content = torch_files.read(arguments.torch)
    found = state_dicts.find(content, arguments.torch, arguments.entry, metadata.model["name"])
    tensors = {name: tensor.stored.float() for name, tensor in found.tensors.items()}
    mean, std = metadata.preprocessing.mean, metadata.preprocessing.std
    pixels = read_images(arguments.check, metadata.view)
    ours = logits(network, metadata, pixels)
    images = torch.tensor(np.asarray(normalise(jnp.asarray(pixels), mean, std))).permute(0, 3, 1, 2)
    theirs = torch.cat([torch_forward.logits(tensors, batch) for batch in images.split(BATCH)], dim=1).numpy()
    print(table(network.names, ours, theirs))
    agreement.require(agreement.compare(ours, theirs), "PyTorch", "do not use the result, and report it")


def table(names: Sequence[str], ours: np.ndarray, theirs: np.ndarray) -> str:
    """Formats the differences between logits [classifier, image, class] as a table."""
    rows = [["classifier", "images", "largest logit", "largest difference", "same top 5"]]
    for name, own, their in zip(names, ours, theirs, strict=True):
        best, their_best = (np.argsort(-x, axis=-1, kind="stable")[:, :5] for x in (own, their))
        same = np.all(best == their_best, axis=-1).sum()
        difference, largest = agreement.compare(own, their).values()
        rows.append([name, str(len(own)), f"{largest:.4g}", f"{difference:.2e}", f"{same} of {len(own)}"])
    return markdown_table(rows)


def describe(weights: Weights) -> str:
    """Describes weights and their network in one line."""
    metadata = weights.metadata
    size = sum(np.size(array) for array in weights.params.values())
    parts = [
        models.describe(metadata.model),
        f"{len(metadata.class_names)} classes",
        f"{len(metadata.branches)} branches",
        f"{size:,} parameters",
    ]
    if weights.momentum is not None:
        parts.append("momentum")
    if metadata.epoch is not None:
        parts.append(f"after {metadata.epoch} epochs")
    return ", ".join(parts)


if __name__ == "__main__":
    sys.exit(main())
