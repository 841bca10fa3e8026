"""What it costs to leave a network at each of its classifiers, in multiply-accumulate operations (MACs)."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dks_jax.nn import count_macs
from dks_jax.supervision import DeeplySupervised


class Costs(NamedTuple):
    """The MACs of the parts of a network for one image.

    Attributes:
      trunk: of the stem and the stages up to the fork of each classifier; for the main one of all stages.
      own: of each classifier itself: the stages and the head of a branch, or the main head.
    """

    trunk: tuple[int, ...]
    own: tuple[int, ...]

    @property
    def staying(self) -> int:
        """The MACs of the plain backbone."""
        return self.trunk[-1] + self.own[-1]

    def of_leaving(self, exits: Sequence[int]) -> np.ndarray:
        """The cost of leaving at each classifier, as a share of staying, float64 [classifier].

        It counts the branches of `exits` before the classifier, which are computed on the way, and its own.
        """
        branches = [sum(self.own[i] for i in exits if i < index) for index in range(len(self.own))]
        return (np.array(self.trunk) + np.array(branches) + np.array(self.own)) / self.staying


def costs_of(network: DeeplySupervised, shape: Sequence[int]) -> Costs:
    """The costs of a network in evaluation mode for images of a shape, [height, width, channel]."""
    trunk, own = [], []
    features = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    total, features = _pass(network.stem, features)
    for index, stage in enumerate(network.stages):
        macs, features = _pass(stage, features)
        total += macs
        for branch in network.branches:
            if branch.after == index:
                trunk.append(total)
                own.append(_pass(branch, features)[0])
    return Costs((*trunk, total), (*own, _pass(network.head, features)[0]))


def _pass(module: Callable[[jax.Array], jax.Array], features: Any) -> tuple[int, Any]:
    """The MACs of a module and the shape of its output."""
    return count_macs(module, features), jax.eval_shape(module, features)
