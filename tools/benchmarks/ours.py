"""Our side of the measurements: config, network, feeds and compiled steps of dks_jax.

As a program it is a training in a process of its own; see worker.py.
"""

import argparse
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.stages import Lowered
from PIL import Image

from benchmarks.measuring import InputError, add_count
from benchmarks.worker import MATRIX, Requests, peak_memory, serve
from dks_jax import data, models
from dks_jax.config import Config, flatten
from dks_jax.config.methods import BY_METHOD
from dks_jax.data import Batch, Chunk, Feed, ImageData, Split, StoredSplit
from dks_jax.data.augmentation import normalise
from dks_jax.data.preprocessing import random_box
from dks_jax.inference.forward import Forward
from dks_jax.inference.metrics import ExampleScores, Metrics, example_scores, metrics
from dks_jax.nn import count_macs, get_arrays
from dks_jax.nn.precision import DTYPES
from dks_jax.runtime.devices import Devices
from dks_jax.supervision import DeeplySupervised
from dks_jax.synergy import all_pairs, objective
from dks_jax.training import build_network as build_from_config
from dks_jax.training import build_steps, optimizers, schedules
from dks_jax.weights.torch_names import to_torch

# As a config sees them, and their paths and labels.
Files = tuple[StoredSplit, list[Path], list[int]]
CONFIGS = Path(__file__).parents[2] / "configs"
# What a training can be made larger or smaller by, and the fields of the config that hold the first four.
SIZES = ("depth", "width", "batch_size", "image_size", "classes", "classifiers", "devices")
FIELDS = ("model.depth", "model.width", "data.batch_size", "data.image_size")
# So small a learning rate that labels drawn at random cannot make the loss grow beyond all bounds.
FIXED = {"optimizer.learning_rate": "0.01", "data.drop_last": "True"}
NOT_AUGMENTED = {"data.padding": "0", "data.flip": "False"}
IN_FILES = {"data.source": "folder", "data.streamed": "True", "data.random_resized_crop": "True"}
# The last one runs the backbone alone.
PROGRAMS = ("train", "evaluate", "predict")
# Trains, and ends once the first step is finished.
FIRST_STEP = """\
import os, sys
from dks_jax import train
from dks_jax.training import Steps
step = Steps.train_async
Steps.train_async = lambda *arguments: (step(*arguments)[1](), os._exit(0))
sys.exit(train.main(sys.argv[1:]))
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that say what is trained, with the fields of the config that --config.FIELD=VALUE sets."""
    parser.add_argument("--config", required=True, metavar="FILE[:METHOD]", help="config file and method")
    parser.set_defaults(fields={})
    for name, field in zip(SIZES, FIELDS, strict=False):
        add_count(parser, f"--{name}", None, f"in place of {field} of the config")
    add_count(parser, "--classes", 100, "classes of the labels")


def given_sizes(options: argparse.Namespace) -> dict[str, int]:
    """The sizes that these flags have given."""
    return {name: size for name in SIZES if (size := getattr(options, name, None)) is not None}


class Setting(NamedTuple):
    """What is trained or evaluated, with so many steps in a measurement."""

    config: Config
    classes: int
    classifiers: int | None
    steps: int

    @property
    def num_images(self) -> int:
        """In a measurement."""
        return self.steps * self.config.data.batch_size

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        size = self.config.data.image_size
        return size, size, len(self.config.data.mean)

    @property
    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation by which images are normalised."""
        return tuple(self.config.data.mean), tuple(self.config.data.std)


def load(config: str, sizes: Mapping[str, int], fields: Mapping[str, str], steps: int = 1) -> Setting:
    """The setting of a config file with other sizes and fields. Raises InputError where that cannot be."""
    replaced = {field: str(sizes[name]) for name, field in zip(SIZES, FIELDS, strict=False) if name in sizes}
    loaded = models.load_config(config, FIXED | replaced | dict(fields))
    if loaded.method == "baseline" and "classifiers" in sizes:
        raise InputError("`classifiers` needs a method with branches; got 'baseline', which has none.")
    models.check(loaded.model)
    optimizers.check(loaded.optimizer, loaded.epochs)
    return Setting(loaded, sizes.get("classes", 100), sizes.get("classifiers"), steps)


def build_network(setting: Setting) -> DeeplySupervised:
    """The network with its own branches, or with some of them or further ones like them."""
    config = setting.config
    build = partial(build_from_config, num_classes=setting.classes, channels=setting.image_shape[-1])
    network = build(config)
    if setting.classifiers is None:
        return network
    branches, count = list(network.branches), setting.classifiers - 1
    while len(branches) < count:
        further = config.copy_and_resolve_references()
        further.seed = config.seed + len(branches)
        branches += build(further).branches
    kept = sorted(branches[:count], key=lambda branch: branch.after)
    return DeeplySupervised(network.stem, list(network.stages), network.head, kept)


def draw(setting: Setting) -> Split:
    """Images and labels drawn at random."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (setting.num_images, *setting.image_shape), np.uint8)
    return Split(images, random.integers(0, setting.classes, len(images), np.int32))


