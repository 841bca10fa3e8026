"""Weights on disk: a folder in Orbax's format, complete or absent.

The folder is what `orbax.checkpoint.StandardCheckpointer().save` writes for {"params": {name: array},
"batch_stats": {name: array}}, with "momentum" where the weights come with it, and metadata.json beside it,
with checksums of the other files.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import jax
import orbax.checkpoint as ocp

from dks_jax.errors import InputError, printable
from dks_jax.files import checksums, damage, replacing, require_room
from dks_jax.models import Network

METADATA = "metadata.json"
# What the metadata must have to use weights, and of which type.
FIELDS = {
    "model.name": str,
    "class_names": list | tuple,
    "preprocessing.name": str,
    "preprocessing.height": int,
    "preprocessing.width": int,
    "preprocessing.channels": int,
    "preprocessing.mean": list | tuple,
    "preprocessing.std": list | tuple,
}
# Arrays of JAX or of NumPy by name.
Named: TypeAlias = dict[str, Any]


class Weights(NamedTuple):
    """The arrays of a network by name, and what it takes to use them.

    momentum: of the optimizer, for every parameter; None where it was not kept.
    metadata: "model", as `config.model` has it; "class_names"; "preprocessing": "name", "height", "width",
      "channels", "mean" and "std", and "assumed" where these are not known; "epoch" and "test_error" where
      they are known.
    """

    params: Named
    batch_stats: Named
    metadata: dict[str, Any]
    momentum: Named | None = None

    @property
    def num_branches(self) -> int:
        """How many branches the network has."""
        return len({name.split(".")[1] for name in self.params if name.startswith("branches.")})

    @property
    def network(self) -> Network:
        """The network, as the metadata describe it.

        Raises:
          InputError: the metadata, which are a text that can be edited, lack a field.
        """
        for field, kind in FIELDS.items():
            value: Any = self.metadata
            for key in field.split("."):
                value = value.get(key) if isinstance(value, dict) else None
            if not isinstance(value, kind):
                raise InputError(
                    f"The metadata of the weights must have `{field}` as it was written; got "
                    f"{printable(repr(value))}: put a copy of {METADATA} back."
                )
        return Network(
            self.metadata["model"],
            num_classes=len(self.metadata["class_names"]),
            channels=self.metadata["preprocessing"]["channels"],
            branches=self.num_branches > 0,
        )


def save_weights(folder: Path, weights: Weights) -> None:
    """Writes weights and their metadata; `folder` appears, or is replaced, once they are complete.

    In a job of several processes one alone calls it.
    """
    arrays = {"params": dict(weights.params), "batch_stats": dict(weights.batch_stats)}
    if weights.momentum is not None:
        arrays["momentum"] = dict(weights.momentum)
    # From the host, because Orbax restores a device's array onto the same number of devices only.
    arrays = jax.device_get(arrays)
    require_room(folder.parent, arrays)
    with replacing(folder) as partial:
        with _checkpointer() as checkpointer:
            checkpointer.save(partial.resolve(), arrays)
        description = {**weights.metadata, "files": checksums(partial)}
        (partial / METADATA).write_text(json.dumps(description, indent=2) + "\n")


def load_folder(folder: Path) -> Weights:
    """The weights in a folder that `save_weights` has written.

    Raises:
      InputError: they are damaged.
    """
    metadata: dict[str, Any] = {}
    try:
        metadata = json.loads((folder / METADATA).read_text())
        # Weights of before there was a choice.
        metadata.get("preprocessing", {}).setdefault("name", "squash")
        problem = damage(folder, metadata["files"]) if metadata["files"] else "no checksums are there"
    except (ValueError, TypeError, KeyError, AttributeError):
        problem = f"{METADATA} is broken"
    if problem:
        raise InputError(f"The weights in {folder} are damaged: {problem}; put a copy back.")
    with _checkpointer() as checkpointer:
        arrays = checkpointer.restore(folder.resolve())
    return Weights(arrays["params"], arrays["batch_stats"], metadata, arrays.get("momentum"))


def _checkpointer() -> ocp.StandardCheckpointer:
    """One that does not wait for other processes of a job."""
    own = ocp.options.MultiprocessingOptions(
        primary_host=jax.process_index(),
        active_processes={jax.process_index()},
        barrier_sync_key_prefix=f"weights{jax.process_index()}",
    )
    return ocp.StandardCheckpointer(multiprocessing_options=own)
