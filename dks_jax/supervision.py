"""A backbone with auxiliary classifiers on its intermediate stages."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from dks_jax.nn.calls import Call, find_submodule, record_calls, submodules
from dks_jax.runtime.errors import LISTED, InputError
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


class Attached(nnx.Module):
    """A network as it is, with branches on the outputs of its submodules; `attach` makes one.

    Called on images [batch, ...], it returns the logits of all classifiers, [classifier, batch, class]: the
    branches in the order in which the network calls their submodules, then the network itself. It trains by
    the steps of the library, like a `DeeplySupervised`. The arrays of the network are named "network.", then
    as in the network, those of a branch "branches.", the name of its submodule, then as in the branch.

    Args:
      network: module from images to logits [batch, class].
      branches: modules from features to logits [batch, class], by the names of submodules of the network.
      detach: whether no gradient reaches the network from the branches.
    """

    def __init__(self, network: nnx.Module, branches: Mapping[str, Stage], *, detach: bool = False):
        self.network = network
        self.branches = nnx.Dict(branches)
        self.after = tuple(branches)
        self.detach = detach

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the classifiers in the order of the logits: branch1, branch2, ..., main."""
        return classifier_names(len(self.after) + 1)

    def __call__(self, images: jax.Array) -> jax.Array:
        modules = {name: find_submodule(self.network, name) for name in self.after}
        with record_calls(modules.values()) as calls:
            main = self.network(images)  # pyright: ignore[reportCallIssue]
        if not isinstance(main, jax.Array) or main.ndim != 2 or len(main) != len(images):
            raise InputError(
                f"`network` must return logits [batch, class] for {len(images)} images; "
                f"got {_described(main)}."
            )
        logits = []
        for name, features in _outputs(modules, calls).items():
            seen = jax.lax.stop_gradient(features) if self.detach else features
            logits.append(self.branches[name](seen))
            if not isinstance(logits[-1], jax.Array) or logits[-1].shape != main.shape:
                raise InputError(
                    f"The branch on `{name}` must return logits of the shape {main.shape}, as the network "
                    f"does; got {_described(logits[-1])} from features {_described(features)}."
                )
        return jnp.stack([*logits, main])

    def drop_branches(self) -> nnx.Module:
        """The network for deployment: the very module that was given, whose logits are [batch, class]."""
        return self.network


def attach(
    network: nnx.Module, branches: Mapping[str, Stage], images: Any = None, *, detach: bool = False
) -> Attached:
    """Puts branches on a network that was not made for them, and leaves its code and its arrays as they are.

    Each branch is fed with what a submodule of the network returns when the network calls it, which must be
    once in each call of the network, and not inside of nnx.scan, nnx.vmap, nnx.remat or another transform.
    (`remat` of the submodule's own `__call__` does no harm.)

    Args:
      network: any Flax NNX module whose output is logits [batch, class]. It is shared, not copied.
      branches: modules from features to logits [batch, class], by the path of the submodule whose output they
        are fed with, e.g. "layer2", "blocks.7", or "layers.3" in an nnx.Sequential.
      images: an array or `jax.ShapeDtypeStruct` like the network's input, with which everything is checked
        here, by an abstract evaluation, and messages say the shapes of the features. Without it the names are
        checked here, and the rest when the network is first called.
      detach: whether no gradient reaches the network from the branches.

    Returns:
      A module from images to the logits of all classifiers, [classifier, batch, class], the branches in the
      order in which the network calls their submodules, the network last. Its `drop_branches()` is `network`.

    Raises:
      InputError: there is no submodule of this name, it is not called once, is called within a transform or
        does not return an array, or the network or a branch does not return logits.
    """
    if not isinstance(network, nnx.Module) or not callable(network):
        raise InputError(
            f"`network` must be a Flax NNX module that can be called; got {type(network).__name__}."
        )
    if not isinstance(branches, Mapping) or not all(
        isinstance(name, str) and callable(branch) for name, branch in branches.items()
    ):
        raise InputError(
            "`branches` must give a module for each name of a submodule, e.g. "
            f'{{"layer2": nnx.Linear(64, 10, rngs=rngs)}}; got {branches}.'
        )
    for name in branches:
        if find_submodule(network, name) is None:
            raise InputError(
                f"`branches` must name submodules of the network that can be called; got {name!r}, and the "
                f"nearest are {', '.join(_nearest(network, name, images)) or 'none'}."
            )
    attached = Attached(network, branches, detach=detach)
    if images is not None:
        _evaluate_shapes(attached, lambda module, images: module(images), images)
    return attached