def make_feeds(setting: Setting, split: Split | StoredSplit, devices: Devices | None = None) -> Any:
    """The training feed and the held-out feed of the same images."""
    config = setting.config
    settings = {"seed": config.seed, "norm_groups": config.norm_groups}
    settings["dtype"] = DTYPES[config.precision]
    devices = devices or Devices(batches_per_call=1)
    return data.make_feeds(config.data, ImageData(split, split, ()), devices=devices, **settings)


class Training:
    """The compiled steps of a setting on a feed, by default of random images that lie on the devices."""

    def __init__(self, setting: Setting, devices: Devices, feed: Any = None):
        self.feed = feed or make_feeds(setting, draw(setting), devices)[0]
        network, config = build_network(setting), setting.config
        self._steps, _ = build_steps(config, network, self.feed, devices=devices, num_classes=setting.classes)
        self._state = self._steps.initial_state()
        self._arrays = next(self.feed.chunks(0)).arrays
        self._batch_size = config.data.batch_size
        self._per_call = min(setting.steps, devices.batches_per_call)

    def losses(self, count: int) -> list[float]:
        """Trains for so many steps. Raises InputError where a loss is not finite."""
        measured: list[float] = []
        for first in range(0, count, self._per_call):
            chunk = Chunk(self._arrays, first, min(self._per_call, count - first), self._batch_size)
            measured += self.train(chunk)
        if len(measured) < count or not np.isfinite(measured).all():
            raise InputError(f"the loss is not finite after {len(measured)} steps.")
        return measured

    def train(self, chunk: Chunk) -> list[float]:
        """Trains with the batches of a chunk; returns their losses."""
        self._state, history = self._steps.train(self._state, chunk)
        return [float(loss) for loss in history["loss"]]

    def lower(self) -> Lowered:
        """The step before XLA has compiled it; on accelerators a loop over the batches of a chunk."""
        return self._steps.lower(self._state, Chunk(self._arrays, 0, 1, self._batch_size))


class AbsentDevices(Devices):
    """Devices that hold nothing: a program can be compiled for them and not be run.

    `form` is that of the operations, in place of the one that suits the devices.
    """

    def __init__(self, devices: Sequence[Any], form: str | None = None) -> None:
        super().__init__(devices=devices)
        self.form = form or self.form

    def replicate(self, tree: Any) -> Any:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self.replicated), tree)


def lower(setting: Setting, devices: Sequence[Any], program: str, form: str | None = None) -> Lowered:
    """A program of PROGRAMS for devices that need not be there; for `form` see `AbsentDevices`."""
    absent = AbsentDevices(devices, form)
    if program == "train":
        return Training(setting, absent).lower()
    network = build_network(setting)
    if program == "predict":
        network = network.drop_branches()
    feed = make_feeds(setting, draw(setting), absent)[1]
    return Forward(network, feed, absent).lower(next(feed.chunks(0)))


