"""Checkpoints of a run: written in the background, complete or absent, verified before they are used.

checkpoints/<step>/ is what Orbax writes for the state, and complete.json beside it: "progress", whatever the
loop needs besides the state; "files", the checksums of the others; "checksum", that of these two.
"""

import contextlib
import json
import os
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from dks_jax.errors import InputError, first_line
from dks_jax.files import checksums, damage, remove, replacing, require_room
from dks_jax.hosts import lost, on_primary

State = TypeVar("State")
TEMPORARY = ".orbax-checkpoint-tmp"
SEAL = "complete.json"


def has_checkpoint(folder: Path) -> bool:
    """Whether a folder of checkpoints holds any, whole or damaged."""
    return bool(_steps(folder))


class Checkpoints:
    """The last two checkpoints of a run; a third while it is being written.

    All processes of a job call the same methods in the same order.

    latest: step of the last checkpoint that was restored or whose writing was begun; None without one.
    """

    def __init__(self, folder: Path):
        self.latest: int | None = None
        self._folder = folder.resolve()
        # The others wait until the folder is there.
        on_primary(self._begin)
        self._whole: int | None = None
        self._progress: dict[str, Any] = {}
        self._checkpointer = ocp.AsyncCheckpointer(
            ocp.StandardCheckpointHandler(),
            async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
        )

    def restore_latest(self, like: State) -> tuple[State, dict[str, Any], list[str]] | None:
        """What the last whole checkpoint holds; None where there is no checkpoint.

        Returns:
          The state, placed as `like` is; the progress; a line for every later checkpoint that is damaged.

        Raises:
          InputError: no checkpoint is whole, or the last whole one is of another version of the program.
        """
        step, complaints = on_primary(self._last_whole) or (-1, [])
        if jax.process_count() > 1:
            step = int(multihost_utils.broadcast_one_to_all(np.int32(step)))
        if step < 0:
            return None
        folder = self._folder / str(step)
        target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like)
        try:
            state = self._checkpointer.restore(folder, args=ocp.args.StandardRestore(target))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"The checkpoint {folder} does not fit this version of dks-jax ({_reason(error)}): go on "
                "with the version that config.json names, or give another --workdir."
            ) from error
        self.latest = self._whole = step
        complaints = [f"{complaint}; going on from step {step}" for complaint in complaints]
        return cast(State, state), _read_seal(folder)["progress"], complaints

    def save(self, step: int, state: Any, progress: dict[str, Any]) -> None:
        """Starts to write a checkpoint, once the one before is written; it counts once it is complete.

        Of a step that is saved already the progress alone is written: the state is the same.

        Raises:
          InputError: this or the one before cannot be written.
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
            # Only a damaged checkpoint of the same step can be in the way.
            self._checkpointer.save(self._folder / str(step), args=args, force=True)
        except Exception as error:
            raise self._failure(error) from error

    def check(self) -> None:
        """Raises InputError where writing in the background has failed."""
        try:
            self._checkpointer.check_for_errors()
        except Exception as error:
            raise self._failure(error) from error

    def wait(self) -> None:
        """Waits until everything is written; errors as of `check`."""
        try:
            self._checkpointer.wait_until_finished()
        except Exception as error:
            raise self._failure(error) from error
        self._whole = self.latest

    def close(self) -> None:
        """Ends the background threads. What goes wrong here is of no matter: `wait` has told of it."""
        with contextlib.suppress(Exception):
            self._checkpointer.close()

    def _begin(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        # What a killed run has left half-written.
        for path in self._folder.glob(f"*{TEMPORARY}*"):
            remove(path)

    def _seal(self) -> None:
        """Completes what has been written, in the background, just before it gets its final name."""
        (folder,) = self._folder.glob(f"{self.latest}{TEMPORARY}*")
        files = checksums(folder)
        # Orbax changes this one after the folder has got its final name, and reads a checkpoint without it.
        del files["_CHECKPOINT_METADATA"]
        _write_seal(folder, {"progress": self._progress, "files": files})
        # Older ones, and damaged ones; the one before stays until this one has its name.
        for step in _steps(self._folder):
            if step != self._whole:
                remove(self._folder / str(step))

    def _amend(self) -> None:
        folder = self._folder / str(self.latest)
        _write_seal(folder, _read_seal(folder) | {"progress": self._progress})

    def _last_whole(self) -> tuple[int, list[str]]:
        """The step of the last whole checkpoint, -1 where there is none, and the damage of later ones.

        Raises:
          InputError: there are checkpoints, all of them damaged.
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
            f"({_reason(error)}; {last}): see that there is room and that the folder can be written to, "
            "and start the same command again."
        )


def _steps(folder: Path) -> list[int]:
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if name.isdecimal())


def _damage(folder: Path) -> str | None:
    try:
        return damage(folder, _read_seal(folder)["files"])
    # Other errors of the system may pass, and tell nothing of the checkpoint.
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return f"{SEAL} is missing or broken"


def _read_seal(folder: Path) -> dict[str, Any]:
    """The seal of a checkpoint; ValueError, TypeError or KeyError where it is broken."""
    seal = json.loads((folder / SEAL).read_text())
    if seal.pop("checksum") != _checksum(seal):
        raise ValueError("The seal has changed since it was written.")
    return seal


def _write_seal(folder: Path, seal: dict[str, Any]) -> None:
    with replacing(folder / SEAL) as partial:
        partial.write_text(json.dumps({**seal, "checksum": _checksum(seal)}))


def _checksum(seal: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(seal, sort_keys=True).encode())


def _reason(error: BaseException) -> str:
    """What is wrong, in a few words, though TensorStore tells all that it was doing."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    text = first_line(error)
    system_error = re.search(r"\[os_error_code='(\d+)'\]", text)
    return os.strerror(int(system_error[1])) if system_error else text[:300].rstrip(".")
