"""Checks a config and builds its data, network, objective, optimizer and compiled steps."""

import copy
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from dks_jax import data, models
from dks_jax.config import AUTO, Config, resolve
from dks_jax.data import Feed, ImageData
from dks_jax.models import Preprocessing
from dks_jax.nn import Arrays, count_macs, get_params
from dks_jax.nn.precision import DTYPES
from dks_jax.runtime import output
from dks_jax.runtime.devices import Devices
from dks_jax.runtime.errors import InputError
from dks_jax.supervision import Attached, BranchSpec, DeeplySupervised, distances_from_head
from dks_jax.synergy import objective, teaching_matrix
from dks_jax.training import mixing, optimizers, schedules, training_loss
from dks_jax.training.branch_warmup import resolve_branch_warmup
from dks_jax.training.steps import Steps
from dks_jax.training.teachers import Teachers, load_teachers
from dks_jax.weights import Metadata, adopt_progress, adopt_weights, find_start, find_weights, load_weights

# From so many devices on the log names what batch normalisation over all of them costs.
MANY_DEVICES = 8


class Experiment(NamedTuple):
    """Everything that the training loop needs.

    Attributes:
      config: the config, with the fields that it leaves open as they were found.
      images: data set.
      steps: compiled steps, bound to the feeds of the images.
      schedule: learning rate as a function of the step.
      metadata: description of the weights that the run will write.
      first_epoch: number of epochs behind `init_weights` if training continues from there, else 0.
      momentum: momentum of the optimizer in that case, else None.
      teachers: frozen teachers; None without.
      description: lines about the experiment, for the start of the log.
    """

    config: Config
    images: ImageData
    steps: Steps
    schedule: schedules.Schedule
    metadata: Metadata
    first_epoch: int
    momentum: Arrays | None
    teachers: Teachers | None
    description: list[str]


def prepare(config: Config, *, resumed: bool, skip_unreadable: bool = False) -> Experiment:
    """Loads the data and builds the network, the objective, the optimizer and the compiled steps.

    Args:
      config: the config, which is not changed.
      resumed: whether the weights come from a checkpoint, in which case `config.init_weights` is ignored.
      skip_unreadable: whether the next image takes the place of one that cannot be decoded.

    Raises:
      InputError: a field of the config is wrong, or the data are absent or damaged.
    """
    # All checks that do not need the data come before the data are downloaded or decoded.
    config = copy.deepcopy(config)
    data.check(config.data)
    optimizers.check(config.optimizer, config.epochs)
    branches = models.resolve_branches(config.model, resolve(config).branches)
    teaching_matrix(resolve(config).teaches, len(branches) + 1, len(config.synergy.teachers))
    if config.init_optimizer and not config.init_weights:
        raise InputError("`init_optimizer` must be False where `init_weights` is empty; got True.")
    if config.init_optimizer and config.optimizer.name != "sgd":
        raise InputError(
            f"`init_optimizer` must be False where `optimizer.name` is {config.optimizer.name}, since the "
            "momentum of sgd alone is taken over; got True."
        )
    init_weights = None
    if config.init_weights and not resumed:
        init_weights = find_start(Path(config.init_weights), optimizer=config.init_optimizer)
    weights = None
    if init_weights:
        weights = load_weights(init_weights, live=config.init_optimizer, model=config.model.name)
    for path in config.synergy.teachers:
        find_weights(Path(path))
    config = resolve_branch_warmup(config, weights.metadata.branches if weights else None)
    devices = Devices(deterministic=config.deterministic)
    if config.norm_statistics == AUTO:
        config.norm_statistics = "two_pass" if devices.on_cpu else "one_pass"
    trained = weights.metadata.preprocessing if weights else None
    config.data = data.resolve(config.data, training=True, channels=trained.channels if trained else 0)
    images = data.load(config.data, skip=output.say if skip_unreadable else None)
    remarks = _find_statistics(config.data, images, trained)
    feeds = data.make_feeds(
        config.data,
        images,
        seed=config.seed,
        norm_groups=config.norm_groups,
        dtype=DTYPES[config.precision],
        devices=devices,
    )
    network = build_network(
        config, num_classes=len(images.class_names), channels=images.train.image_shape[-1]
    )
    description = _describe(config, images, network, branches, feeds[0].steps_per_epoch) + remarks
    first_epoch, momentum = 0, None
    if init_weights and weights:
        description += [*weights.remarks]
        description += adopt_weights(network, weights, init_weights, images.class_names)
        if config.init_optimizer:
            momentum, first_epoch = adopt_progress(network, weights, init_weights, images.class_names)
            if first_epoch >= config.epochs:
                raise InputError(
                    f"`epochs` must be above {first_epoch}, the epochs that {init_weights} was trained for; "
                    f"got {config.epochs}."
                )
            description.append(f"going on with their momentum after {first_epoch} epochs")
    teachers, remarks = load_teachers(config.synergy.teachers, config.data, images)
    description += remarks
    steps, schedule = build_steps(
        config, network, *feeds, devices=devices, num_classes=len(images.class_names), teachers=teachers
    )
    metadata = _metadata(config, images, branches)
    return Experiment(config, images, steps, schedule, metadata, first_epoch, momentum, teachers, description)


