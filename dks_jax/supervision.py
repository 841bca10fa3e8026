"""A backbone with auxiliary classifiers on its intermediate stages."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from dks_jax.runtime.errors import InputError
from dks_jax.synergy import classifier_names

T = TypeVar("T")
Stage = Callable[[jax.Array], jax.Array]


class BranchSpec(NamedTuple):
    """A description of a branch, from which it is built with the kinds of stage and head of the backbone.

    Attributes:
      after: index, from 0, of the backbone stage whose output is the input of the branch.
      blocks: number of blocks in each stage of the branch; () for a branch without stages, only a head.
      widths: width of each stage of the branch, before the expansion of a bottleneck.
    """

    after: int
    blocks: tuple[int, ...]
    widths: tuple[int, ...]


def branch_specs(branches: Any) -> tuple[BranchSpec, ...]:
    """Makes `BranchSpec`s from tuples or lists (after, blocks, widths), as in a config or a JSON file.

    Raises:
      InputError: a branch has another form, or one of its numbers is out of range.
    """
    if isinstance(branches, tuple | list) and all(map(_is_branch, branches)):
        return tuple(BranchSpec(after, tuple(blocks), tuple(widths)) for after, blocks, widths in branches)
    raise InputError(
        "`model.branches` must be a tuple with (after, blocks, widths) for each branch: the index, from 0, "
        "of the stage after which it forks, and as many numbers of blocks as widths, each 1 or more, e.g. "
        f"((0, (2, 1), (32, 64)), (1, (), ())); got {branches}."
    )


def _is_branch(branch: Any) -> bool:
    if not isinstance(branch, tuple | list) or len(branch) != 3:
        return False
    after, blocks, widths = branch
    if not all(isinstance(numbers, tuple | list) for numbers in (blocks, widths)):
        return False
    numbers = (after, *blocks, *widths)
    integers = all(isinstance(number, int) and not isinstance(number, bool) for number in numbers)
    return integers and len(blocks) == len(widths) and after >= 0 and min((*blocks, *widths), default=1) >= 1


class Branch(nnx.Module):
    """An auxiliary classifier that forks from the output of one backbone stage.

    Called on the features of this stage, it returns logits [batch, class].

    Args:
      after: index, from 0, of the backbone stage whose output is the input of the branch.
      stages: modules from features to features, applied in sequence.
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
    """A stem, a sequence of stages and a head, with branches that fork after some of the stages.

    Called on images [batch, ...], it returns the logits of all classifiers, [classifier, batch, class], in
    depth order: the branches as listed, then the main classifier. `names` lists them in this order.

    Any Flax NNX modules can serve as stem, stages and heads. Each is called with a single array, and
    `.train()` and `.eval()` switch its mode as they do for NNX's own layers.

    Source: Sun et al., CVPR 2019, arXiv:1906.00675.

    Args:
      stem: module from images to features.
      stages: modules from features to features, shallowest first.
      head: module from the last features to logits [batch, class].
      branches: auxiliary classifiers, shallowest fork first; () for the plain backbone.
      detach: whether no gradient reaches the backbone from the branches.

    Raises:
      InputError: a branch forks after a stage that does not exist, or the branches are not in depth order.
    """

    def __init__(
        self,
        stem: Stage,
        stages: Sequence[Stage],
        head: Stage,
        branches: Sequence[Branch] = (),
        *,
        detach: bool = False,
    ):
        require_forks([branch.after for branch in branches], len(stages))
        self.stem = stem
        self.stages = nnx.List(stages)
        self.head = head
        self.branches = nnx.List(branches)
        self.detach = detach

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the classifiers in the order of the logits: branch1, branch2, ..., main."""
        return classifier_names(len(self.branches) + 1)

    def __call__(self, images: jax.Array) -> jax.Array:
        logits = []
        features = self.stem(images)
        for index, stage in enumerate(self.stages):
            features = stage(features)
            seen = jax.lax.stop_gradient(features) if self.detach else features
            logits += [branch(seen) for branch in self.branches if branch.after == index]
        logits.append(self.head(features))
        return jnp.stack(logits)

    def drop_branches(self) -> "DeeplySupervised":
        """The network for deployment: this stem, stages and head, shared and not copied, without branches."""
        return DeeplySupervised(self.stem, self.stages, self.head)

    def classifier(self, name: str) -> "DeeplySupervised":
        """The path to one classifier alone, as a network without branches that shares the modules on it.

        It is the stem, the stages up to the fork, and the stages and the head of the branch; for the main
        classifier it is that of `drop_branches`.

        Args:
          name: one of `names`.

        Raises:
          InputError: there is no classifier of this name.
        """
        if name not in self.names:
            raise InputError(f"`classifier` must be one of {', '.join(self.names)}; got {name!r}.")
        if name == self.names[-1]:
            return self.drop_branches()
        branch = self.branches[self.names.index(name)]
        shared = list(self.stages)[: branch.after + 1]
        return DeeplySupervised(self.stem, [*shared, *branch.stages], branch.head)


def require_forks(forks: Sequence[int], num_stages: int) -> None:
    """Raises InputError unless all branches fork after existing stages, in depth order."""
    for fork in forks:
        if not 0 <= fork < num_stages:
            raise InputError(
                f"`after` of a branch must be the index of one of the {num_stages} stages, 0 to "
                f"{num_stages - 1}; got {fork}."
            )
    if list(forks) != sorted(forks):
        raise InputError(
            f"`branches` must be in depth order, shallowest fork first; got forks after stages {forks}."
        )


def distances_from_head(network: DeeplySupervised, names: Iterable[str]) -> dict[str, int]:
    """How far arrays lie before the head, by name: 0 in a head, 1 in the last stage, most in the stem.

    A stage of a branch is as far as the stage of the backbone that it stands beside, or as the last one where
    the branch is the deeper of the two. All heads are at 0.

    Args:
      network: the network.
      names: names of its arrays, as of `nn.get_params`.
    """

    def distance(name: str) -> int:
        first, parts = 0, name.split(".")
        if parts[0] == "branches":
            first, parts = network.branches[int(parts[1])].after + 1, parts[2:]
        if parts[0] == "stem":
            return len(network.stages) + 1
        return max(len(network.stages) - first - int(parts[1]), 1) if parts[0] == "stages" else 0

    return {name: distance(name) for name in names}


def backbone_only(arrays: Mapping[str, T]) -> dict[str, T]:
    """The arrays, by name, of a `DeeplySupervised` that remain after `drop_branches`."""
    return {name: array for name, array in arrays.items() if not name.startswith("branches.")}
