"""Images per second of the evaluation on image files, FOLDER/val/<class>/<image>.

The files are repeated as often as --images takes, and both sides have the same random weights.
"""

import argparse
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import agreement
import jax
import numpy as np

from benchmarks.measuring import (
    OURS,
    measure_rounds,
    num_cores,
    ratio,
    require_positive,
    require_same_device,
    spread,
)
from dks_jax import data, models
from dks_jax.data import folder
from dks_jax.data.images import StoredSplit
from dks_jax.data.preparation import Preparation
from dks_jax.data.streamed import StreamedEvaluationFeed
from dks_jax.data.views import View
from dks_jax.errors import InputError
from dks_jax.evaluation_metrics import Figures, Scores, figures, scores
from dks_jax.functional import get_arrays
from dks_jax.steps import Devices, Forward
from dks_jax.tables import markdown_table
from dks_jax.torch_names import RESNET, to_torch
from dks_jax.torch_weights import ASSUMED_PREPROCESSING

HELP = "the evaluation on image files"
RESNETS = [name for name in models.MODELS if name.startswith("resnet")]
IMAGENET = ASSUMED_PREPROCESSING["resnet"]
NUM_CLASSES = 1000
NOTES = """\
decoding: from files to batches. dks_jax: in threads, uint8, moved to the device. PyTorch: a DataLoader, in as
many processes, which have started before; normalised float32, not moved.
network: from batches on the device to logits on the host. dks_jax: normalisation of uint8 included.
end to end: from files to top-1 and top-5 error and likelihood.
ratio: to the faster PyTorch; above 1 where dks_jax is faster."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the subcommand."""
    parser.add_argument(
        "--root", type=Path, required=True, metavar="FOLDER", help="holds val/<class>/<image>"
    )
    parser.add_argument(
        "--model", choices=RESNETS, default="resnet50", metavar="NAME", help="resnet18 to 152"
    )
    parser.add_argument("--batch_size", type=int, default=32, metavar="N", help="images in a batch")
    parser.add_argument(
        "--workers",
        type=int,
        default=num_cores(),
        metavar="N",
        help="threads, or processes in PyTorch, that decode; default one per core",
    )
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="of measurements that count")
    parser.add_argument(
        "--images", type=int, metavar="N", help="in a measurement; default two batches for each worker"
    )


