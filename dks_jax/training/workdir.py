"""The folder of a run, which its config.json binds to one config and one set of images."""

import fcntl
import json
import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from dks_jax import models
from dks_jax.config import Config, recorded
from dks_jax.data.images import ImageData
from dks_jax.runtime import hosts
from dks_jax.runtime.errors import InputError
from dks_jax.runtime.files import atomic_write

# The files and folders that mark a folder as the workdir of a run.
FILES = ("checkpoints", "weights", "best_weights", "metrics.jsonl", "curves.png", "config.json")
# Fields that may change when a run resumes: they do not affect its result as long as the images agree.
FREE_FIELDS = ("data.root", "checkpoint_every_epochs", "checkpoint_every_minutes")
PACKAGES = ("dks-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def check(folder: Path, config: Config) -> None:
    """Checks that `folder` does not belong to a run, or belongs to a run with the same config.

    Raises:
      InputError: it is a file, holds files named as those of a run, or belongs to a run with another config.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"`--workdir` must be a folder; {folder} is a file.")
    if description := _read(folder):
        before, now = (
            {n: value for n, value in recorded(fields, models.arguments).items() if n not in FREE_FIELDS}
            for fields in (description["config"], json.loads(config.to_json()))
        )
        _refuse_changes(folder, "config", before, now)


@contextmanager
def claim(folder: Path, config: Config, images: ImageData) -> Iterator[None]:
    """A context manager that creates the folder and its config.json, and locks the folder for this run.

    Raises:
      InputError: the folder belongs to a run with another config or data, or another program trains in it.
    """
    with ExitStack() as held:

        def begin() -> None:
            folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(_locked(folder))
            # Repeated because another program may have used the folder while the data were loaded.
            check(folder, config)
            _describe(folder, config, images)

        hosts.on_primary(begin)
        if not hosts.is_primary():
            # Every process must see the same folder and the same data as the primary one.
            if not (folder / "config.json").exists():
                raise InputError(
                    f"`--workdir` must be on a disk that all processes of the job see; {folder} is not the "
                    "folder of process 0 here."
                )
            _describe(folder, config, images)
        yield


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


def _describe(folder: Path, config: Config, images: ImageData) -> None:
    """Writes config.json, or adds the circumstances of a later start to it.

    config.json holds "config"; "data", the numbers and checksums of the images and the class names;
    "versions", "devices", "processes" and "commit" of the first start; and "resumed", a list of these four
    for each later start at which they changed.

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
    program = {
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
        "devices": [f"{device.platform}: {device.device_kind}" for device in jax.devices()],
        "processes": jax.process_count(),
        "commit": _commit(),
    }
    description = _read(folder)
    if description:
        _refuse_changes(folder, "data", description["data"], data)
        starts = [{key: description[key] for key in program}, *description["resumed"]]
        if starts[-1] == program or not hosts.is_primary():
            return
        description["resumed"].append(program)
    else:
        description = {"config": json.loads(config.to_json()), "data": data, **program, "resumed": []}
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


def _refuse_changes(folder: Path, what: str, before: dict[str, Any], now: dict[str, Any]) -> None:
    changes = [
        f"{name} was {before.get(name)!r} and is {now.get(name)!r}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
    if changes:
        raise InputError(
            f"The workdir {folder} belongs to a run with other {what} ({'; '.join(changes)}): give another "
            f"--workdir, or the same {what} to go on."
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