def build(options: dict[str, Any]) -> Requests:
    """What train.py asks for; options as `load` takes them."""
    if count := options["sizes"].get("devices"):
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", count)
    setting = load(**options)
    training = Training(setting, Devices())

    def first_losses() -> list[float]:
        # By default accelerators round the factors of a float32 product.
        full = None if jax.default_backend() == "cpu" else "highest"
        with jax.default_matmul_precision(full):
            return training.losses(min(2, setting.steps))

    # What training does not need takes memory only once it is asked for.
    @cache
    def evaluation() -> Evaluation:
        return Evaluation(setting, draw(setting), build_network(setting).drop_branches())

    def forward() -> None:
        evaluation().logits()

    @cache
    def matrix() -> jax.Array:
        dtype = DTYPES[setting.config.precision]
        return jax.random.normal(jax.random.key(0), (MATRIX, MATRIX), dtype)

    def product() -> None:
        jax.block_until_ready([matrix() @ matrix() for _ in range(setting.steps)])

    def memory() -> int:
        of_device = jax.devices()[0].memory_stats()
        return of_device["peak_bytes_in_use"] if of_device else peak_memory()

    def arithmetic() -> dict[str, float]:
        network = build_network(setting)
        network.eval()
        images = jax.ShapeDtypeStruct((setting.config.data.batch_size, *setting.image_shape), jnp.float32)
        # Before XLA optimises it: afterwards some convolutions are calls of libraries, which it cannot count.
        by_xla: Any = training.lower().cost_analysis()
        return {"macs": count_macs(network, images), "flops": by_xla["flops"]}

    requests = {"first losses": first_losses, "train": partial(training.losses, setting.steps)}
    requests |= {"forward": forward, "product": product, "peak memory": memory, "arithmetic": arithmetic}
    return requests


def network_for_pytorch(setting: Setting, network: DeeplySupervised) -> dict[str, np.ndarray]:
    """Its arrays by PyTorch's names."""
    return to_torch(models.get_family(setting.config.model.name).torch[0], get_arrays(network))


def batches_for_pytorch(setting: Setting) -> dict[str, np.ndarray]:
    """Images [step, batch, channel, height, width] and labels, as ours are trained with."""
    split = draw(setting)
    indices = np.reshape(order(make_feeds(setting, split)[0]), (setting.steps, -1))
    images = np.asarray(normalise(jnp.asarray(split.images[indices]), *setting.statistics))
    return {"images": images.transpose(0, 1, 4, 2, 3), "labels": split.labels[indices]}


def options_for_pytorch(setting: Setting, original: Path | None) -> dict[str, Any]:
    """What torch_training.py needs to know. Raises InputError where it cannot train the same."""
    config, fields = setting.config, flatten(setting.config)
    required = {"synergy.alpha": 1, "synergy.temperature": 1, "synergy.epsilon": 1e-8, "norm_groups": 1}
    required |= {"model.dropout": 0, "optimizer.clip_norm": 0, "optimizer.decay_norm_and_bias": True}
    required |= {"optimizer.name": "sgd", "optimizer.nesterov": False, "optimizer.layer_decay": 1}
    required |= {"model.drop_path": 0, "model.head_dropout": 0, "ema_decay": 0}
    required |= {"model.branches": BY_METHOD, "synergy.teaches": BY_METHOD}
    named = models.get_family(config.model.name).torch[0].branches
    required |= {} if named else {"method": "baseline"}
    required |= {"method": "dks"} if original or config.method != "baseline" else {}
    required |= {"model.name": "wide_resnet", "data.image_size": 32} if original else {}
    for name, value in required.items():
        if fields.get(name, value) != value:
            raise InputError(f"`{name}` must be {value}, as on the other side; got {fields[name]}.")
    if original and not (original / "wrn_DKS" / "resnet.py").is_file():
        raise InputError(f"`--original` must hold wrn_DKS, as github.com/sundw2014/DKS does; got {original}.")
    schedule = schedules.from_config(config.optimizer, config.epochs, setting.steps)
    optimizer = {name: config.optimizer[name] for name in ("momentum", "weight_decay")}
    sizes = fields.get("model.depth"), fields.get("model.width"), setting.classes, False
    optimizer["lr"] = float(schedule(0))
    return {"optimizer": optimizer, "original": str(original), "network": sizes}


