"""Images per second of the input pipelines, and what a training step waits for its input.

What both sides give is compared before. PyTorch's DataLoader has as many processes, which have started
before, as there are cores, and as many threads decode here.
cifar: random images of CIFAR's size, from uint8 in memory to batches that are cropped, mirrored and
normalised. dks_jax: on the device, in one compiled program. PyTorch: every image on its own, as a tensor; as
released: by way of Pillow, as torchvision's transforms do.
decoding: from the files FOLDER/val/<class>/<image> to normalised batches, for training (random resized crop,
mirrored) and for evaluation. dks_jax: decoded to uint8 and normalised on the device.
a step: of a wide ResNet 16-1 on images of CIFAR's size, timed from the moment the first batch is there. one
batch: normalised, on the device. in memory: cropped, mirrored and normalised in the step. streamed: from
files, by threads that share the cores with a step on the CPU. waits: share of the time without input.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from benchmarks import measuring, ours, torch_input
from benchmarks.measuring import OURS, InputError, add_count, measure_rounds
from dks_jax.runtime.cores import num_cores

ONE_BATCH = "one batch"
NUM_COMPARED = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", required=True, metavar="FOLDER", help="holds val/<class>/<image>")
    add_count(parser, "--cifar", 390, "batches of CIFAR's images in a measurement")
    add_count(parser, "--decoded", 4, "batches of decoded files in a measurement; files are repeated")
    add_count(parser, "--batch_size", 128, "images in a batch")
    add_count(parser, "--steps", 10, "steps of training in a measurement")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    size = options.batch_size
    cifar, imagenet = (str(ours.CONFIGS / name) for name in ("cifar100_wrn.py", "imagenet_resnet50.py"))
    in_files, small = (
        ours.IN_FILES | {"data.root": options.root},
        {"depth": 16, "width": 1, "batch_size": size},
    )
    setting = ours.load(cifar, small, {}, options.cifar)
    split = ours.draw(setting)
    images = split.images, split.labels.tolist(), *setting.statistics
    crops = {"PyTorch": torch_input.Crops(*images), "PyTorch as released": torch_input.ReleasedCrops(*images)}
    rows = {"cifar": _sides(ours.make_feeds(setting, split)[0], size, crops)}
    setting = ours.load(imagenet, {"batch_size": size}, in_files)
    split, paths, labels = ours.find_files(setting, options.decoded * size)
    training, evaluation = ours.make_feeds(setting, split)
    boxes = ours.training_boxes(training, paths)
    for name, feed, parts in (("training", training, boxes), ("evaluation", evaluation, None)):
        seen = torch_input.Files(paths, parts, labels, *setting.statistics)
        rows[f"decoding, {name}"] = _sides(feed, size, {"PyTorch": seen})
    seconds = measure_rounds(rows, options.rounds)

    setting, streamed = ours.load(cifar, small, {}, options.steps), ours.load(cifar, small, in_files)
    in_memory = ours.make_feeds(setting, ours.draw(setting))[0]
    decoded = ours.make_feeds(setting, ours.find_files(streamed, setting.num_images)[0])[0]
    feeds = {ONE_BATCH: ours.OneBatch(in_memory), "in memory": in_memory, "streamed": decoded}
    devices, waits = ours.Devices(batches_per_call=1), {name: [] for name in feeds}
    trainings = {name: ours.Training(setting, devices, feed) for name, feed in feeds.items()}
    steps = {name: partial(_step, training, waits[name]) for name, training in trainings.items()}
    return {
        "num_files": len(set(paths)),
        "num_images": dict.fromkeys(rows, options.decoded * size) | {"cifar": options.cifar * size},
        "seconds": seconds,
        "step_seconds": measure_rounds({"a step": steps}, options.rounds)["a step"],
        "waits": {name: shares[1:] for name, shares in waits.items()},
    }


def _sides(feed: Any, size: int, datasets: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """What makes all batches, by side. Raises InputError where the first images differ in one bit."""
    sides, order = {OURS: partial(ours.run, feed)}, ours.order(feed)
    own_images = np.asarray(next(ours.batches(feed)).images).transpose(0, 3, 1, 2)
    for name, dataset in datasets.items():
        for index, own in zip(order[:NUM_COMPARED], own_images, strict=False):
            if not any(np.array_equal(own, theirs.numpy()) for theirs in dataset.candidates(index)):
                raise InputError(
                    f"Image {index} differs between dks_jax and {name}, which cannot be compared."
                )
        loader = torch_input.make_loader(dataset, size, num_cores(), order)
        sides[name] = partial(torch_input.run, loader)
    return sides


def _step(training: ours.Training, waits: list[float]) -> float:
    """Seconds of a step over one pass, from the moment its first batch is there; adds the share it waits."""
    chunks = training.feed.chunks(0)
    chunk = next(chunks)
    waited, begin = 0.0, time.perf_counter()
    while chunk:
        training.train(chunk)
        end_of_step = time.perf_counter()
        chunk = next(chunks, None)
        waited += time.perf_counter() - end_of_step
    seconds = time.perf_counter() - begin
    waits.append(waited / seconds)
    return seconds / training.feed.steps_per_epoch


def show(result: dict[str, Any]) -> list[str]:
    counts, one_batch = result["num_images"], statistics.median(result["step_seconds"][ONE_BATCH])
    steps = [["a step", "ms", f"to {ONE_BATCH}", "waits"]]
    for name, own in result["step_seconds"].items():
        waits = f"{100 * statistics.median(result['waits'][name]):.1f} %"
        ratio = f"{statistics.median(own) / one_batch:.3f}"
        steps.append([name, measuring.spread(1e3 * seconds for seconds in own), ratio, waits])
    table = measuring.side_table("images/s", result["seconds"], lambda row, seconds: counts[row] / seconds)
    return [f"{result['num_files']} files", table, measuring.markdown_table(steps)]
