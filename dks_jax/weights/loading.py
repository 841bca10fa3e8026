"""Loading of weights from a folder, the workdir of a finished run or a PyTorch checkpoint."""

from collections.abc import Sequence
from pathlib import Path

from dks_jax.data.classes import match_heads
from dks_jax.models import build, describe
from dks_jax.nn import Arrays, get_arrays, get_params, set_arrays
from dks_jax.runtime.errors import InputError
from dks_jax.supervision import DeeplySupervised
from dks_jax.weights import run_checkpoint
from dks_jax.weights.folder import METADATA, Weights, load_folder
from dks_jax.weights.heads import in_head, take_classes
from dks_jax.weights.metadata import Metadata
from dks_jax.weights.torch_weights import read_checkpoint


def find_weights(path: Path) -> Path:
    """Finds the weights at a path: a file, a folder of weights, or such a folder in a finished run's workdir.

    Args:
      path: path of one of these; "~" stands for the home folder.

    Raises:
      InputError: there are no weights.
    """
    path = path.expanduser()
    if path.is_file():
        return path
    for candidate in (path, path / "weights"):
        if (candidate / METADATA).is_file():
            return candidate
    accepted = "the workdir of a finished run, a folder of weights or a PyTorch checkpoint"
    if not path.exists():
        raise InputError(f"There are no weights at {path}, which is absent; give {accepted}.")
    if (path / "best_weights" / METADATA).is_file():
        raise InputError(
            f"{path} holds no weights yet, since its run is unfinished; finish it, or give "
            f"{path / 'best_weights'}."
        )
    raise InputError(f"{path} holds no weights: there is no {METADATA}; give {accepted}.")


def find_start(path: Path, *, optimizer: bool) -> Path:
    """Finds what a training may start from: what `find_weights` finds, or the last checkpoint of a run.

    Args:
      path: also the workdir of an unfinished run, or its folder of checkpoints.
      optimizer: whether the momentum is wanted too, which a run keeps in its checkpoints alone.

    Raises:
      InputError: there are no weights, or all checkpoints are damaged.
    """
    path = path.expanduser()
    has_weights = (path / "weights" / METADATA).is_file()
    checkpoint = None if has_weights and not optimizer else run_checkpoint.find(path)
    return checkpoint or find_weights(path)


def load_weights(path: Path, *, live: bool = False, model: str | None = None) -> Weights:
    """Loads the weights from a folder, the workdir of a finished run or a PyTorch checkpoint.

    A path that `find_start` has found may also be a checkpoint of a run.

    Args:
      path: see `find_weights`.
      live: whether to take the weights that such a checkpoint goes on with, to which its momentum belongs,
        also where it has their moving average.
      model: name of the network to take where the arrays of a PyTorch checkpoint are those of several.

    Raises:
      InputError: there are no weights, or they are damaged or of an unknown network.
    """
    path = path.expanduser()
    if run_checkpoint.is_checkpoint(path):
        return run_checkpoint.load(path, live=live)
    path = find_weights(path)
    return read_checkpoint(path, preferred=model) if path.is_file() else load_folder(path)


def load_network(path: str | Path, *, branches: bool = True) -> tuple[DeeplySupervised, Metadata]:
    """Builds the network of the weights at a path, in evaluation mode; returns it with their metadata.

    Args:
      path: as for `load_weights`.
      branches: whether to keep the auxiliary classifiers of the weights.

    Raises:
      InputError: as for `load_weights`, or the weights have no head, or the metadata do not describe them.
    """
    weights = load_weights(Path(path))
    require_head(weights, Path(path))
    if not branches:
        weights = weights.without_branches()
    return build_network(weights), weights.metadata


def build_network(weights: Weights) -> DeeplySupervised:
    """Builds the network of weights, which `require_head` accepts, in evaluation mode.

    Args:
      weights: the weights, with their metadata.

    Raises:
      InputError: the metadata do not describe the weights.
    """
    network = build(**weights.metadata.network._asdict(), seed=0)
    set_arrays(network, weights.params | weights.batch_stats)
    network.eval()
    return network


def require_head(weights: Weights, path: Path) -> None:
    """Checks that weights are not of a backbone alone, which gives no logits.

    Args:
      weights: the weights.
      path: where they come from, for the message.

    Raises:
      InputError: they have no head.
    """
    if not weights.metadata.class_names:
        raise InputError(
            f"The weights must have a head to be used; those in {path} have none: fine-tune them first, by "
            f"--config.init_weights={path}."
        )


