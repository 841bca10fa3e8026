"""The multiply-accumulate operations of the network that a run has trained."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from dks_jax import models
from dks_jax.nn import count_macs
from dks_jax.supervision import BranchSpec
from dks_jax.weights import METADATA
from dks_jax.weights.metadata import from_json


def training_macs(weights: Path, *, has_branches: bool) -> int | None:
    """The operations of a forward pass of one image through all classifiers, from the weights' metadata.

    None where there is no such file, it is damaged, or its network is not one of this library.

    Args:
      has_branches: whether the method has branches; see `from_json`.
    """
    try:
        metadata = from_json(json.loads((weights / METADATA).read_text()), has_branches=has_branches)
    except (OSError, ValueError):
        return None
    preprocessing = metadata.preprocessing
    shape = (1, preprocessing.height, preprocessing.width, preprocessing.channels)
    # Many runs have the same network, and tracing it takes seconds.
    return _count(tuple(metadata.model.items()), metadata.branches, len(metadata.class_names), shape)


@cache
def _count(
    model: tuple[tuple[str, Any], ...],
    branches: tuple[BranchSpec, ...],
    num_classes: int,
    shape: tuple[int, ...],
) -> int:
    def forward(image: jax.Array) -> jax.Array:
        # Built while it is traced, so that no initial value is computed; drawing them takes no products.
        network = models.build(
            dict(model), num_classes=num_classes, channels=shape[-1], branches=branches, seed=0
        )
        network.eval()
        return network(image)

    return count_macs(forward, jax.ShapeDtypeStruct(shape, jnp.float32))
