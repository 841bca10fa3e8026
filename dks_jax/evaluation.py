"""How well weights classify held-out images: one pass over them, every classifier of the weights."""

import copy
import time
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from dks_jax import data
from dks_jax.configuration import Config
from dks_jax.data.images import HeldOut, Split, StoredSplit, UnreadableError
from dks_jax.data.preparation import Preparation
from dks_jax.errors import InputError
from dks_jax.evaluation_metrics import Figures, Scores, figures, require_finite_logits, scores
from dks_jax.experiment import computing_dtype
from dks_jax.metrics import Stopwatch
from dks_jax.steps import Devices, Forward
from dks_jax.supervision import DeeplySupervised
from dks_jax.weights import load_network


class Setting(NamedTuple):
    """Weights and held-out images that fit each other.

    weights: the path that was given.
    """

    config: Config
    weights: str
    network: DeeplySupervised
    metadata: dict[str, Any]
    held_out: HeldOut


class Result(NamedTuple):
    """Of a pass over the held-out images.

    classifiers: by name, in depth order.
    num_examples: how many images count.
    skipped: names of those that could not be read.
    logits: float32 [classifier, example, class] in the order of the split; None where they were not kept.
    """

    classifiers: dict[str, Figures]
    num_examples: int
    skipped: list[str]
    logits: np.ndarray | None
    images_per_second: float

    @property
    def main(self) -> Figures:
        """The figures of the main classifier."""
        return self.classifiers["main"]


def prepare(config: Config, weights: str) -> Setting:
    """Loads weights and held-out images, and checks that they fit.

    Of the config only `data`, `precision` and `deterministic` matter: the network is the one that the weights
    describe.

    Raises:
      InputError: a field of the config is wrong, the weights or the images are absent or damaged, or the
        images have more classes or another number of channels than the weights.
    """
    computing_dtype(config.precision)
    config = copy.deepcopy(config)
    # What training images go through is no matter.
    config.data.update(train_per_class=0, padding=0, random_resized_crop=False, color_jitter=0.0)
    # Which images of a data set of tfds are of one class only reading tells.
    config.data.streamed = config.data.source == "folder" or (
        config.data.source == "tfds" and not config.data.test_per_class
    )
    data.check(config.data)
    network, metadata = load_network(weights)
    held_out = data.load_held_out(config.data)
    _require_fit(network, metadata, held_out, weights)
    return Setting(config, weights, network, metadata, held_out)


def evaluate(setting: Setting, *, skip_unreadable: bool = False, keep_logits: bool = False) -> Result:
    """One pass over the held-out images, each of which counts once.

    Args:
      skip_unreadable: whether to leave out images that cannot be decoded.
      keep_logits: whether the result holds them.

    Raises:
      InputError: an image cannot be read, or none where they are skipped; a logit is not finite.
    """
    fields, split = setting.config.data, setting.held_out.split
    skipped: dict[int, str] = {}
    if skip_unreadable and isinstance(split, StoredSplit):
        split = _skipping(split, skipped)
    devices = Devices(batches_per_call=1, deterministic=setting.config.deterministic)
    dtype = computing_dtype(setting.config.precision)
    preparation = Preparation(tuple(fields.mean), tuple(fields.std), dtype=dtype)
    feed = data.held_out_feed(split, preparation, batch_size=fields.batch_size, devices=devices)
    forward = Forward(setting.network, devices)
    parts: list[Scores] = []
    kept: list[np.ndarray] = []
    seen = 0
    watch = Stopwatch()
    begin = time.perf_counter()
    with tqdm(total=split.num_examples, unit="image", dynamic_ncols=True, disable=None) as bar:
        for output in forward.batches(feed):
            size = len(output.labels)
            readable = [i for i in range(size) if seen + i not in skipped]
            logits = output.logits[:, readable]
            require_finite_logits(logits, [seen + i for i in readable], partial(_name, split))
            parts.append(scores(logits, output.labels[readable]))
            if keep_logits:
                kept.append(logits)
            seen += size
            bar.update(size)
            end = time.perf_counter()
            watch.add(fields.batch_size, size, end - begin)
            begin = end
    if len(skipped) == split.num_examples:
        raise InputError(
            f"`--skip_unreadable` must leave some image; none can be decoded, {skipped[0]} being the "
            f"first of {len(skipped)}."
        )
    whole = Scores(*(np.concatenate(arrays, axis=1) for arrays in zip(*parts, strict=True)))
    of_each = [Scores(*own) for own in zip(*whole, strict=True)]
    return Result(
        classifiers=dict(zip(setting.network.names, map(figures, of_each), strict=True)),
        num_examples=whole.ranks.shape[1],
        skipped=[name for _, name in sorted(skipped.items())],
        logits=np.concatenate(kept, axis=1) if keep_logits else None,
        images_per_second=watch.images_per_second,
    )


def _skipping(split: StoredSplit, skipped: dict[int, str]) -> StoredSplit:
    """The split with a black image for each that cannot be decoded; `skipped` gets its index and name."""
    black = np.zeros(split.image_shape, np.uint8), 0

    def read(index: int, rng: np.random.Generator | None = None) -> tuple[np.ndarray, int]:
        try:
            return split.read(index, rng)
        except UnreadableError as error:
            skipped[index] = error.name
            return black

    return split._replace(read=read)


def _name(split: Split | StoredSplit, index: int) -> str:
    return split.name(index) if isinstance(split, StoredSplit) else f"held-out image {index}"


def _require_fit(
    network: DeeplySupervised, metadata: dict[str, Any], held_out: HeldOut, weights: str
) -> None:
    """Raises InputError where the network cannot take the images, or lacks classes of theirs."""
    shape, channels = held_out.split.image_shape, metadata["preprocessing"]["channels"]
    if shape[-1] != channels:
        raise InputError(
            "`--weights` must be of a network for as many channels as the images of the data have, "
            f"{shape[-1]}; {weights} takes {channels}."
        )
    logits = jax.eval_shape(network, jax.ShapeDtypeStruct((1, *shape), jnp.float32))
    if len(held_out.class_names) > logits.shape[-1]:
        raise InputError(
            f"`--weights` must know all {len(held_out.class_names)} classes of the data; {weights} has "
            f"{logits.shape[-1]}."
        )
