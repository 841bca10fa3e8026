"""Measures this library beside PyTorch, both on this machine and in the same run.

    python tools/benchmark.py evaluate --root FOLDER [--model resnet50] [--batch_size 32] [--workers N]
        [--rounds 5] [--images N] [--output FILE.json]

evaluate: images per second of the evaluation on image files, FOLDER/val/<class>/<image>, repeated as often
as --images takes, with the same random weights on both sides. The measurements alternate within each round;
of the rounds, after one to warm up, the table has the median and the range.
"""

import argparse
import contextlib
import json
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import agreement
import jax
import numpy as np
from tqdm import tqdm

from dks_jax import command_line, data, models
from dks_jax.data import folder
from dks_jax.data.images import StoredSplit
from dks_jax.data.preparation import Preparation
from dks_jax.data.streamed import StreamedEvaluationFeed
from dks_jax.data.views import View
from dks_jax.errors import InputError
from dks_jax.evaluation_metrics import Figures, Scores, figures, scores
from dks_jax.files import replacing, require_writable
from dks_jax.functional import get_arrays
from dks_jax.steps import Devices, Forward
from dks_jax.tables import markdown_table
from dks_jax.torch_names import RESNET, to_torch
from dks_jax.torch_weights import ASSUMED_PREPROCESSING

# Seconds of every round, by row and column of the table.
Times = dict[str, dict[str, list[float]]]
Measurements = Mapping[str, Mapping[str, Callable[[], Any]]]

PACKAGES = ("jax", "flax", "torch", "Pillow")
OURS = "dks_jax"
RESNETS = [name for name in models.MODELS if name.startswith("resnet")]
IMAGENET = ASSUMED_PREPROCESSING["resnet"]
NUM_CLASSES = 1000
# Load average from which on the figures are not to be trusted.
BUSY = 0.5
EVALUATION_NOTES = """\
decoding: from files to batches. dks_jax: in threads, uint8, moved to the device. PyTorch: a DataLoader, in as
many processes, which have started before; normalised float32, not moved.
network: from batches on the device to logits on the host. dks_jax: normalisation of uint8 included.
end to end: from files to top-1 and top-5 error and likelihood.
ratio: to the faster PyTorch; above 1 where dks_jax is faster."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status: 0, 2 where the input is wrong, 130 after Ctrl-C."""
    return command_line.run(lambda: _benchmark(sys.argv[1:] if argv is None else argv))