def _outputs(modules: Mapping[str, nnx.Module], calls: Sequence[Call]) -> dict[str, jax.Array]:
    """What each of the modules returned in its one call, by name, in the order of the calls.

    Raises:
      InputError: a module was not called once, or within a transform, or returned no array.
    """
    found = []
    originals = {id(module) for module in modules.values()}
    copies = [call.module for call in calls if id(call.module) not in originals]
    for name, module in modules.items():
        own = [index for index, call in enumerate(calls) if call.module is module]
        copied = not own and any(isinstance(copy, type(module)) for copy in copies)
        if copied or any(calls[index].inside for index in own):
            raise InputError(
                f"The network must call `{name}` outside of nnx.scan, nnx.vmap, nnx.remat, jit and other "
                "transforms, whose intermediate values no branch can see: name a module around the transform."
            )
        if len(own) != 1:
            raise InputError(
                f"The network must call `{name}` once in each of its own calls, as `{name}(...)`; got "
                f"{len(own)} calls: name another module."
            )
        output = calls[own[0]].output
        if not isinstance(output, jax.Array):
            raise InputError(
                f"`{name}` must return an array for a branch to be fed with; got {_described(output)}: name "
                "another module."
            )
        found.append((own[0], name, output))
    return {name: output for _, name, output in sorted(found, key=lambda entry: entry[0])}


def _nearest(network: nnx.Module, name: str, images: Any) -> list[str]:
    """The names nearest to one that is not there; with `images` of what is called once, and with shapes."""
    seen = dict.fromkeys(submodules(network), "")

    def call(network: Any, images: jax.Array) -> None:
        modules = submodules(network)
        with record_calls(modules.values()) as calls:
            network(images)
        for path, module in modules.items():
            own = [call for call in calls if call.module is module]
            if len(own) == 1 and not own[0].inside and isinstance(own[0].output, jax.Array):
                seen[path] = f" ({_described(own[0].output)})"

    if images is not None:
        seen.clear()
        _evaluate_shapes(network, call, images)
    return [f"`{near}`{seen[near]}" for near in get_close_matches(name, seen, LISTED, cutoff=0)]


def _evaluate_shapes(module: nnx.Module, call: Callable[[Any, jax.Array], Any], images: Any) -> None:
    """Calls a function on a copy of a module in evaluation mode, so that the module stays as it is."""
    graph, state = nnx.split(module)

    def evaluate(state: nnx.State, images: jax.Array) -> None:
        copy = nnx.merge(graph, state)
        copy.eval()
        call(copy, images)

    jax.eval_shape(evaluate, state, images)


def _described(value: Any) -> str:
    """An array as "float32[8,16,16,64]"; the name of the type of anything else."""
    return jax.typeof(value).str_short() if isinstance(value, jax.Array) else f"a {type(value).__name__}"


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


def distances_from_head(network: DeeplySupervised | Attached, names: Iterable[str]) -> dict[str, int]:
    """How far arrays lie before the head, by name: 0 in a head, 1 in the last stage, most in the stem.

    A stage of a branch is as far as the stage of the backbone that it stands beside, or as the last one where
    the branch is the deeper of the two. All heads are at 0.

    Args:
      network: the network.
      names: names of its arrays, as of `nn.get_params`.

    Raises:
      InputError: the network is an `Attached`, whose stages are not known.
    """
    if isinstance(network, Attached):
        raise InputError(
            "`optimizer.layer_decay` must be 1 for a network with attached branches, whose stages are not "
            "known: make a `DeeplySupervised` of its parts."
        )

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
