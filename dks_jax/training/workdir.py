"""The folder of a run, which its config.json binds to one config and one set of images."""

import fcntl
import json
import os
import platform
import subprocess
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, TypeAlias

import jax
import numpy as np

from dks_jax import models
from dks_jax.config import Config, recorded
from dks_jax.data.images import ImageData
from dks_jax.reporting.metrics_log import records_until
from dks_jax.runtime import hosts
from dks_jax.runtime.errors import InputError
from dks_jax.runtime.files import atomic_write
from dks_jax.training import open_fields
from dks_jax.training.checkpoints import has_checkpoint, last_progress

# The files and folders that mark a folder as the workdir of a run.
FILES = (
    "checkpoints",
    "weights",
    "best_weights",
    "raw_weights",
    "metrics.jsonl",
    "curves.png",
    "config.json",
)
# Fields that may change when a run resumes: they do not affect its result as long as the images agree.
FREE_FIELDS = ("data.root", "checkpoint_every_epochs", "checkpoint_every_minutes", "checkpoint_keep")
# Fields that may differ from now on where the user asks for it.
CHANGEABLE_FIELDS = ("optimizer.learning_rate", "optimizer.drop_epochs", "optimizer.drop_factor")
PACKAGES = ("dks-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
# By the name of a field, [value before, value now], as JSON has them.
Changes: TypeAlias = dict[str, list[Any]]


def check(folder: Path, config: Config, *, change: bool = False) -> None:
    """Checks that `folder` does not belong to a run, or belongs to a run that can go on with `config`.

    Args:
      change: whether CHANGEABLE_FIELDS may differ.

    Raises:
      InputError: it is a file, holds files named as those of a run, or belongs to a run with another config.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"`--workdir` must be a folder; {folder} is a file.")
    if description := _read(folder):
        progress = last_progress(folder / "checkpoints") or {"epoch": 0, "batch": 0}
        begun = progress["epoch"] + bool(progress["batch"])
        changes = _changes(description, config)
        refused = {
            name: [before, now]
            for name, (before, now) in changes.items()
            if not _may_change(name, before, now, begun, change)
        }
        remedy = ", or --change to go on with the new ones" if refused.keys() <= {*CHANGEABLE_FIELDS} else ""
        _refuse(folder, "config", refused, remedy)


def adopt(folder: Path, config: Config) -> Config:
    """The config, where the run in `folder` has found the fields that it leaves open; see `open_fields`.

    Raises:
      InputError: the folder holds files named as those of a run, but no run.
    """
    description = _read(folder)
    return (
        open_fields.adopt(config, recorded(description["config"], models.arguments))
        if description
        else config
    )


def _may_change(name: str, before: Any, now: Any, begun: int, change: bool) -> bool:
    """Whether a field of the config may differ from what it was; one line for each rule.

    Args:
      begun: number of epochs of which at least one step has been trained.
      change: see `check`.
    """
    return (
        name in FREE_FIELDS
        or open_fields.is_open(name, before)
        or (change and name in CHANGEABLE_FIELDS)
        or (name == "epochs" and now > before)
        or (name == "optimizer.drop_epochs" and _up_to(begun, before) == _up_to(begun, now))
    )


def _up_to(begun: int, drop_epochs: Collection[int]) -> list[int]:
    """The drops that have taken effect: each does at the start of its epoch."""
    return [epoch for epoch in drop_epochs if epoch <= begun]


def _changes(description: dict[str, Any], config: Config) -> Changes:
    """The fields of the config that differ from those in config.json."""
    now = json.loads(config.to_json())
    return _differences(*(recorded(fields, models.arguments) for fields in (description["config"], now)))


def _differences(before: dict[str, Any], now: dict[str, Any]) -> Changes:
    return {
        name: [before.get(name), now.get(name)]
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    }


def schedule_changes(resumed: list[Any], schedule: str) -> list[dict[str, Any]]:
    """The changes by which the learning rate of a run was once another one than its config says.

    Args:
      resumed: the list of this name in config.json.
      schedule: value of `optimizer.schedule`; except with step, the rate depends on `epochs` too.
    """
    names = {*CHANGEABLE_FIELDS, *([] if schedule == "step" else ["epochs"])}
    starts = [start for start in resumed if isinstance(start, dict)]
    # A change before the first step has replaced nothing.
    changes = [start for start in starts if start.keys() & names and start.get("step") != 0]
    return [{name: value for name, value in change.items() if name in {"step", *names}} for change in changes]


def is_finished(folder: Path, config: Config) -> bool:
    """Whether the folder is that of a finished run without checkpoints, of which `check` accepts the config.

    Raises:
      InputError: the checkpoints of the run were deleted, and it cannot go on without.
    """
    description, checkpoints = _read(folder), folder / "checkpoints"
    if not description or has_checkpoint(checkpoints):
        return False
    logged = max((record["epoch"] for record in records_until(folder / "metrics.jsonl")), default=0)
    if (folder / "weights").exists():
        # Without its log the run is taken to have trained for as long as its config says.
        if (logged or recorded(description["config"], models.arguments)["epochs"]) == config.epochs:
            return True
        raise InputError(
            f"The run in {folder} has weights/ of an earlier epoch than `epochs`, {config.epochs}, but no "
            "checkpoint to go on from: start in another --workdir with "
            f"--config.init_weights={folder / 'weights'}."
        )
    # A run that was killed before its first checkpoint leaves the folder for it, and starts over.
    if logged and not checkpoints.exists():
        raise InputError(
            f"The run in {folder} has logged {logged} epochs, but has no checkpoint to go on from: put "
            f"{checkpoints} back, or delete the folder to start over."
        )
    return False


@contextmanager
def claim(
    folder: Path,
    config: Config,
    images: ImageData,
    teachers: Sequence[int] = (),
    *,
    config_file: str = "",
    change: bool = False,
) -> Iterator[None]:
    """A context manager that creates the folder and its config.json, and locks the folder for this run.

    Args:
      teachers: checksums of the frozen teachers.
      config_file: name of the file of the config, for config.json.
      change: see `check`.

    Raises:
      InputError: the folder belongs to a run with another config, data or teachers, or another program trains
        in it.
    """
    with ExitStack() as held:

        def begin() -> None:
            folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(_locked(folder))
            # Repeated because another program may have used the folder while the data were loaded.
            check(folder, config, change=change)
            _describe(folder, config, images, teachers, config_file)

        hosts.on_primary(begin)
        if not hosts.is_primary():
            # Every process must see the same folder and the same data as the primary one.
            if not (folder / "config.json").exists():
                raise InputError(
                    f"`--workdir` must be on a disk that all processes of the job see; {folder} is not the "
                    "folder of process 0 here."
                )
            _describe(folder, config, images, teachers, config_file)
        yield


def in_use(folder: Path) -> bool:
    """Whether a program trains in `folder`, as far as its file system has locks."""
    if not folder.is_dir():
        return False
    try:
        with _locked(folder):
            return False
    except InputError:
        return True


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Locks the folder itself, so that no lock file is left and the lock ends with the program."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise InputError(
            f"Another program trains in {folder}: wait for it, or give another --workdir."
        ) from error
    except OSError:
        # Some network file systems do not support locks.
        pass
    try:
        yield
    finally:
        os.close(descriptor)


def _describe(
    folder: Path, config: Config, images: ImageData, teachers: Sequence[int], config_file: str
) -> None:
    """Writes config.json, or adds the circumstances of a later start to it.

    config.json holds "config"; "data", the numbers and checksums of the images, the class names, and the
    checksums of a file of labels and of the teachers where there are any;
    "config_file", "versions", "devices", "processes" and "commit" of the first start; and "resumed", a list
    of these five for each later start at which they changed, and of what `record_changes` adds.

    Raises:
      InputError: the folder belongs to a run on other data.
    """
    data = {
        "train_images": images.train.num_examples,
        "test_images": images.test.num_examples,
        "train_checksum": images.train.checksum,
        "test_checksum": images.test.checksum,
        "class_names": list(images.class_names),
    }
    if images.relabel:
        # A file of labels may change under a run.
        every = np.arange(images.train.num_examples)
        data["given_labels"] = zlib.crc32(images.relabel(every, np.zeros(len(every), np.int32)).tobytes())
    if teachers:
        data["given_teachers"] = list(teachers)
    program = {
        "config_file": config_file,
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
        "devices": [f"{device.platform}: {device.device_kind}" for device in jax.devices()],
        "processes": jax.process_count(),
        "commit": _commit(),
    }
    description = _read(folder)
    if description:
        if "given_teachers" not in description["data"]:
            # Earlier versions did not record them.
            data.pop("given_teachers", None)
        changes = _differences(description["data"], data)
        # A damaged or repaired image changes nothing but the checksums.
        if all(name.endswith("_checksum") for name in changes):
            remedy = ", or --skip_unreadable where images were only damaged or repaired"
            changes = changes if images.exact else {}
        else:
            remedy = ""
        _refuse(folder, "data", changes, remedy)
        start = [start for start in (description, *description["resumed"]) if "versions" in start][-1]
        # Earlier versions did not record the name of the config file.
        if all(start.get(key, program[key]) == program[key] for key in program) or not hosts.is_primary():
            return
        description["resumed"].append(program)
    else:
        description = {"config": json.loads(config.to_json()), "data": data, **program, "resumed": []}
    _write(folder, description)


def record_changes(folder: Path, config: Config, step: int) -> Changes:
    """Brings config.json up to date with a config that `check` accepts, and returns what has changed in it.

    The list "resumed" gets an entry {"step": step, "FIELD": [before, now], ...} with all changed fields.

    Args:
      step: step from which the run goes on.
    """
    description = _read(folder)
    assert description is not None
    changes = _changes(description, config)
    if changes:
        description["config"] = json.loads(config.to_json())
        description["resumed"].append({"step": step, **changes})
        _write(folder, description)
    return changes


def _write(folder: Path, description: dict[str, Any]) -> None:
    with atomic_write(folder / "config.json") as partial:
        partial.write_text(json.dumps(description, indent=2) + "\n")


def _read(folder: Path) -> dict[str, Any] | None:
    """The contents of config.json; None if the folder holds nothing that a run writes.

    Raises:
      InputError: the folder holds such files, but no valid config.json.
    """
    found = [name for name in FILES if (folder / name).exists()]
    if not found:
        return None
    try:
        description = json.loads((folder / "config.json").read_text())
        kinds = {
            "config": dict,
            "data": dict,
            "versions": dict,
            "devices": list,
            "processes": int,
            "commit": str,
            "resumed": list,
        }
        if all(isinstance(description[key], kind) for key, kind in kinds.items()):
            return description
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        pass
    raise InputError(
        f"The workdir {folder} holds {', '.join(found)}, but no config.json of a run: give another --workdir."
    )


def _refuse(folder: Path, what: str, changes: Changes, remedy: str = "") -> None:
    if changes:
        listed = "; ".join(f"{name} was {before!r} and is {now!r}" for name, (before, now) in changes.items())
        raise InputError(
            f"The workdir {folder} belongs to a run with other {what} ({listed}): give another --workdir, or "
            f"the same {what} to go on{remedy}."
        )


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    """The git commit of this library, with "-dirty" if files differ from it; "unknown" outside git."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        # An installed copy may lie inside another project's repository.
        git("ls-files", "--error-unmatch", "workdir.py")
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
