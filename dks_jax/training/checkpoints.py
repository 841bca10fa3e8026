"""Checkpoints of a run, which are written in the background, complete or absent, and verified before use.

The folder checkpoints/<step>/ holds the files of Orbax for the state, and complete.json. That file contains
"progress", everything that the loop needs besides the state; "files", the checksums of the other files; and
"checksum", the checksum of these two entries.
"""

import contextlib
import json
import os
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp

from dks_jax.runtime.errors import InputError, first_line
from dks_jax.runtime.files import atomic_write, checksums, find_damage, remove, require_room
from dks_jax.runtime.hosts import broadcast, from_primary, is_primary, lost, on_primary

State = TypeVar("State")
TEMPORARY = ".orbax-checkpoint-tmp"
SEAL = "complete.json"


def has_checkpoint(folder: Path) -> bool:
    """Whether a folder of checkpoints holds any, intact or damaged."""
    return bool(_steps(folder))


def last_progress(folder: Path) -> dict[str, Any] | None:
    """The progress in the last checkpoint that can be read, whose arrays may be damaged; None without any."""
    for step in reversed(_steps(folder)):
        with contextlib.suppress(FileNotFoundError, ValueError, TypeError, KeyError):
            return _read_seal(folder / str(step))["progress"]
    return None


class Checkpoints:
    """Saves and restores the checkpoints of a run.

    All processes of a job must call the same methods in the same order.

    Args:
      folder: folder of the checkpoints.
      keep: number of checkpoints that are kept, at least 1, besides the one that is being written.

    Attributes:
      latest: step of the last checkpoint that was restored or is being written; None if there is none.
    """

    def __init__(self, folder: Path, keep: int = 2):
        self.latest: int | None = None
        self._folder = folder.resolve()
        self._keep = keep
        # The other processes wait until the folder exists.
        on_primary(self._begin)
        self._whole: int | None = None
        self._progress: dict[str, Any] = {}
        self._checkpointer = ocp.AsyncCheckpointer(
            ocp.StandardCheckpointHandler(),
            async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
        )

    def restore_latest(self, like: State) -> tuple[State, dict[str, Any], list[str]] | None:
        """Restores the last intact checkpoint; returns None if there is no checkpoint.

        Args:
          like: state with the shapes, types and shardings of the state to restore.

        Returns:
          (state, progress, complaints), with a complaint for every later checkpoint, which is damaged.

        Raises:
          InputError: all checkpoints are damaged, or the last intact one does not fit this version of the
            program.
        """
        step, complaints = from_primary(self._last_whole)
        if step < 0:
            return None
        folder = self._folder / str(step)
        arrays = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like)
        # It is read once, and not by every process.
        arrays = broadcast(on_primary(lambda: _read(folder, arrays)) or arrays)
        placed = jax.tree.map(
            lambda x, own: jax.make_array_from_process_local_data(x.sharding, own), like, arrays
        )
        self.latest = self._whole = step
        complaints = [f"{complaint}; going on from step {step}" for complaint in complaints]
        return placed, _read_seal(folder)["progress"], complaints

    def save(self, step: int, state: Any, progress: dict[str, Any]) -> None:
        """Starts to write a checkpoint in the background, once the previous one is complete.

        If the step has been saved already, only the progress is written, because the state is the same.

        Raises:
          InputError: this checkpoint or the previous one cannot be written.
          LostHostError: another process of the job is gone.
        """
        self.wait()
        self._progress = progress
        if step == self.latest:
            on_primary(self._amend)
            return
        self.latest = step
        try:
            require_room(self._folder, state)
            args = ocp.args.StandardSave(state)
            # Forced, because a damaged checkpoint of the same step may be in the way.
            self._checkpointer.save(self._folder / str(step), args=args, force=True)
        except Exception as error:
            raise self._failure(error) from error

    def check(self) -> None:
        """Raises the errors of `save` if writing in the background has failed."""
        try:
            self._checkpointer.check_for_errors()
        except Exception as error:
            raise self._failure(error) from error

    def wait(self) -> None:
        """Waits until everything is written; raises the errors of `save`."""
        try:
            self._checkpointer.wait_until_finished()
        except Exception as error:
            raise self._failure(error) from error
        self._whole = self.latest
        self.keep(self._keep)

    def keep(self, number: int) -> None:
        """Removes all but the last `number` checkpoints; nothing may be being written."""
        if is_primary():
            for step in self._intact()[:-number]:
                remove(self._folder / str(step))

    def close(self) -> None:
        """Ends the background threads; errors are ignored here because `wait` has raised them."""
        with contextlib.suppress(Exception):
            self._checkpointer.close()

    def _begin(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        # A killed run may have left a half-written checkpoint.
        for path in self._folder.glob(f"*{TEMPORARY}*"):
            remove(path)

    def _seal(self) -> None:
        """Completes a checkpoint in the background, just before its folder gets its final name."""
        (folder,) = self._folder.glob(f"{self.latest}{TEMPORARY}*")
        files = checksums(folder)
        # Orbax changes this file after the folder has its final name, and can restore without it.
        del files["_CHECKPOINT_METADATA"]
        _write_seal(folder, {"progress": self._progress, "files": files})
        # Older and damaged ones go; the previous one stays until this one has its final name.
        kept = self._intact()[-max(1, self._keep - 1) :]
        for step in set(_steps(self._folder)) - set(kept):
            remove(self._folder / str(step))

    def _intact(self) -> list[int]:
        """The steps up to that of the last checkpoint known to be whole, whose successors are damaged."""
        return [step for step in _steps(self._folder) if self._whole is not None and step <= self._whole]

    def _amend(self) -> None:
        folder = self._folder / str(self.latest)
        _write_seal(folder, _read_seal(folder) | {"progress": self._progress})

    def _last_whole(self) -> tuple[int, list[str]]:
        """The step of the last intact checkpoint, -1 if there is none, and complaints about later ones.

        Raises:
          InputError: there are checkpoints, but all of them are damaged.
        """
        complaints = []
        for step in reversed(_steps(self._folder)):
            problem = _damage(self._folder / str(step))
            if problem is None:
                return step, complaints
            complaints.append(f"the checkpoint of step {step} is damaged: {problem}")
        if complaints:
            raise InputError(
                f"No checkpoint in {self._folder} is whole ({'; '.join(complaints)}): put a copy back, or "
                "delete the folder to start over."
            )
        return -1, []

    def _failure(self, error: Exception) -> Exception:
        if gone := lost(error):
            return gone
        whole = self._whole is not None and (self._folder / str(self._whole) / SEAL).exists()
        last = f"that of step {self._whole} is whole" if whole else "there is none before"
        return InputError(
            f"The checkpoint of step {self.latest} cannot be written to {self._folder} "
            f"({_reason(error)}; {last}): make sure that the disk has space and the folder is writable, and "
            "start the same command again."
        )


def _steps(folder: Path) -> list[int]:
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if name.isdecimal())


