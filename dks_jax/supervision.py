"""A backbone with auxiliary classifiers on its intermediate stages."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from dks_jax.errors import InputError
from dks_jax.synergy import classifier_names

T = TypeVar("T")
Stage = Callable[[jax.Array], jax.Array]


class Branch(nnx.Module):
    """An auxiliary classifier that forks from the output of one backbone stage.

    Args:
      after: index of the backbone stage whose output the branch takes, 0 for the first.
      stages: modules applied one after another, features to features.
      head: module from features to logits [batch, class].
    """

    def __init__(self, after: int, stages: Sequence[Stage], head: Stage):
        self.after = after
        self.stages = nnx.List(stages)
        self.head = head

    def __call__(self, features: jax.Array) -> jax.Array:
        for stage in self.stages:
            features = stage(features)
        return self.head(features)


class DeeplySupervised(nnx.Module):
    """A stem, a list of stages and a head, with branches that fork after some of the stages.

    Called on images [batch, ...] it returns the logits of all classifiers, [classifier, batch, class],
    in depth order: the branches as listed, then the main classifier. `names` says which is which.

    Any Flax NNX modules serve as stem, stages and heads: they are called with one array, and training
    mode is switched by `.train()` and `.eval()`, as NNX's own layers understand it.

    Args:
      stem: module from images to features.
      stages: modules from features to features, shallowest first.
      head: module from the last features to logits [batch, class].
      branches: auxiliary classifiers, shallowest fork first; none gives the plain backbone.

    Raises:
      InputError: a branch forks after a stage that does not exist, or the branches are not in depth order.
    """

    def __init__(self, stem: Stage, stages: Sequence[Stage], head: Stage, branches: Sequence[Branch] = ()):
        forks = [branch.after for branch in branches]
        for fork in forks:
            if not 0 <= fork < len(stages):
                raise InputError(
                    f"`after` of a branch must be the index of one of the {len(stages)} stages, 0 to "
                    f"{len(stages) - 1}; got {fork}."
                )
        if forks != sorted(forks):
            raise InputError(
                f"`branches` must be in depth order, shallowest fork first; got forks after stages {forks}."
            )
        self.stem = stem
        self.stages = nnx.List(stages)
        self.head = head
        self.branches = nnx.List(branches)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classifiers in the order of the logits: branch1, branch2, ..., main."""
        return classifier_names(len(self.branches) + 1)

    def __call__(self, images: jax.Array) -> jax.Array:
        logits = []
        features = self.stem(images)
        for index, stage in enumerate(self.stages):
            features = stage(features)
            logits += [branch(features) for branch in self.branches if branch.after == index]
        logits.append(self.head(features))
        return jnp.stack(logits)

    def drop_branches(self) -> "DeeplySupervised":
        """The network to deploy: the same stem, stages and head (shared, not copied), no branch."""
        return DeeplySupervised(self.stem, self.stages, self.head)


def backbone_only(arrays: Mapping[str, T]) -> dict[str, T]:
    """Named arrays of a `DeeplySupervised` without those of its branches: what `drop_branches` keeps."""
    return {name: array for name, array in arrays.items() if not name.startswith("branches.")}