def adopt_weights(
    network: DeeplySupervised, weights: Weights, origin: Path, class_names: Sequence[str]
) -> list[str]:
    """Copies weights into a network as far as they fit, e.g. to fine-tune on other classes.

    The rows of the heads go by the names of the classes, and by place where names are unknown. Heads of other
    classes keep their initial values, and so do all branches unless the weights have branches of the same
    form.

    Args:
      network: the network, which is changed in place.
      weights: the weights to copy.
      origin: path of the weights, for messages.
      class_names: names of the classes of the network in label order.

    Returns:
      Lines that say which arrays were copied, which keep their initial values, and what was assumed.

    Raises:
      InputError: the stem or a stage differs.
    """
    own, lines = get_arrays(network), []
    if network.branches and not _same_branches(network, own, weights):
        kind = "other ones" if weights.metadata.branches else "none"
        lines = [f"all branches start with initial values, since the weights have {kind}"]
        weights = weights.without_branches()
    rows, assumed = _match_classes(weights, class_names)
    given = weights.params | weights.batch_stats
    fitting = take_classes(given, rows)
    taken = {name: array for name, array in fitting.items() if name in own and array.shape == own[name].shape}
    initial = [n for n in own if n not in taken and not (lines and n.startswith("branches."))]
    unused = [name for name in given if name not in own]
    wrong = [name for name in initial if not in_head(name)]
    wrong += [name for name in unused if not (in_head(name) or name.startswith("branches."))]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise InputError(
            f"`init_weights` must name weights of the same network except for its heads; those in {origin} "
            f"differ in {', '.join(_difference(name, given, own) for name in wrong[:3])}{more}: set `model` "
            f"as in their training, {describe(weights.metadata.model)}."
        )
    set_arrays(network, own | taken)
    lines.insert(0, f"starting from the weights in {origin}: {len(taken)} of {len(own)} arrays taken over")
    if initial:
        described = ", ".join(_difference(name, given, own) for name in initial)
        lines.append(f"these start with initial values: {described}")
    lines += [*assumed, *weights.remarks]
    if unused:
        lines.append(f"left out: {len(unused)} arrays that the network does not have, e.g. {unused[0]}")
    return lines


def _match_classes(weights: Weights, class_names: Sequence[str]) -> tuple[list[int] | None, list[str]]:
    """The rows of the heads for the classes of a network, None for initial values, and what was assumed."""
    given = weights.metadata.class_names
    if not given:
        return None, ["the heads start with initial values, since the weights have none"]
    rows, assumed = match_heads(given, class_names)
    return rows, [assumed] if assumed else []


def _same_branches(network: DeeplySupervised, own: Arrays, weights: Weights) -> bool:
    """Whether the weights have the same branches as a network, except for their heads."""
    if [branch.after for branch in network.branches] != [
        branch.after for branch in weights.metadata.branches
    ]:
        return False
    given = weights.params | weights.batch_stats
    shapes, given_shapes = (
        {
            name: array.shape
            for name, array in arrays.items()
            if name.startswith("branches.") and not in_head(name)
        }
        for arrays in (own, given)
    )
    return shapes == given_shapes


def adopt_progress(
    network: DeeplySupervised, weights: Weights, origin: Path, class_names: Sequence[str]
) -> tuple[Arrays, int]:
    """The momentum and the number of epochs that were saved with weights, to continue their training.

    The rows of the heads go by classes as in `adopt_weights`.

    Args:
      network: the network, with the weights in it.
      weights, origin, class_names: those that `adopt_weights` was given.

    Returns:
      (momentum of every parameter by name, number of epochs).

    Raises:
      InputError: one of them is absent, or the momentum is not of exactly the parameters of the network.
    """
    own = {name: array.shape for name, array in get_params(network).items()}
    momentum, epoch = weights.momentum, weights.metadata.epoch
    if momentum is None or epoch is None:
        raise InputError(
            "`init_optimizer` must be False unless `init_weights` names the workdir of a run with its "
            "checkpoints, or a training checkpoint of a wide ResNet in the released format; "
            f"{origin} has {'no epoch' if epoch is None else 'no momentum'}."
        )
    momentum = take_classes(momentum, _match_classes(weights, class_names)[0])
    if own != {name: array.shape for name, array in momentum.items()}:
        raise InputError(
            "`init_optimizer` must be False unless the network is exactly that of `init_weights`; "
            f"{origin} has the momentum of other parameters: set `model`, `method` and `data` as in their "
            "training."
        )
    return momentum, epoch


def _difference(name: str, given: Arrays, own: Arrays) -> str:
    def shape(arrays: Arrays) -> str:
        return "x".join(map(str, arrays[name].shape)) if name in arrays else "nothing"

    return f"{name} ({shape(own)} in the network, {shape(given)} in the weights)"
