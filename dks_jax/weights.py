"""Weights to deploy or to start from: a folder in Orbax's format, complete or absent.

The folder is what `orbax.checkpoint.StandardCheckpointer().save` writes for {"params": {name: array},
"batch_stats": {name: array}}, and metadata.json beside it, with checksums of the other files.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from dks_jax.errors import InputError
from dks_jax.files import checksums, damage, replacing, require_room
from dks_jax.functional import Arrays, get_arrays, set_arrays
from dks_jax.models import build
from dks_jax.supervision import DeeplySupervised

METADATA = "metadata.json"


def save_weights(
    folder: Path,
    params: Mapping[str, jax.Array],
    batch_stats: Mapping[str, jax.Array],
    metadata: Mapping[str, Any],
) -> None:
    """Writes weights and their metadata; `folder` appears, or is replaced, once they are complete.

    In a job of several processes one alone calls it.
    """
    # From the host, because Orbax restores a device's array onto the same number of devices only.
    arrays = jax.device_get({"params": dict(params), "batch_stats": dict(batch_stats)})
    require_room(folder.parent, arrays)
    with replacing(folder) as partial:
        with _checkpointer() as checkpointer:
            checkpointer.save(partial.resolve(), arrays)
        description = {**metadata, "files": checksums(partial)}
        (partial / METADATA).write_text(json.dumps(description, indent=2) + "\n")


def find_weights(folder: Path) -> Path:
    """The folder of weights that a folder is, or that the workdir of a finished run holds.

    Raises:
      InputError: there is none.
    """
    folder = folder.expanduser()
    for candidate in (folder, folder / "weights"):
        if (candidate / METADATA).is_file():
            return candidate
    raise InputError(f"{folder} holds no weights: there is no {METADATA}; give the weights/ of a run.")


def load_weights(folder: Path) -> tuple[Arrays, Arrays, dict[str, Any]]:
    """(params, batch_stats, metadata) of a folder of weights, or of the workdir of a finished run.

    Raises:
      InputError: the folder holds no weights, or they are damaged.
    """
    folder = find_weights(folder)
    metadata: dict[str, Any] = {}
    try:
        metadata = json.loads((folder / METADATA).read_text())
        problem = damage(folder, metadata["files"]) if metadata["files"] else "no checksums are there"
    except (ValueError, TypeError, KeyError, AttributeError):
        problem = f"{METADATA} is broken"
    if problem:
        raise InputError(f"The weights in {folder} are damaged: {problem}; put a copy back.")
    with _checkpointer() as checkpointer:
        arrays = checkpointer.restore(folder.resolve())
    return arrays["params"], arrays["batch_stats"], metadata


def load_network(folder: str | Path) -> tuple[DeeplySupervised, dict[str, Any]]:
    """The network that a folder of weights holds, in evaluation mode, and its metadata.

    Raises:
      InputError: the folder holds no weights.
    """
    params, batch_stats, metadata = load_weights(Path(folder))
    network = build(
        metadata["model"],
        num_classes=len(metadata["class_names"]),
        channels=metadata["preprocessing"]["channels"],
        branches=any(name.startswith("branches.") for name in params),
        seed=0,
    )
    set_arrays(network, params | batch_stats)
    network.eval()
    return network, metadata


def adopt_weights(network: DeeplySupervised, folder: str | Path) -> list[str]:
    """Gives a network the weights of a folder as far as they fit, e.g. to fine-tune on other classes.

    Arrays of a head that do not fit, and branches that the weights lack, stay as they are initialised.

    Returns:
      Lines that say what was taken over and what starts anew.

    Raises:
      InputError: the folder holds no weights, or the stem, a stage or a branch is another one.
    """
    params, batch_stats, _ = load_weights(Path(folder))
    given, own = params | batch_stats, get_arrays(network)
    taken = {name: array for name, array in given.items() if name in own and array.shape == own[name].shape}
    anew = [name for name in own if name not in taken]
    unused = [name for name in given if name not in own]
    no_branches = not any(name.startswith("branches.") for name in given)
    wrong = [n for n in anew if not (_in_head(n) or (no_branches and n.startswith("branches.")))]
    wrong += [name for name in unused if not (_in_head(name) or name.startswith("branches."))]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise InputError(
            f"`init_weights` must name weights of the same network but for its heads; those in {folder} "
            f"differ in {', '.join(_difference(name, given, own) for name in wrong[:3])}{more}: set `model` "
            "as they were trained."
        )
    set_arrays(network, own | taken)
    lines = [f"starting from the weights in {folder}: {len(taken)} of {len(own)} arrays taken over"]
    if no_branches and network.branches:
        lines.append("starting anew, since the weights have none: all branches")
        anew = [name for name in anew if not name.startswith("branches.")]
    if anew:
        lines.append(f"starting anew: {', '.join(_difference(name, given, own) for name in anew)}")
    if unused:
        lines.append(f"left out: {len(unused)} arrays that the network does not have, e.g. {unused[0]}")
    return lines


def _in_head(name: str) -> bool:
    return re.match(r"(branches\.\d+\.)?head\.", name) is not None


def _difference(name: str, given: Arrays, own: Arrays) -> str:
    def shape(arrays: Arrays) -> str:
        return "x".join(map(str, arrays[name].shape)) if name in arrays else "nothing"

    return f"{name} ({shape(own)} in the network, {shape(given)} in the weights)"


def _checkpointer() -> ocp.StandardCheckpointer:
    """One that does not wait for other processes of a job."""
    own = ocp.options.MultiprocessingOptions(
        primary_host=jax.process_index(),
        active_processes={jax.process_index()},
        barrier_sync_key_prefix=f"weights{jax.process_index()}",
    )
    return ocp.StandardCheckpointer(multiprocessing_options=own)