def _find_statistics(fields: Config, images: ImageData, trained: Preprocessing | None) -> list[str]:
    """Sets mean and deviation where `config.data` leaves them open, and says what they are."""
    if fields.mean:
        return []
    if trained and trained.channels == images.train.image_shape[-1]:
        (mean, std), source = (trained.mean, trained.std), "those of the weights"
    else:
        (mean, std), source = data.measure(images.train), "measured on the training images"
    fields.update(mean=mean, std=std)
    return [f"mean {mean} and deviation {std}, {source}"]


def build_network(config: Config, *, num_classes: int, channels: int) -> DeeplySupervised:
    """The network that a config describes, with initial weights.

    Args:
      config: the config.
      num_classes: number of logits of every classifier.
      channels: number of channels of the images.

    Raises:
      InputError: a field of `config.model` is wrong.
    """
    network = models.build(
        config.model,
        num_classes=num_classes,
        channels=channels,
        branches=resolve(config).branches,
        norm_groups=config.norm_groups,
        seed=config.seed,
    )
    network.detach = config.synergy.detach
    return network


def build_steps(
    config: Config,
    network: DeeplySupervised | Attached,
    train_feed: Feed,
    test_feed: Feed | None = None,
    *,
    devices: Devices,
    num_classes: int = 0,
    teachers: Teachers | None = None,
) -> tuple[Steps, schedules.Schedule]:
    """The compiled steps of a network and the schedule of the learning rate, as a config describes them.

    Args:
      config: the config, of which the sections `data` and `model` are not used.
      network: network of the config, or one of your own. With `config.synergy.detach` its branches are
        detached from now on.
      train_feed, test_feed, devices: see `Steps`.
      num_classes: number of classes of the labels, where a section `mixing` that mixes needs it.
      teachers: frozen teachers, as many as `config.synergy.teachers` names.

    Raises:
      InputError: a field of `config.synergy` is wrong or does not fit the classifiers of the network.
    """
    decays = config.optimizer.layer_decay != 1
    distances = distances_from_head(network, get_params(network)) if decays else None
    optimizer, schedule = optimizers.from_config(
        config.optimizer, config.epochs, train_feed.steps_per_epoch, distances
    )
    config = resolve_branch_warmup(config)
    synergy = config.synergy
    if synergy.detach:  # A network of one's own does not have it from `build_network`.
        network.detach = True
    count = len(network.names)
    teaches = teaching_matrix(resolve(config).teaches, count, len(config.synergy.teachers))
    if len(config.loss.classifier_weights) not in (0, len(network.names)):
        raise InputError(
            f"`loss.classifier_weights` must be () or hold a number for each of the {len(network.names)} "
            f"classifiers, {', '.join(network.names)}; got {config.loss.classifier_weights}."
        )
    loss = partial(
        objective,
        # Frozen teachers teach in training alone.
        teaches=teaches[:count],
        names=network.names,
        alpha=synergy.alpha,
        temperature=synergy.temperature,
        epsilon=synergy.epsilon,
    )
    steps = Steps(
        network,
        loss,
        optimizer,
        train_feed,
        test_feed,
        seed=config.seed,
        devices=devices,
        remat=config.remat,
        statistics=config.norm_statistics,
        mix=mixing.from_config(config.mixing, num_classes),
        teachers=teachers,
        ema_decay=config.ema_decay,
        loss_schedule=training_loss.schedule(config, teaches, train_feed.steps_per_epoch),
    )
    return steps, schedule


