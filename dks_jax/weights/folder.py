"""Folders of weights in Orbax's format, which are written completely or not at all.

Such a folder is what `orbax.checkpoint.StandardCheckpointer().save` writes for {"params": {name: array},
"batch_stats": {name: array}, "momentum": {name: array}}, the last where it is known, and in addition
metadata.json, which describes the weights and holds the checksums of the other files.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import jax
import orbax.checkpoint as ocp

from dks_jax.runtime.errors import InputError
from dks_jax.runtime.files import atomic_write, checksums, find_damage, require_room
from dks_jax.supervision import backbone_only
from dks_jax.weights.metadata import Metadata, from_json

METADATA = "metadata.json"
"""The file that makes a folder one of weights."""
# JAX or NumPy arrays by name.
Named: TypeAlias = dict[str, Any]


class Weights(NamedTuple):
    """The arrays of a network by name, and the metadata needed to use them.

    Attributes:
      params: trainable arrays.
      batch_stats: running statistics.
      metadata: description of the network, its classes and its input.
      momentum: momentum of the optimizer for every parameter; None where it was not kept.
      remarks: sentences that say what was assumed or chosen when the weights were read; they are not saved.
    """

    params: Named
    batch_stats: Named
    metadata: Metadata
    momentum: Named | None = None
    remarks: tuple[str, ...] = ()

    def without_branches(self) -> "Weights":
        """The weights of the plain backbone, without momentum, since momentum is of the entire network."""
        return Weights(
            backbone_only(self.params),
            backbone_only(self.batch_stats),
            self.metadata.replace(branches=()),
            remarks=self.remarks,
        )


def save_weights(folder: Path, weights: Weights) -> None:
    """Writes weights and their metadata to `folder`, which appears or is replaced once they are complete.

    In a job of several processes only one of them calls this function.

    Args:
      folder: the folder of weights.
      weights: the weights.

    Raises:
      OSError: the folder cannot be written, or the disk has too little room.
    """
    arrays = {"params": dict(weights.params), "batch_stats": dict(weights.batch_stats)}
    if weights.momentum is not None:
        arrays["momentum"] = dict(weights.momentum)
    # Orbax restores device arrays only onto the same number of devices, so host arrays are saved.
    arrays = jax.device_get(arrays)
    require_room(folder.parent, arrays)
    with atomic_write(folder) as partial:
        with checkpointer() as writer:
            writer.save(partial.resolve(), arrays)
        description = {**weights.metadata.to_json(), "files": checksums(partial)}
        (partial / METADATA).write_text(json.dumps(description, indent=2) + "\n")


def load_folder(folder: Path) -> Weights:
    """Loads the weights from a folder that `save_weights` has written.

    Raises:
      InputError: the weights are damaged, or their metadata lack a field.
    """
    fields: dict[str, Any] = {}
    try:
        fields = json.loads((folder / METADATA).read_text())
        # Older versions knew no other preprocessing and did not write its name.
        fields.get("preprocessing", {}).setdefault("name", "squash")
        problem = find_damage(folder, fields["files"]) if fields["files"] else "there are no checksums"
    except (ValueError, TypeError, KeyError, AttributeError):
        problem = f"{METADATA} is broken"
    if problem:
        raise InputError(f"The weights in {folder} are damaged: {problem}; put a copy back.")
    with checkpointer() as reader:
        arrays = reader.restore(folder.resolve())
    has_branches = any(name.startswith("branches.") for name in arrays["params"])
    metadata = from_json(fields, has_branches=has_branches)
    return Weights(arrays["params"], arrays["batch_stats"], metadata, arrays.get("momentum"))


def checkpointer() -> ocp.StandardCheckpointer:
    """A checkpointer that does not wait for the other processes of a job."""
    own = ocp.options.MultiprocessingOptions(
        primary_host=jax.process_index(),
        active_processes={jax.process_index()},
        barrier_sync_key_prefix=f"weights{jax.process_index()}",
    )
    return ocp.StandardCheckpointer(multiprocessing_options=own)
