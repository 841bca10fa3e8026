"""All that a config describes: data, network, objective, optimizer and compiled steps, checked and built."""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from dks_jax import data, models, optim
from dks_jax.configuration import Config
from dks_jax.data.feed import Feed
from dks_jax.data.images import ImageData
from dks_jax.errors import InputError
from dks_jax.functional import Arrays, get_params
from dks_jax.macs import count_macs
from dks_jax.steps import Devices, Steps
from dks_jax.supervision import DeeplySupervised
from dks_jax.synergy import METHODS, objective
from dks_jax.weights import adopt_progress, adopt_weights, find_weights, load_weights

PRECISIONS = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


class Experiment(NamedTuple):
    """What the loop works with.

    first_epoch: whole epochs that `init_weights` have been trained for, where training goes on from there.
    momentum: of the optimizer then.
    description: lines about it, for the head of the log.
    """

    images: ImageData
    train_feed: Feed
    test_feed: Feed
    steps: Steps
    schedule: optim.Schedule
    first_epoch: int
    momentum: Arrays | None
    description: list[str]


def prepare(config: Config, *, resumed: bool) -> Experiment:
    """Loads the data and builds the network, the objective, the optimizer and the compiled steps.

    Args:
      resumed: whether the weights come from a checkpoint, so that `config.init_weights` is not looked at.

    Raises:
      InputError: a field of the config is wrong, or the data are absent or damaged.
    """
    if config.method not in METHODS:
        raise InputError(f"`method` must be one of {', '.join(METHODS)}; got {config.method!r}.")
    dtype = computing_dtype(config.precision)
    # Everything that can be checked without the data comes before they are downloaded or decoded.
    data.check(config.data)
    models.check(config.model)
    optim.check(config.optimizer, config.epochs)
    if config.init_optimizer and not config.init_weights:
        raise InputError("`init_optimizer` must be False where `init_weights` is empty; got True.")
    init_weights = find_weights(Path(config.init_weights)) if config.init_weights and not resumed else None
    devices = Devices(deterministic=config.deterministic)
    images = data.load(config.data)
    train_feed, test_feed = data.make_feeds(
        config.data,
        images,
        seed=config.seed,
        norm_groups=config.norm_groups,
        dtype=dtype,
        devices=devices,
    )
    optimizer, schedule = optim.from_config(config.optimizer, config.epochs, train_feed.steps_per_epoch)
    network = models.build(
        config.model,
        num_classes=len(images.class_names),
        channels=images.train.image_shape[-1],
        branches=config.method != "baseline",
        norm_groups=config.norm_groups,
        seed=config.seed,
    )
    description = _describe(config, images, network, train_feed.steps_per_epoch)
    first_epoch, momentum = 0, None
    if init_weights:
        weights = load_weights(init_weights)
        description += adopt_weights(network, weights, init_weights)
        if config.init_optimizer:
            momentum, first_epoch = adopt_progress(network, weights, init_weights)
            if first_epoch >= config.epochs:
                raise InputError(
                    f"`epochs` must be above {first_epoch}, for which {init_weights} has been trained; got "
                    f"{config.epochs}."
                )
            description.append(f"going on with their momentum after {first_epoch} epochs")
    teaches = METHODS[config.method](len(network.names))
    loss = partial(objective, teaches=teaches, names=network.names, **config.synergy)
    steps = Steps(network, loss, optimizer, seed=config.seed, devices=devices, remat=config.remat)
    return Experiment(images, train_feed, test_feed, steps, schedule, first_epoch, momentum, description)


def computing_dtype(precision: str) -> DTypeLike:
    """The type that the network computes in.

    Raises:
      InputError: there is no such `precision`.
    """
    if precision not in PRECISIONS:
        raise InputError(f"`precision` must be one of {', '.join(PRECISIONS)}; got {precision!r}.")
    return PRECISIONS[precision]


def _describe(
    config: Config, images: ImageData, network: DeeplySupervised, steps_per_epoch: int
) -> list[str]:
    """Model, parameters, arithmetic, data, steps, precision and devices, in a few lines."""
    backbone = network.drop_branches()
    network.eval()
    image = jax.ShapeDtypeStruct((1, *images.train.image_shape), jnp.float32)
    kept = "streamed" if config.data.streamed else "in memory"
    return [
        f"{models.describe(config.model)}, method {config.method}: in training "
        f"{_num_params(network):,} parameters and {count_macs(network, image) / 1e6:,.1f} million MACs per "
        f"image (forward); in use {_num_params(backbone):,} and {count_macs(backbone, image) / 1e6:,.1f} "
        "million",
        f"{config.data.source}: {images.train.num_examples:,} training and {images.test.num_examples:,} "
        f"held-out images of {'x'.join(map(str, images.train.image_shape))} in {len(images.class_names)} "
        f"classes, {kept}",
        f"{config.epochs} epochs of {steps_per_epoch} steps with {config.data.batch_size} images, "
        f"{config.precision}, on {jax.device_count()} {jax.devices()[0].device_kind} device(s) of "
        f"{jax.process_count()} process(es)",
    ]


def _num_params(network: DeeplySupervised) -> int:
    return sum(array.size for array in get_params(network).values())


def weights_metadata(config: Config, images: ImageData) -> dict[str, Any]:
    """What it takes to use the weights: model, class names and preprocessing."""
    height, width, channels = images.train.image_shape
    return {
        "model": dict(config.model),
        "class_names": images.class_names,
        "preprocessing": {
            "name": config.data.preprocessing,
            "height": height,
            "width": width,
            "channels": channels,
            "mean": config.data.mean,
            "std": config.data.std,
        },
    }
