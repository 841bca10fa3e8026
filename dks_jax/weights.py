"""Weights to use or to start from: a folder, the workdir of a finished run, or a PyTorch checkpoint."""

import re
from pathlib import Path
from typing import Any

from dks_jax.errors import InputError
from dks_jax.functional import Arrays, get_arrays, get_params, set_arrays
from dks_jax.models import build
from dks_jax.supervision import DeeplySupervised
from dks_jax.torch_weights import read_checkpoint
from dks_jax.weights_folder import METADATA, Weights, load_folder


def find_weights(path: Path) -> Path:
    """The folder of weights that a path is, or that the workdir of a finished run holds; a file as it is.

    Raises:
      InputError: there is none.
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
            f"{path} holds no weights yet, since its run has not ended; let it end, or give "
            f"{path / 'best_weights'}."
        )
    raise InputError(f"{path} holds no weights: there is no {METADATA}; give {accepted}.")


def load_weights(path: Path) -> Weights:
    """The weights of a folder, of the workdir of a finished run, or of a PyTorch checkpoint.

    Raises:
      InputError: there are none, they are damaged, or they are of no network that is known.
    """
    path = find_weights(path)
    return read_checkpoint(path) if path.is_file() else load_folder(path)


def load_network(path: str | Path) -> tuple[DeeplySupervised, dict[str, Any]]:
    """The network whose weights `load_weights` finds at a path, in evaluation mode, and their metadata.

    Raises:
      InputError: as `load_weights`, or the metadata are not those of the weights.
    """
    weights = load_weights(Path(path))
    network = build(**weights.network._asdict(), seed=0)
    set_arrays(network, weights.params | weights.batch_stats)
    network.eval()
    return network, weights.metadata


def adopt_weights(network: DeeplySupervised, weights: Weights, origin: Path) -> list[str]:
    """Gives a network weights as far as they fit, e.g. to fine-tune on other classes.

    Arrays of a head that do not fit, and branches that the weights lack, stay as they are initialised.

    Args:
      origin: where the weights are from, for the messages.

    Returns:
      Lines that say what was taken over and what starts anew.

    Raises:
      InputError: the stem, a stage or a branch is another one.
    """
    given, own = weights.params | weights.batch_stats, get_arrays(network)
    taken = {name: array for name, array in given.items() if name in own and array.shape == own[name].shape}
    anew = [name for name in own if name not in taken]
    unused = [name for name in given if name not in own]
    no_branches = not weights.num_branches
    wrong = [n for n in anew if not (_in_head(n) or (no_branches and n.startswith("branches.")))]
    wrong += [name for name in unused if not (_in_head(name) or name.startswith("branches."))]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise InputError(
            f"`init_weights` must name weights of the same network but for its heads; those in {origin} "
            f"differ in {', '.join(_difference(name, given, own) for name in wrong[:3])}{more}: set `model` "
            "as they were trained."
        )
    set_arrays(network, own | taken)
    lines = [f"starting from the weights in {origin}: {len(taken)} of {len(own)} arrays taken over"]
    if no_branches and network.branches:
        lines.append("starting anew, since the weights have none: all branches")
        anew = [name for name in anew if not name.startswith("branches.")]
    if anew:
        lines.append(f"starting anew: {', '.join(_difference(name, given, own) for name in anew)}")
    if unused:
        lines.append(f"left out: {len(unused)} arrays that the network does not have, e.g. {unused[0]}")
    return lines


def adopt_progress(network: DeeplySupervised, weights: Weights, origin: Path) -> tuple[Arrays, int]:
    """The momentum and the number of whole epochs with which weights were saved, to go on training.

    Raises:
      InputError: they came without, or are not those of every parameter of the network.
    """
    own = {name: array.shape for name, array in get_params(network).items()}
    momentum, epoch = weights.momentum, weights.metadata.get("epoch")
    if momentum is None or epoch is None:
        raise InputError(
            "`init_optimizer` must be False where `init_weights` names no training checkpoint of a wide "
            "ResNet as released, of which alone epoch and optimizer are read; "
            f"{origin} gives {'no epoch' if epoch is None else 'no momentum'}."
        )
    if own != {name: array.shape for name, array in momentum.items()}:
        raise InputError(
            "`init_optimizer` must be False where the network is not the very one of `init_weights`; "
            f"{origin} has the momentum of other parameters: set `model`, `method` and the data as they were "
            "trained."
        )
    return momentum, epoch


def _in_head(name: str) -> bool:
    return re.match(r"(branches\.\d+\.)?head\.", name) is not None


def _difference(name: str, given: Arrays, own: Arrays) -> str:
    def shape(arrays: Arrays) -> str:
        return "x".join(map(str, arrays[name].shape)) if name in arrays else "nothing"

    return f"{name} ({shape(own)} in the network, {shape(given)} in the weights)"
