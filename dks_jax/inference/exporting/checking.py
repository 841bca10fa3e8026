"""The check of an exported file: read back, it must compute what the network computes."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from dks_jax import data
from dks_jax.data import Preparation, Split, View, decoding
from dks_jax.data.augmentation import normalise
from dks_jax.data.preprocessing import UndecodableError
from dks_jax.inference.exporting.classifier import Exported
from dks_jax.inference.forward import Forward
from dks_jax.inference.metrics import log_softmax, require_finite_logits
from dks_jax.runtime.devices import Devices
from dks_jax.runtime.errors import InputError
from dks_jax.supervision import DeeplySupervised
from dks_jax.weights import Metadata

# Largest accepted difference relative to the largest output; rounding in float32 causes about 1e-6.
TOLERANCE = 1e-4
BATCH_SIZE = 32
RANDOM_IMAGES = 8


class Agreement(NamedTuple):
    """How well a file agrees with its network.

    Attributes:
      difference: largest difference between their outputs, relative to the largest output of the network.
      num_images: number of images.
      batches: the sizes of the batches in which the file was run.
    """

    difference: float
    num_images: int
    batches: tuple[int, ...]


def read_images(paths: Sequence[Path], view: View) -> np.ndarray:
    """Decodes images to uint8 [image, height, width, channel]; draws random ones if there are no paths.

    Args:
      paths: the image files.
      view: how a decoded image becomes the pixels that the network takes.

    Raises:
      InputError: an image cannot be decoded.
    """
    if not paths:
        return np.random.default_rng(0).integers(0, 256, (RANDOM_IMAGES, *view.shape), np.uint8)
    return np.stack([_decode(path, view) for path in paths])


def _decode(path: Path, view: View) -> np.ndarray:
    try:
        return decoding.decode(path, view)
    except UndecodableError as error:
        raise InputError(f"`--check` must name images that can be decoded; {path} {error}.") from error


def check(run: Callable[..., Any], exported: Exported, pixels: np.ndarray) -> Agreement:
    """Runs a file and its network on the same images, the first one alone and all of them in batches.

    Args:
      run: the function in the file, from images [batch, height, width, channel] to outputs [batch, class].
      exported: what the file was made from.
      pixels: uint8 [image, height, width, channel].

    Raises:
      InputError: the outputs differ by more than rounding, or those of the network are not finite.
    """
    if len(pixels) == 1:
        # A batch of one alone would not show that others work.
        pixels = np.repeat(pixels, 2, axis=0)
    (expected,) = logits(exported.network, exported.metadata, pixels)
    require_finite_logits(expected[None], range(len(pixels)), lambda index: f"image {index + 1}")
    if exported.output == "probabilities":
        expected = np.exp(log_softmax(expected))
    images = pixels
    if exported.input == "float":
        statistics = exported.metadata.preprocessing.mean, exported.metadata.preprocessing.std
        images = np.asarray(normalise(jnp.asarray(pixels), *statistics))
    batches = [images[:1], *(images[i : i + BATCH_SIZE] for i in range(0, len(images), BATCH_SIZE))]
    outputs = np.concatenate([np.asarray(run(batch)) for batch in batches])
    largest = float(np.abs(expected).max())
    difference = float(np.abs(outputs - np.concatenate([expected[:1], expected])).max()) / (largest or 1.0)
    # The comparison is negated so that NaN raises too.
    if not difference <= TOLERANCE:
        raise InputError(
            f"The file must compute what the network computes, up to {TOLERANCE:g} of the largest "
            f"{exported.output}; read back, it differs by {difference:.2e}: nothing was written; report it."
        )
    return Agreement(difference, len(pixels), tuple(sorted({len(batch) for batch in batches})))


def logits(network: DeeplySupervised, metadata: Metadata, pixels: np.ndarray) -> np.ndarray:
    """The logits [classifier, image, class] of a network, as prediction computes them."""
    preparation = Preparation(metadata.preprocessing.mean, metadata.preprocessing.std)
    devices = Devices(batches_per_call=1)
    split = Split(pixels, np.zeros(len(pixels), np.int32))
    feed = data.held_out_feed(split, preparation, batch_size=RANDOM_IMAGES, devices=devices)
    return np.concatenate([output.logits for output in Forward(network, feed, devices).batches()], axis=1)