def _describe(
    config: Config,
    images: ImageData,
    network: DeeplySupervised,
    branches: tuple[BranchSpec, ...],
    steps_per_epoch: int,
) -> list[str]:
    """Lines about the network, its parameters and MACs, branches, data, steps, precision and devices."""
    backbone = network.drop_branches()
    network.eval()
    shapes = images.train.image_shape, images.test.image_shape
    trained_at, used_at = ("x".join(map(str, shape)) for shape in shapes)
    size = used_at if trained_at == used_at else f"{used_at}, in training {trained_at}"
    kept = "streamed" if config.data.streamed else "in memory"
    own = [str(tuple(branch)) for branch in branches]
    hold, rise = config.synergy.branch_warmup
    normalises_batches = jax.tree.leaves(nnx.state(network, nnx.BatchStat))
    exchanges = normalises_batches and jax.device_count() >= MANY_DEVICES and config.norm_groups == 1
    separate = (
        f"  batch normalisation exchanges messages between them in every layer; with "
        f"--config.norm_groups={jax.device_count()} each device normalises its own images"
    )
    warmup = f"  what branches teach deeper ones sets in after {hold} epochs and is whole {rise} later"
    sizes = [
        f"{_num_params(n):,} parameters, {_count_macs(n, shape) / 1e6:,.1f} million MACs per image"
        for n, shape in zip((network, backbone), shapes, strict=True)
    ]
    return [
        f"{models.describe(config.model)}, method {config.method}",
        f"  in training: {sizes[0]} (forward)",
        f"  in use: {sizes[1]}",
        f"branches (after, blocks, widths): {', '.join(own) or 'none'}; teaches: {resolve(config).teaches}",
        *([warmup] if branches and (hold or rise) else []),
        f"{config.data.source}: {images.train.num_examples:,} images in {config.data.train_split}, "
        f"{images.test.num_examples:,} held out in {config.data.held_out}",
        f"  {size}, {len(images.class_names)} classes, {kept}",
        *images.notes,
        *([f"  training labels: {_label_noise(config.data)}"] if images.relabel else []),
        f"{config.epochs} epochs of {steps_per_epoch} steps with {config.data.batch_size} images, "
        f"{config.precision}",
        f"  on {jax.device_count()} {jax.devices()[0].device_kind} device(s) of {jax.process_count()} "
        "process(es)",
        *([separate] if exchanges else []),
    ]


def _label_noise(fields: Config) -> str:
    if fields.labels_file:
        return f"those of {fields.labels_file} where it names the image"
    return f"{fields.label_noise:.0%} of the images have that of another class"


def _count_macs(network: DeeplySupervised, shape: tuple[int, int, int]) -> int:
    return count_macs(network, jax.ShapeDtypeStruct((1, *shape), jnp.float32))


def _num_params(network: DeeplySupervised) -> int:
    return sum(array.size for array in get_params(network).values())


def _metadata(config: Config, images: ImageData, branches: tuple[BranchSpec, ...]) -> Metadata:
    return Metadata(
        model={name: value for name, value in config.model.items() if name != "branches"},
        branches=branches,
        class_names=tuple(images.class_names),
        preprocessing=Preprocessing.of(config.data, images.test.image_shape),
    )
