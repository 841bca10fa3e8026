"""Checkpoints of a run, and weights to deploy; both in Orbax's format, complete or absent.

The folder of weights is what `orbax.checkpoint.StandardCheckpointer().save` writes for
{"params": {name: array}, "batch_stats": {name: array}}, and metadata.json beside it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import jax
import orbax.checkpoint as ocp

from dks_jax.errors import InputError
from dks_jax.files import replacing
from dks_jax.functional import Arrays, set_arrays
from dks_jax.models import build
from dks_jax.supervision import DeeplySupervised

State = TypeVar("State")


class Checkpoints:
    """The last two checkpoints of a run, written in the background while training goes on."""

    def __init__(self, folder: Path):
        # What a killed run left half-written is removed.
        options = ocp.CheckpointManagerOptions(max_to_keep=2, cleanup_tmp_directories=True)
        self._manager = ocp.CheckpointManager(folder.resolve(), options=options)

    def save(self, step: int, state: Any) -> None:
        """Starts to write a checkpoint; it counts once it is complete."""
        self._manager.save(step, args=ocp.args.StandardSave(state))

    def restore_latest(self, like: State) -> State | None:
        """The state of the last complete checkpoint, placed as `like` is; None where there is none."""
        step = self._manager.latest_step()
        if step is None:
            return None
        target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like)
        return cast(State, self._manager.restore(step, args=ocp.args.StandardRestore(target)))

    def close(self) -> None:
        """Waits until everything is written."""
        self._manager.wait_until_finished()
        self._manager.close()


def save_weights(
    folder: Path,
    params: Mapping[str, jax.Array],
    batch_stats: Mapping[str, jax.Array],
    metadata: Mapping[str, Any],
) -> None:
    """Writes weights and their metadata; `folder` appears, or is replaced, once they are complete."""
    # From the host, because Orbax restores a device's array onto the same number of devices only.
    arrays = jax.device_get({"params": dict(params), "batch_stats": dict(batch_stats)})
    with replacing(folder) as partial:
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(partial.resolve(), arrays)
        (partial / "metadata.json").write_text(json.dumps(metadata, indent=2) + "\n")


def load_weights(folder: Path) -> tuple[Arrays, Arrays, dict[str, Any]]:
    """(params, batch_stats, metadata) of a folder of weights.

    Raises:
      InputError: the folder holds no weights.
    """
    metadata = folder / "metadata.json"
    if not metadata.is_file():
        raise InputError(f"{folder} holds no weights: there is no metadata.json; give the weights/ of a run.")
    with ocp.StandardCheckpointer() as checkpointer:
        arrays = checkpointer.restore(folder.resolve())
    return arrays["params"], arrays["batch_stats"], json.loads(metadata.read_text())


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