def _benchmark(argv: Sequence[str]) -> None:
    arguments = parse(argv)
    # That of others, since the work here is yet to begin.
    load_average = os.getloadavg()[0]
    result = arguments.measure(arguments) | describe_run(argv, load_average)
    print(f"{arguments.show(result)}\n\n{show_run(result)}")
    if arguments.output:
        with replacing(arguments.output) as partial_file:
            partial_file.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """What a command line asks for; `measure` and `show` are the functions of its subcommand.

    Raises:
      InputError: an argument is wrong.
    """
    layout = argparse.RawDescriptionHelpFormatter
    parser = command_line.Parser(
        "python tools/benchmark.py", description=__doc__, formatter_class=layout, allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    command = commands.add_parser("evaluate", help="the evaluation on image files", allow_abbrev=False)
    command.set_defaults(measure=measure_evaluation, show=show_evaluation)
    command.add_argument(
        "--root", type=Path, required=True, metavar="FOLDER", help="holds val/<class>/<image>"
    )
    command.add_argument(
        "--model", choices=RESNETS, default="resnet50", metavar="NAME", help="resnet18 to 152"
    )
    command.add_argument("--batch_size", type=int, default=32, metavar="N", help="images in a batch")
    command.add_argument(
        "--workers",
        type=int,
        default=num_cores(),
        metavar="N",
        help="threads, or processes in PyTorch, that decode; default one per core",
    )
    command.add_argument("--rounds", type=int, default=5, metavar="N", help="of measurements that count")
    command.add_argument(
        "--images", type=int, metavar="N", help="in a measurement; default two batches for each worker"
    )
    command.add_argument("--output", type=Path, metavar="FILE.json", help="where to write everything as JSON")
    arguments = parser.parse_args(argv)
    if arguments.images is None:
        arguments.images = 2 * arguments.batch_size * arguments.workers
    for name in ("batch_size", "workers", "rounds", "images"):
        if getattr(arguments, name) < 1:
            raise InputError(f"`--{name}` must be 1 or more; got {getattr(arguments, name)}.")
    # The last batch of an evaluation is filled up, which is nothing in 50,000 images and much in 100.
    if arguments.images % arguments.batch_size:
        raise InputError(
            f"`--images` must be a multiple of `--batch_size`, {arguments.batch_size}; got "
            f"{arguments.images}."
        )
    # A worker of a DataLoader decodes whole batches.
    if arguments.images < arguments.batch_size * arguments.workers:
        raise InputError(
            f"`--images` must fill a batch for each of the {arguments.workers} workers, "
            f"{arguments.batch_size * arguments.workers} images or more; got {arguments.images}."
        )
    arguments.root = arguments.root.expanduser()
    if not (arguments.root / "val").is_dir():
        raise InputError(
            "`--root` must name a folder that holds val/<class>/<image>; there is no "
            f"{arguments.root / 'val'}."
        )
    if arguments.output:
        arguments.output = arguments.output.expanduser()
        require_writable(arguments.output, "--output")
    return arguments


def measure_evaluation(arguments: argparse.Namespace) -> dict[str, Any]:
    """Images per second of decoding, of the network and of both; the agreement of the logits.

    Raises:
      InputError: PyTorch is not installed or uses another kind of device, an image cannot be read, or the
        logits of both sides differ.
    """
    if not find_spec("torch"):
        raise InputError("The benchmark needs PyTorch: pip install torch.")
    import torch
    import torch_evaluation

    devices = Devices(batches_per_call=1)
    platform_of_torch = {"cpu": "cpu", "cuda": "gpu"}[torch_evaluation.DEVICE.type]
    if (devices.count, jax.default_backend()) != (1, platform_of_torch):
        raise InputError(
            f"JAX and PyTorch must use one device of the same kind; JAX has {devices.count} "
            f"{jax.default_backend()} and PyTorch {platform_of_torch}: set JAX_PLATFORMS or "
            "CUDA_VISIBLE_DEVICES."
        )
    torch.set_num_threads(num_cores())
    torch.backends.cudnn.benchmark = True
    # In full float32, as here; by default PyTorch rounds the factors of a convolution to 10 bits on a GPU.
    torch.backends.cudnn.allow_tf32 = False

    network = models.build(
        {"name": arguments.model}, num_classes=NUM_CLASSES, channels=3, branches=False, seed=0
    )
    forward = Forward(network, devices)
    tensors = {name: torch.tensor(array) for name, array in to_torch(RESNET, get_arrays(network)).items()}
    theirs = {
        f"PyTorch {name}": torch_evaluation.Forward(tensors, name) for name in torch_evaluation.MEMORY_FORMATS
    }

    split = stored_images(arguments.root, arguments.images)
    preparation = Preparation(IMAGENET["mean"], IMAGENET["std"])
    batch_size = arguments.batch_size
    streamed = StreamedEvaluationFeed(
        split, preparation, batch_size=batch_size, devices=devices, num_threads=arguments.workers
    )
    resident = data.held_out_feed(split.in_memory(), preparation, batch_size=batch_size, devices=devices)
    root = arguments.root / "val"
    paths, labels = folder.list_images(root, folder.class_names(root))
    loader = torch_evaluation.make_loader(
        torch_evaluation.Images(paths, labels.tolist(), arguments.images, IMAGENET["mean"], IMAGENET["std"]),
        batch_size=batch_size,
        num_workers=arguments.workers,
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
    times = measure(measurements, arguments.rounds)
    rates = {
        row: {name: [arguments.images / seconds for seconds in own] for name, own in by_name.items()}
        for row, by_name in times.items()
    }
    options = {
        name: getattr(arguments, name) for name in ("model", "batch_size", "workers", "rounds", "images")
    }
    return {"options": options, "num_files": len(paths), "logits": logits, "images_per_second": rates}


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


def measure(measurements: Measurements, rounds: int) -> Times:
    """Seconds of every round; of each row one column after another, and a round before to warm up."""
    times: Times = {row: {name: [] for name in by_name} for row, by_name in measurements.items()}
    total = (1 + rounds) * sum(map(len, measurements.values()))
    with tqdm(total=total, unit="measurement", dynamic_ncols=True, disable=None) as bar:
        for _ in range(1 + rounds):
            for row, by_name in measurements.items():
                for name, run in by_name.items():
                    bar.set_description(f"{row}, {name}")
                    begin = time.perf_counter()
                    run()
                    times[row][name].append(time.perf_counter() - begin)
                    bar.update()
    return {row: {name: seconds[1:] for name, seconds in by_name.items()} for row, by_name in times.items()}


def show_logits(logits: Mapping[str, Mapping[str, float]]) -> str:
    """A line on the logits of each PyTorch."""
    return "\n".join(
        f"logits: {OURS} and {name} differ by at most {found['largest_difference']:.2e}, the largest is "
        f"{found['largest_logit']:.4g}"
        for name, found in logits.items()
    )


def show_evaluation(result: Mapping[str, Any]) -> str:
    """The table of `measure_evaluation`, and what its rows include."""
    options, rates = result["options"], result["images_per_second"]
    setting = (
        f"{options['model']}, float32, {options['images']} images of {result['num_files']} files, batches of "
        f"{options['batch_size']}, {options['workers']} workers, {options['rounds']} rounds"
    )
    names = list(rates["network"])
    header = ["images/s", *names, "ratio"]
    rows = [[row, *(spread(own.get(name)) for name in names), ratio(own)] for row, own in rates.items()]
    return f"\n{setting}; median (range)\n\n{markdown_table([header, *rows])}\n\n{EVALUATION_NOTES}"


def spread(rates: Sequence[float] | None) -> str:
    """Median and range, a dash where nothing was measured."""
    return f"{statistics.median(rates):.1f} ({min(rates):.1f}-{max(rates):.1f})" if rates else "-"


def ratio(rates: Mapping[str, Sequence[float]]) -> str:
    """Our median rate over that of the fastest other column."""
    medians = {name: statistics.median(own) for name, own in rates.items()}
    return f"{medians.pop(OURS) / max(medians.values()):.2f}"


def describe_run(argv: Iterable[str], load_average: float) -> dict[str, Any]:
    """Machine, versions, date, load of the machine by others, and command."""
    return {
        "cpu": cpu_model(),
        "cores": num_cores(),
        "device": jax.devices()[0].device_kind,
        "versions": {name: metadata.version(name) for name in PACKAGES},
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "load_average_before": load_average,
        "command": shlex.join(["python", "tools/benchmark.py", *argv]),
    }


def show_run(run: Mapping[str, Any]) -> str:
    """What `describe_run` has found, in two lines; a third warns of load."""
    load = run["load_average_before"]
    # With one busy neighbour on two cores PyTorch's ResNet-50 fell from 13.8 to 3.8 images/s: after every
    # operation its threads wait for the slowest.
    busy = "\nwarning: others used the cores, which slows PyTorch's threads down most" if load > BUSY else ""
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    return (
        f"{run['cpu']}, {run['cores']} cores, device {run['device']}; "
        f"{versions}; {run['date']}; load average before "
        f"{load:.2f}\n{run['command']}{busy}"
    )


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def cpu_model() -> str:
    """The processor's name as Linux has it, else what Python knows."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    sys.exit(main())
