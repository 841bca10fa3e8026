"""Frozen teachers: trained networks whose predictions for each training batch are taught to the classifiers.

They see the batch that the network in training sees, augmented and mixed, in their own normalisation and at
their own size, in evaluation mode. They have no gradient and no place in the state of a run. Beyer et al.,
"Knowledge distillation: A good teacher is patient and consistent", arXiv:2106.05237, show that teacher and
student should see the same augmented image.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dks_jax.config import Config
from dks_jax.data import ImageData, classes
from dks_jax.models import Preprocessing
from dks_jax.nn import Functional, checksum
from dks_jax.runtime.errors import InputError
from dks_jax.weights import load_network


class Teacher(NamedTuple):
    """A network with its weights on the host.

    network: the backbone, as functions of its arrays.
    preprocessing: how images become its input.
    labels: its label for each class of the network in training, [class].
    """

    network: Functional
    preprocessing: Preprocessing
    labels: np.ndarray


class Teachers:
    """Teachers of one training.

    Args:
      teachers: the teachers, in the order of their rows in the teaching matrix.
      mean, std: statistics by which the images of a batch are normalised.
    """

    def __init__(self, teachers: Sequence[Teacher], mean: Sequence[float], std: Sequence[float]):
        self._teachers = tuple(teachers)
        self._mean, self._std = tuple(mean), tuple(std)

    @property
    def arrays(self) -> list[Any]:
        """The arrays of all teachers, on the host."""
        return [(own.network.params, own.network.batch_stats) for own in self._teachers]

    @property
    def checksums(self) -> list[int]:
        """A checksum of each teacher's arrays and of what else decides about its predictions."""
        settings = ((own.preprocessing.to_json(), own.labels.tolist()) for own in self._teachers)
        return [
            checksum({**params, **batch_stats, "settings": np.frombuffer(repr(of).encode(), np.uint8)})
            for (params, batch_stats), of in zip(self.arrays, settings, strict=True)
        ]

    def logits(self, arrays: Sequence[Any], images: jax.Array) -> jax.Array:
        """The logits of all teachers, [teacher, batch, class], without a gradient.

        Args:
          arrays: as in the property of this name.
          images: normalised images, [batch, height, width, channel].
        """
        found = []
        for teacher, (params, batch_stats) in zip(self._teachers, arrays, strict=True):
            seen = self._as_seen_by(teacher.preprocessing, images)
            logits = teacher.network.eval(params, batch_stats, seen)[-1]
            found.append(logits[:, teacher.labels].astype(jnp.promote_types(logits.dtype, jnp.float32)))
        return jax.lax.stop_gradient(jnp.stack(found))

    def _as_seen_by(self, preprocessing: Preprocessing, images: jax.Array) -> jax.Array:
        seen = images
        if (preprocessing.mean, preprocessing.std) != (self._mean, self._std):
            wide = seen.astype(jnp.promote_types(seen.dtype, jnp.float32))
            pixels = wide * jnp.asarray(self._std, wide.dtype) + jnp.asarray(self._mean, wide.dtype)
            mean, std = (jnp.asarray(own, wide.dtype) for own in (preprocessing.mean, preprocessing.std))
            seen = (pixels - mean) / std
        if seen.shape[1:3] != (preprocessing.height, preprocessing.width):
            shape = seen.shape[0], preprocessing.height, preprocessing.width, seen.shape[-1]
            seen = jax.image.resize(seen, shape, "bilinear")
        return seen.astype(images.dtype)


def load_teachers(
    paths: Sequence[str], fields: Config, images: ImageData
) -> tuple[Teachers | None, list[str]]:
    """Loads the teachers of a config.

    Args:
      paths: paths of weights, as `load_network` takes them.
      fields: the section `data` of the config, with mean and deviation.
      images: the images of the training.

    Returns:
      (teachers, lines): None without paths; lines about each for the log.

    Raises:
      InputError: there are no weights at a path, or they are for images with other channels or have not all
        classes of the images.
    """
    found, lines = [], []
    for number, path in enumerate(paths, 1):
        network, metadata = load_network(Path(path), branches=False)
        channels = images.train.image_shape[-1]
        if metadata.preprocessing.channels != channels:
            raise InputError(
                f"Each of `synergy.teachers` must take images with {channels} channels, as the data have; "
                f"{path} takes {metadata.preprocessing.channels}."
            )
        try:
            matched = classes.match(images.held_out, metadata.class_names, imported=metadata.imported)
        except InputError as error:
            raise InputError(
                f"Each of `synergy.teachers` must know the classes of the data; {path} does not: {error}"
            ) from error
        found.append(Teacher(Functional(network), metadata.preprocessing, matched.labels))
        lines.append(f"teacher {number}: {metadata.model['name']} of {path}")
        lines += [f"  {sentence}" for sentence in matched.assumed]
    return (Teachers(found, fields.mean, fields.std) if found else None), lines
