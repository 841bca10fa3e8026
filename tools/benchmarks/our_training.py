"""The training step of dks_jax in a process of its own."""

from collections.abc import Mapping
from functools import cache, partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.stages import Lowered

from benchmarks.serving import Requests, peak_memory, serve
from dks_jax import configuration, models, optim
from dks_jax.configuration import Config
from dks_jax.data.feed import Chunk, Epochs
from dks_jax.data.images import Split
from dks_jax.data.preparation import Preparation
from dks_jax.data.resident import EvaluationFeed, TrainingFeed
from dks_jax.errors import InputError
from dks_jax.experiment import computing_dtype
from dks_jax.macs import count_macs
from dks_jax.steps import Devices, Forward, Steps, TrainState
from dks_jax.supervision import DeeplySupervised
from dks_jax.synergy import METHODS, objective

# So small that labels drawn at random cannot make the loss grow beyond all bounds.
LEARNING_RATE = 0.01


class Setting(NamedTuple):
    """What is trained.

    config: of the command line.
    classes: of the labels.
    classifiers: how many there are; None for those of the network.
    steps: of training in a measurement, each with a batch of its own.
    """

    config: Config
    classes: int
    classifiers: int | None
    steps: int

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        size = self.config.data.image_size
        return size, size, len(self.config.data.mean)

    @property
    def epochs(self) -> Epochs:
        """The batches, in an order of their own."""
        batch_size = self.config.data.batch_size
        return Epochs(self.steps * batch_size, batch_size, drop_last=True, seed=self.config.seed)


def load(options: Mapping[str, Any]) -> Setting:
    """The setting that the options describe: `config`, `overrides`, `classes`, `classifiers` and `steps`.

    Raises:
      InputError: the config is wrong.
    """
    learning_rate = {"optimizer.learning_rate": str(LEARNING_RATE)}
    config = configuration.load(options["config"], options["overrides"] | learning_rate)
    if config.method not in METHODS:
        raise InputError(f"`method` must be one of {', '.join(METHODS)}; got {config.method!r}.")
    models.check(config.model)
    optim.check(config.optimizer, config.epochs)
    return Setting(config, options["classes"], options["classifiers"], options["steps"])


def build_network(setting: Setting) -> DeeplySupervised:
    """The network with its own branches, or with some of them or further ones like them."""

    def build(seed: int) -> DeeplySupervised:
        config = setting.config
        return models.build(
            config.model,
            num_classes=setting.classes,
            channels=setting.image_shape[-1],
            branches=config.method != "baseline",
            norm_groups=config.norm_groups,
            seed=seed,
        )

    network = build(setting.config.seed)
    if setting.classifiers is None:
        return network
    branches = list(network.branches)
    while len(branches) < setting.classifiers - 1:
        branches += build(setting.config.seed + len(branches)).branches
    kept = sorted(branches[: setting.classifiers - 1], key=lambda branch: branch.after)
    return DeeplySupervised(network.stem, list(network.stages), network.head, kept)


def draw(setting: Setting) -> Split:
    """Images and labels drawn at random, as many as the steps take."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (setting.epochs.num_examples, *setting.image_shape), np.uint8)
    return Split(images, random.integers(0, setting.classes, len(images), np.int32))


def build(options: Mapping[str, Any]) -> Requests:
    """What can be asked for; options as of `load`, and `matrix`, the side of a matrix.

    The matrix is multiplied as often as there are steps.
    """
    setting = load(options)
    config = setting.config
    dtype = computing_dtype(config.precision)
    batch_size = config.data.batch_size
    devices = Devices()
    steps, state, feed, arrays = prepare(setting, devices)
    per_call = min(setting.steps, devices.batches_per_call)

    def losses(count: int) -> list[float]:
        nonlocal state
        measured = []
        for first in range(0, count, per_call):
            chunk = Chunk(arrays, first, min(per_call, count - first), batch_size)
            state, history = steps.train(state, feed, chunk)
            measured += [float(loss) for loss in history["loss"]]
        if len(measured) < count or not np.isfinite(measured).all():
            raise InputError(f"the loss is not finite after {len(measured)} steps.")
        return measured

    def first_losses() -> list[float]:
        count = min(2, setting.steps)
        if jax.default_backend() == "cpu" or dtype != jnp.float32:
            return losses(count)
        # By default accelerators round the factors of a float32 product.
        with jax.default_matmul_precision("highest"):
            return losses(count)

    def train() -> None:
        losses(setting.steps)

    def flops() -> float:
        # Before XLA optimises it: afterwards some convolutions are calls of libraries, which it cannot count.
        return cast(dict[str, float], lower(steps, state, feed, arrays).cost_analysis())["flops"]

    def macs() -> int:
        network = build_network(setting)
        network.eval()
        return count_macs(network, jax.ShapeDtypeStruct((batch_size, *setting.image_shape), jnp.float32))

    # What training does not need comes to be when it is asked for.
    @cache
    def evaluation() -> tuple[Forward, EvaluationFeed]:
        single = Devices(batches_per_call=1)
        held_out = EvaluationFeed(draw(setting), feed.preparation, batch_size=batch_size, devices=single)
        return Forward(build_network(setting).drop_branches(), single), held_out

    def forward() -> None:
        compiled, held_out = evaluation()
        for _ in compiled.batches(held_out):
            pass

    @cache
    def matrix() -> jax.Array:
        return jax.random.normal(jax.random.key(0), (options["matrix"],) * 2, dtype)

    @jax.jit
    def multiply(a: jax.Array) -> jax.Array:
        return a @ a

    def product() -> None:
        jax.block_until_ready([multiply(matrix()) for _ in range(setting.steps)])

    return {
        "first losses": first_losses,
        "train": train,
        "forward": forward,
        "product": product,
        "peak memory": _peak_memory,
        "flops": flops,
        "macs": macs,
    }


def prepare(setting: Setting, devices: Devices) -> tuple[Steps, TrainState, TrainingFeed, Any]:
    """The compiled steps, the state before them, the feed and the arrays of its chunks."""
    config = setting.config
    dtype = computing_dtype(config.precision)
    # Not augmented, since the other side does not either.
    preparation = Preparation(tuple(config.data.mean), tuple(config.data.std), dtype=dtype)
    feed = TrainingFeed(draw(setting), preparation, setting.epochs, devices)
    steps = _steps(setting, devices)
    return steps, steps.initial_state(), feed, next(feed.chunks(0)).arrays


def lower(steps: Steps, state: TrainState, feed: TrainingFeed, arrays: Any) -> Lowered:
    """The training step before XLA has compiled it; all batches of a chunk in a loop, on accelerators."""
    return steps._train.lower(state, arrays, 0, 1, feed=feed, batch_size=feed.epochs.batch_size)


def _steps(setting: Setting, devices: Devices) -> Steps:
    config = setting.config
    network = build_network(setting)
    optimizer, _ = optim.from_config(config.optimizer, config.epochs, setting.steps)
    teaches = METHODS[config.method](len(network.names))
    loss = partial(objective, teaches=teaches, names=network.names, **config.synergy)
    return Steps(network, loss, optimizer, seed=config.seed, devices=devices)


def _peak_memory() -> int:
    """In bytes; of the device, or of this process where that is the CPU."""
    statistics = jax.devices()[0].memory_stats()
    return statistics["peak_bytes_in_use"] if statistics else peak_memory()


if __name__ == "__main__":
    serve(build, InputError)
