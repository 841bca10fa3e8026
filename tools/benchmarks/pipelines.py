"""Images per second of the input pipelines, and what a training step waits for its input.

cifar: random images of CIFAR's size in memory, cropped, mirrored and normalised. decoding: JPEG files, for
training (random resized crop, mirrored) and for evaluation. Both beside a DataLoader of PyTorch with as many
processes as there are threads here; what both sides give is compared before. steps: a wide ResNet 16-1 on
images of CIFAR's size that are in memory or streamed, beside the same network on one batch over and over.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import waiting
from benchmarks.measuring import OURS, measure_rounds, num_cores, ratio, require_positive, spread
from dks_jax.data import folder
from dks_jax.data.feed import Batch, Epochs, Feed
from dks_jax.data.images import Split, StoredSplit
from dks_jax.data.preparation import Preparation
from dks_jax.data.resident import TrainingFeed
from dks_jax.data.streamed import StreamedEvaluationFeed, StreamedTrainingFeed
from dks_jax.data.views import View, random_box
from dks_jax.errors import InputError
from dks_jax.steps import Devices
from dks_jax.tables import markdown_table

HELP = "the input pipelines, and what a step waits for them"
PYTORCH, RELEASED = "PyTorch", "PyTorch as released"
# As in configs/cifar100_wrn.py and in configs/imagenet_resnet50.py.
CIFAR_MEAN = 125.3 / 255, 123.0 / 255, 113.9 / 255
CIFAR_STD = 63.0 / 255, 62.1 / 255, 66.7 / 255
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TRAINING = View(224, preprocessing="standard", random_resized_crop=True)
EVALUATION = View(224, preprocessing="dks")
# Of files that are made where none are given: the commonest size in ImageNet.
WIDTH, HEIGHT = 500, 375
NUM_MADE = 64
NUM_COMPARED = 8
NOTES = """\
cifar: from uint8 images in memory to normalised batches. dks_jax: on the device, in one compiled program.
PyTorch: every image on its own, as a tensor; as released: by way of Pillow, as torchvision's transforms are.
decoding: from JPEG files to normalised batches, pixel for pixel the same. dks_jax: decoded in threads to
uint8 and normalised on the device. PyTorch: in as many processes, which have started before.
ratio: to the faster PyTorch; above 1 where dks_jax is faster."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the subcommand."""
    parser.add_argument(
        "--images", type=Path, metavar="FOLDER", help="photographs at any depth; default: made for this"
    )
    parser.add_argument("--num_cifar", type=int, default=50_000, metavar="N", help="images of CIFAR's size")
    parser.add_argument(
        "--num_decoded", type=int, default=512, metavar="N", help="files decoded in a measurement, repeated"
    )
    parser.add_argument("--batch_size", type=int, default=128, metavar="N", help="images in a batch")
    parser.add_argument(
        "--workers",
        type=int,
        default=num_cores(),
        metavar="N",
        help="threads, or processes in PyTorch; default one per core",
    )
    parser.add_argument("--steps", type=int, default=10, metavar="N", help="of training in a measurement")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="of measurements that count")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Images per second of the pipelines on both sides; seconds of a step with each kind of input.

    Raises:
      InputError: an option is wrong, PyTorch is not installed, an image cannot be read, or the sides differ.
    """
    kept = ("num_cifar", "num_decoded", "batch_size", "workers", "steps", "rounds")
    require_positive(options, kept)
    for name in ("num_cifar", "num_decoded"):
        if getattr(options, name) < options.batch_size:
            raise InputError(
                f"`--{name}` must fill a batch, {options.batch_size} images or more; got "
                f"{getattr(options, name)}."
            )
    if options.images is not None:
        options.images = options.images.expanduser()
        if not options.images.is_dir():
            raise InputError(f"`--images` must name a folder; there is no {options.images}.")
    if not find_spec("torch"):
        raise InputError("The benchmark needs PyTorch: pip install torch.")

    with tempfile.TemporaryDirectory() as made:
        if options.images is None:
            write_jpegs(Path(made))
        files = folder.find_images(options.images or Path(made))
        paths = [files[i % len(files)] for i in range(options.num_decoded)]
        measurements = {"cifar": _cifar(options)} | _decoding(options, paths)
        times = measure_rounds(measurements, options.rounds)
        steps = waiting.measure(
            files,
            batch_size=options.batch_size,
            num_threads=options.workers,
            steps=options.steps,
            rounds=options.rounds,
        )
    batch_size = options.batch_size
    counts = dict.fromkeys(times, options.num_decoded) | {"cifar": options.num_cifar}
    rates = {
        row: {
            name: [counts[row] // batch_size * batch_size / seconds for seconds in own]
            for name, own in by_name.items()
        }
        for row, by_name in times.items()
    }
    return {
        "options": {name: getattr(options, name) for name in kept},
        "num_files": len(files),
        "made": options.images is None,
        "images_per_second": rates,
        "steps": steps,
    }


def write_jpegs(where: Path) -> None:
    """Some files with as much in them as photographs have: rectangles, and noise of a small amplitude."""
    from PIL import Image

    random = np.random.default_rng(0)
    for i in range(NUM_MADE):
        pixels = np.full((HEIGHT, WIDTH, 3), random.integers(256, size=3), np.int16)
        for _ in range(40):
            (top, bottom), (left, right) = (np.sort(random.integers(n, size=2)) for n in (HEIGHT, WIDTH))
            pixels[top:bottom, left:right] = random.integers(256, size=3)
        noise = random.normal(0, 12, pixels.shape)
        image = Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))
        image.save(where / f"{i}.jpg", quality=90)


def _cifar(options: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    from benchmarks import torch_input

    random = np.random.default_rng(0)
    images = random.integers(0, 256, (options.num_cifar, 32, 32, 3), np.uint8)
    split = Split(images, random.integers(0, 100, options.num_cifar, np.int32))
    preparation = Preparation(CIFAR_MEAN, CIFAR_STD, padding=4, pad_mode="reflect", flip=True)
    epochs = Epochs(options.num_cifar, options.batch_size, drop_last=True, seed=0)
    feed = TrainingFeed(split, preparation, epochs, Devices(batches_per_call=1))
    order = epochs.order(0)
    sides = {PYTORCH: torch_input.Crops, RELEASED: torch_input.ReleasedCrops}
    datasets = {name: make(images, split.labels, CIFAR_MEAN, CIFAR_STD) for name, make in sides.items()}
    for dataset in datasets.values():
        for index, own in zip(order[:NUM_COMPARED], _images(next(batches(feed))), strict=False):
            require_one_of(own, every_crop(dataset, int(index)), "An image of CIFAR's size")
    # Full batches alone, as here.
    full = order[: epochs.num_full * epochs.batch_size].tolist()
    loaders = {
        name: torch_input.make_loader(
            dataset, full, batch_size=options.batch_size, num_workers=options.workers
        )
        for name, dataset in datasets.items()
    }
    theirs = {name: partial(torch_input.run, loader) for name, loader in loaders.items()}
    return {OURS: partial(work_off, feed)} | theirs


def every_crop(dataset: Any, index: int) -> Iterator[np.ndarray]:
    """All that PyTorch may make of an image in training."""
    for top in range(9):
        for left in range(9):
            for mirrored in (False, True):
                yield dataset.crop(index, top, left, mirrored).numpy()


def _decoding(options: argparse.Namespace, paths: Sequence[Path]) -> dict[str, dict[str, Callable[[], Any]]]:
    from benchmarks import torch_input

    devices = Devices(batches_per_call=1)
    size, threads = options.batch_size, options.workers
    epochs = Epochs(len(paths), size, drop_last=True, seed=0)
    order = epochs.order(0).tolist()
    boxes = [_box(path, epochs.generator(0, index)) for index, path in enumerate(paths)]
    mirrored, unmirrored = (Preparation(IMAGENET_MEAN, IMAGENET_STD, flip=flip) for flip in (True, False))
    split = stored(paths, TRAINING)
    full = epochs.num_full * size
    held_out = StreamedEvaluationFeed(
        stored(paths[:full], EVALUATION), unmirrored, batch_size=size, devices=devices, num_threads=threads
    )
    feeds = {
        "decoding, training": StreamedTrainingFeed(split, mirrored, epochs, devices, threads),
        "decoding, evaluation": held_out,
    }
    datasets = {
        "decoding, training": torch_input.Files(paths, boxes, IMAGENET_MEAN, IMAGENET_STD),
        "decoding, evaluation": torch_input.Files(paths, None, IMAGENET_MEAN, IMAGENET_STD),
    }
    orders = {"decoding, training": order[:full], "decoding, evaluation": list(range(full))}

    compared = {
        "decoding, training": StreamedTrainingFeed(split, unmirrored, epochs, devices, threads),
        "decoding, evaluation": held_out,
    }
    for name, feed in compared.items():
        dataset = datasets[name]
        for index, own in zip(orders[name][:NUM_COMPARED], _images(next(batches(feed))), strict=False):
            theirs = [dataset.view(index, mirrored=False).numpy()]
            require_one_of(own, theirs, f"{paths[index]} ({name})")

    measurements = {}
    for name, feed in feeds.items():
        loader = torch_input.make_loader(
            datasets[name], orders[name], batch_size=size, num_workers=options.workers
        )
        measurements[name] = {OURS: partial(work_off, feed), PYTORCH: partial(torch_input.run, loader)}
    return measurements


def _box(path: Path, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """The part of an image that training sees, drawn as `View.of` draws it."""
    from PIL import Image

    with Image.open(path) as image:
        return random_box(*image.size, rng)


def stored(paths: Sequence[Path], view: View) -> StoredSplit:
    """Image files without labels."""

    def read(index: int, rng: np.random.Generator | None = None) -> tuple[np.ndarray, int]:
        return folder.decode(paths[index], view, rng), 0

    return StoredSplit(len(paths), view.shape, 0, read)


@cache
def _compiled(feed: Feed) -> Callable[[Any, int, int], Batch]:
    """`feed.batch`, compiled as it is within a training step."""
    return jax.jit(feed.batch, static_argnums=2, compiler_options=Devices().compiler_options)


def batches(feed: Feed) -> Iterator[Batch]:
    """The normalised batches of an epoch, each computed before the next one is begun."""
    prepare = _compiled(feed)
    for chunk in feed.chunks(0):
        yield jax.block_until_ready(prepare(chunk.arrays, chunk.first, chunk.batch_size))


def work_off(feed: Feed) -> None:
    """Makes all batches of an epoch."""
    for _ in batches(feed):
        pass


def _images(batch: Batch) -> np.ndarray:
    """[image, channel, height, width], as PyTorch has them."""
    return np.asarray(batch.images).transpose(0, 3, 1, 2)


def require_one_of(own: np.ndarray, candidates: Iterator[np.ndarray] | list[np.ndarray], name: str) -> None:
    """Raises InputError where our image is none of PyTorch's, to the bit."""
    if not any(np.array_equal(own, theirs) for theirs in candidates):
        raise InputError(
            f"{name} is not the same in dks_jax and in PyTorch: how fast they are cannot be compared."
        )


def show(result: Mapping[str, Any]) -> str:
    """The tables of `measure`, and what their rows include."""
    options, rates = result["options"], result["images_per_second"]
    kind = "made files" if result["made"] else "photographs"
    setting = (
        f"{options['num_cifar']} images of CIFAR's size, {options['num_decoded']} JPEG files "
        f"({result['num_files']} {kind}), batches of {options['batch_size']}, {options['workers']} workers, "
        f"{options['rounds']} rounds; median (range)"
    )
    names = (OURS, PYTORCH, RELEASED)
    rows = [[row, *(spread(own.get(name)) for name in names), ratio(own)] for row, own in rates.items()]
    table = markdown_table([["images/s", *names, "ratio"], *rows])
    return f"\n{setting}\n\n{table}\n\n{NOTES}\n\n{waiting.show(result['steps'])}"