def _damage(folder: Path) -> str | None:
    try:
        return find_damage(folder, _read_seal(folder)["files"])
    # Other errors of the system may be temporary and say nothing about the checkpoint.
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return f"{SEAL} is missing or broken"


def _read(folder: Path, like: Any) -> Any:
    """Reads the arrays of a checkpoint in this process alone; `like` has the NumPy arrays to expect.

    Raises:
      InputError: the checkpoint holds others.
    """
    alone = ocp.options.MultiprocessingOptions(
        primary_host=jax.process_index(),
        active_processes={jax.process_index()},
        barrier_sync_key_prefix="read",
    )
    handler = ocp.StandardCheckpointHandler(multiprocessing_options=alone)
    try:
        with ocp.Checkpointer(handler, multiprocessing_options=alone) as checkpointer:
            arrays = checkpointer.restore(folder, args=ocp.args.StandardRestore(like))
        for own, expected in zip(jax.tree.leaves(arrays), jax.tree.leaves(like), strict=True):
            if own.shape != expected.shape:
                raise ValueError(f"an array has the shape {own.shape} and not {expected.shape}")
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"The checkpoint {folder} does not fit this version of dks-jax ({_reason(error)}): go on with "
            "the version that config.json names, or give another --workdir."
        ) from error
    return arrays


def _read_seal(folder: Path) -> dict[str, Any]:
    """Reads the seal of a checkpoint; raises ValueError, TypeError or KeyError if it is broken."""
    seal = json.loads((folder / SEAL).read_text())
    if seal.pop("checksum") != _checksum(seal):
        raise ValueError("The seal has changed since it was written.")
    return seal


def _write_seal(folder: Path, seal: dict[str, Any]) -> None:
    with atomic_write(folder / SEAL) as partial:
        partial.write_text(json.dumps({**seal, "checksum": _checksum(seal)}))


def _checksum(seal: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(seal, sort_keys=True).encode())


def _reason(error: BaseException) -> str:
    """The cause of an error in a few words, without the details that TensorStore adds."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    text = first_line(error)
    system_error = re.search(r"\[os_error_code='(\d+)'\]", text)
    return os.strerror(int(system_error[1])) if system_error else text[:300].rstrip(".")