def _check(options: argparse.Namespace) -> None:
    """Fills in what was left out. Raises InputError for an option that is wrong."""
    if options.images is None:
        options.images = 2 * options.batch_size * options.workers
    require_positive(options, ("batch_size", "workers", "rounds", "images"))
    # The last batch of an evaluation is filled up, which is nothing in 50,000 images and much in 100.
    if options.images % options.batch_size:
        raise InputError(
            f"`--images` must be a multiple of `--batch_size`, {options.batch_size}; got {options.images}."
        )
    # A worker of a DataLoader decodes whole batches.
    if options.images < options.batch_size * options.workers:
        raise InputError(
            f"`--images` must fill a batch for each of the {options.workers} workers, "
            f"{options.batch_size * options.workers} images or more; got {options.images}."
        )
    options.root = options.root.expanduser()
    if not (options.root / "val").is_dir():
        raise InputError(
            f"`--root` must name a folder that holds val/<class>/<image>; there is no {options.root / 'val'}."
        )


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Images per second of decoding, of the network and of both; the agreement of the logits.

    Raises:
      InputError: an option is wrong, PyTorch is not installed or uses another kind of device, an image cannot
        be read, or the logits of both sides differ.
    """
    _check(options)
    if not find_spec("torch"):
        raise InputError("The benchmark needs PyTorch: pip install torch.")
    import torch

    from benchmarks import torch_evaluation

    require_same_device(torch_evaluation.DEVICE.type)
    devices = Devices(batches_per_call=1)
    torch.set_num_threads(num_cores())
    torch.backends.cudnn.benchmark = True
    # In full float32, as here; by default PyTorch rounds the factors of a convolution to 10 bits on a GPU.
    torch.backends.cudnn.allow_tf32 = False

    network = models.build(
        {"name": options.model}, num_classes=NUM_CLASSES, channels=3, branches=False, seed=0
    )
    forward = Forward(network, devices)
    tensors = {name: torch.tensor(array) for name, array in to_torch(RESNET, get_arrays(network)).items()}
    theirs = {
        f"PyTorch {name}": torch_evaluation.Forward(tensors, name) for name in torch_evaluation.MEMORY_FORMATS
    }

    split = stored_images(options.root, options.images)
    preparation = Preparation(IMAGENET["mean"], IMAGENET["std"])
    batch_size = options.batch_size
    streamed = StreamedEvaluationFeed(
        split, preparation, batch_size=batch_size, devices=devices, num_threads=options.workers
    )
    resident = data.held_out_feed(split.in_memory(), preparation, batch_size=batch_size, devices=devices)
    root = options.root / "val"
    paths, labels = folder.list_images(root, folder.class_names(root))
    loader = torch_evaluation.make_loader(
        torch_evaluation.Images(paths, labels.tolist(), options.images, IMAGENET["mean"], IMAGENET["std"]),
        batch_size=batch_size,
        num_workers=options.workers,
    )

    batches = [images for images, _ in loader]
    own = np.concatenate([output.logits[-1] for output in forward.batches(resident)])
    logits = {name: agreement.compare(own, their.logits(batches)) for name, their in theirs.items()}
    print(show_logits(logits), flush=True)
    for name, found in logits.items():
        agreement.require(found, name, "how fast they are cannot be compared")

    measurements: dict[str, dict[str, Callable[[], Any]]] = {
        "decoding": {
            OURS: lambda: jax.block_until_ready([chunk.arrays for chunk in streamed.chunks(0)]),
            **{name: partial(list, loader) for name in list(theirs)[:1]},
        },
        "network": {OURS: lambda: list(forward.batches(resident))},
        "end to end": {OURS: lambda: evaluate(forward, streamed)},
    }
    for name, their in theirs.items():
        placed = [their.place(images) for images in batches]
        measurements["network"][name] = partial(their.logits, placed)
        measurements["end to end"][name] = partial(their.evaluate, loader)
    times = measure_rounds(measurements, options.rounds)
    rates = {
        row: {name: [options.images / seconds for seconds in own] for name, own in by_name.items()}
        for row, by_name in times.items()
    }
    kept = {name: getattr(options, name) for name in ("model", "batch_size", "workers", "rounds", "images")}
    return {"options": kept, "num_files": len(paths), "logits": logits, "images_per_second": rates}


def stored_images(root: Path, num_examples: int) -> StoredSplit:
    """The held-out images as they are evaluated, repeated up to a number."""
    split = folder.load_held_out(str(root), View(IMAGENET["height"], preprocessing=IMAGENET["name"])).split
    assert isinstance(split, StoredSplit)

    def read(index: int, rng: np.random.Generator | None = None) -> tuple[np.ndarray, int]:
        return split.read(index % split.num_examples, rng)

    return split._replace(num_examples=num_examples, read=read)


def evaluate(forward: Forward, feed: StreamedEvaluationFeed) -> Figures:
    """The figures of the main classifier; what `dks_jax.evaluation.evaluate` does, but for compiling."""
    parts = [scores(output.logits[-1], output.labels) for output in forward.batches(feed)]
    return figures(Scores(*map(np.concatenate, zip(*parts, strict=True))))


def show_logits(logits: Mapping[str, Mapping[str, float]]) -> str:
    """A line on the logits of each PyTorch."""
    return "\n".join(
        f"logits: {OURS} and {name} differ by at most {found['largest_difference']:.2e}, the largest is "
        f"{found['largest_logit']:.4g}"
        for name, found in logits.items()
    )


def show(result: Mapping[str, Any]) -> str:
    """The table of `measure`, and what its rows include."""
    options, rates = result["options"], result["images_per_second"]
    setting = (
        f"{options['model']}, float32, {options['images']} images of {result['num_files']} files, batches of "
        f"{options['batch_size']}, {options['workers']} workers, {options['rounds']} rounds"
    )
    names = list(rates["network"])
    header = ["images/s", *names, "ratio"]
    rows = [[row, *(spread(own.get(name)) for name in names), ratio(own)] for row, own in rates.items()]
    return f"\n{setting}; median (range)\n\n{markdown_table([header, *rows])}\n\n{NOTES}"