def loss_and_gradient(logits: np.ndarray, labels: np.ndarray) -> Callable[[], Any]:
    """A function that computes the loss of DKS and its gradient; it is compiled as a training step is."""
    teaches, placed = all_pairs(len(logits)), jax.device_put((logits, labels))
    both = jax.value_and_grad(lambda z, y: objective(z, y, teaches, epsilon=1e-8)[0])
    compiled = jax.jit(both, compiler_options=Devices().compiler_options)
    return lambda: jax.block_until_ready(compiled(*placed))


def find_files(setting: Setting, count: int) -> Files:
    """So many of the held-out files of a setting IN_FILES, over and over. Raises InputError for none."""
    held_out = data.load_held_out(data.resolve(setting.config.data, training=False))
    split, names = held_out.split, held_out.class_names
    assert isinstance(split, StoredSplit)

    def read(index: int, rng: np.random.Generator | None = None) -> tuple[np.ndarray, int]:
        return split.read(index % split.num_examples, rng)

    found = [Path(split.name(i % split.num_examples)) for i in range(count)]
    root = Path(setting.config.data.root).expanduser()
    labels = [names.index(path.parts[1]) for path in found]
    return split._replace(num_examples=count, read=read), [root / path for path in found], labels


def order(feed: Any) -> list[int]:
    """The examples of the first epoch; of a held-out split as they are."""
    return feed.epochs.order(0).tolist() if hasattr(feed, "epochs") else list(range(feed.num_examples))


def training_boxes(feed: Any, paths: Sequence[Path]) -> list[tuple[int, int, int, int]]:
    """Left, top, right and bottom of the part of each file that the first epoch sees."""
    boxes = []
    for index, path in enumerate(paths):
        with Image.open(path) as image:
            boxes.append(random_box(*image.size, feed.epochs.generator(0, index)))
    return boxes


@cache
def _compiled(feed: Feed) -> Callable[[Any, int, int], Batch]:
    """`feed.batch`, compiled as it is within a training step."""
    return jax.jit(feed.batch, static_argnums=2, compiler_options=Devices().compiler_options)


def batches(feed: Feed) -> Iterator[Batch]:
    """The normalised batches of an epoch, each computed before the next one is begun."""
    for chunk in feed.chunks(0):
        yield jax.block_until_ready(_compiled(feed)(chunk.arrays, chunk.first, chunk.batch_size))


def run(feed: Feed) -> None:
    """One pass over all normalised batches."""
    deque(batches(feed), maxlen=0)


class OneBatch:
    """A feed of the first batch of another one over and over."""

    def __init__(self, feed: Feed):
        self.num_examples, self.steps_per_epoch = feed.num_examples, feed.steps_per_epoch
        self._batch = next(batches(feed))

    def chunks(self, epoch: int, first: int = 0) -> Iterator[Chunk]:
        del epoch
        return (
            Chunk(self._batch, i, 1, len(self._batch.targets)) for i in range(first, self.steps_per_epoch)
        )

    def batch(self, arrays: Batch, index: jax.Array, batch_size: int) -> Batch:
        del index, batch_size
        return arrays


class Evaluation:
    """A network that is evaluated on images as they are, or all of them in memory."""

    def __init__(self, setting: Setting, split: Split | StoredSplit, network: DeeplySupervised):
        in_memory = split if isinstance(split, Split) else split.in_memory()
        self._num_classes = setting.classes
        self._files, feed = (make_feeds(setting, s)[1] for s in (split, in_memory))
        devices = Devices(batches_per_call=1)
        self._in_files, self._in_memory = (Forward(network, f, devices) for f in (self._files, feed))

    def logits(self) -> np.ndarray:
        """Those of the images in memory, [image, class]."""
        return np.concatenate([output.logits[-1] for output in self._in_memory.batches()])

    def metrics(self) -> Metrics:
        """Errors and likelihood, from files."""
        parts = [example_scores(o.logits[-1], o.labels) for o in self._in_files.batches()]
        scores = ExampleScores(*map(np.concatenate, zip(*parts, strict=True)))
        return metrics(scores, self._num_classes)

    def decode(self) -> None:
        """From files to batches on the device, not normalised."""
        jax.block_until_ready([chunk.arrays for chunk in self._files.chunks(0)])


if __name__ == "__main__":
    serve(build, InputError)
