"""The last whole checkpoint of a run, as weights with their momentum, to start another training from.

`training.checkpoints` writes checkpoints/<step>/: the training state in Orbax's format, and complete.json
with the progress of the run and the checksums of the other files. A run that has completed an epoch also has
a folder of weights, whose metadata describe the network.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dks_jax.runtime.errors import InputError
from dks_jax.runtime.files import find_damage
from dks_jax.weights.folder import METADATA, Weights, checkpointer
from dks_jax.weights.metadata import Metadata, from_json

SEAL = "complete.json"


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder is a checkpoint of a run."""
    return (folder / SEAL).is_file()


def find(path: Path) -> Path | None:
    """The last whole checkpoint at a path: a workdir, its folder of checkpoints, or one of these itself.

    Returns:
      Its folder; None if there are no checkpoints.

    Raises:
      InputError: there are checkpoints, but all of them are damaged.
    """
    if is_checkpoint(path):
        return path
    folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    steps = [int(p.name) for p in folder.iterdir() if p.name.isdecimal()] if folder.is_dir() else []
    found = [folder / str(step) for step in sorted(steps, reverse=True) if is_checkpoint(folder / str(step))]
    for checkpoint in found:
        if _damage(checkpoint) is None:
            return checkpoint
    if found:
        raise InputError(f"No checkpoint in {folder} is whole ({_damage(found[0])}): put a copy back.")
    return None


def load(folder: Path, *, live: bool) -> Weights:
    """Loads parameters, statistics, momentum and the number of complete epochs from a checkpoint of a run.

    Args:
      live: whether to take the parameters and statistics themselves where there is a moving average of them.

    Raises:
      InputError: the checkpoint is damaged, or no epoch of the run was complete.
    """
    if problem := _damage(folder):
        raise InputError(f"The checkpoint {folder} is damaged: {problem}; put a copy back.")
    progress = json.loads((folder / SEAL).read_text())["progress"]
    state = _restore(folder)
    metadata = _metadata(folder.parent.parent, any(name.startswith("branches.") for name in state["params"]))
    averaged = "ema" in state and not live
    network = state["ema"] if averaged else state
    kind = "moving averages" if averaged else "those"
    remarks = [f"the weights are {kind} of the checkpoint {folder}"]
    if progress["batch"]:
        remarks.append(f"they are {progress['batch']} steps further than their last complete epoch")
    return Weights(
        network["params"],
        network["batch_stats"],
        metadata.replace(epoch=progress["epoch"], test_error=None),
        _find_key(state["opt_state"], "momentum"),
        tuple(remarks),
    )


def _restore(folder: Path) -> Any:
    """The state as nested dictionaries of host arrays, whatever devices it was saved from."""
    with checkpointer() as reader:
        known = reader.metadata(folder.resolve())
        own = jax.tree.map(lambda array: np.empty(array.shape, array.dtype), known.item_metadata.tree)
        return reader.restore(folder.resolve(), own)


def _metadata(workdir: Path, has_branches: bool) -> Metadata:
    for name in ("weights", "best_weights"):
        file = workdir / name / METADATA
        if file.is_file():
            return from_json(json.loads(file.read_text()), has_branches=has_branches)
    raise InputError(
        f"The run in {workdir} has no weights yet, since none of its epochs is complete: finish one first."
    )


def _damage(folder: Path) -> str | None:
    try:
        return find_damage(folder, json.loads((folder / SEAL).read_text())["files"])
    except (ValueError, TypeError, KeyError, AttributeError):
        return f"{SEAL} is broken"


def _find_key(tree: Any, key: str) -> Any:
    """The value of a key in nested dictionaries and lists; None if it is not there."""
    if isinstance(tree, Mapping):
        if key in tree:
            return tree[key]
        tree = list(tree.values())
    inner = tree if isinstance(tree, list | tuple) else []
    return next((found for value in inner if (found := _find_key(value, key)) is not None), None)
