"""The folder of a run, bound to one config and one data set by its config.json."""

import json
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from dks_jax.configuration import Config, flatten
from dks_jax.data.images import ImageData
from dks_jax.errors import InputError
from dks_jax.files import replacing

PACKAGES = ("dks-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def check(folder: Path, config: Config) -> None:
    """Checks that `folder` is absent, empty, or the folder of a run with the same config.

    Raises:
      InputError: it is a file, holds something else, or belongs to a run with another config.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"`--workdir` must be a folder; {folder} is a file.")
    if description := _read(folder):
        before, now = flatten(description["config"]), flatten(json.loads(config.to_json()))
        _refuse_changes(folder, "config", before, now)


def create(folder: Path, config: Config, images: ImageData) -> None:
    """Makes the folder and its config.json, or adds to it what is different since the run was started.

    config.json holds "config"; "data": the numbers of images and the class names; "versions", "devices" and
    "commit" of the first start; and the same of later starts, where they are others, under "resumed".

    Raises:
      InputError: the folder belongs to a run on other data.
    """
    data = {
        "train_images": len(images.train.labels),
        "test_images": len(images.test.labels),
        "class_names": list(images.class_names),
    }
    program = {
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
        "devices": [f"{device.platform}: {device.device_kind}" for device in jax.devices()],
        "commit": _commit(),
    }
    description = _read(folder)
    if description:
        _refuse_changes(folder, "data", description["data"], data)
        starts = [{key: description[key] for key in program}, *description["resumed"]]
        if starts[-1] == program:
            return
        description["resumed"].append(program)
    else:
        description = {"config": json.loads(config.to_json()), "data": data, **program, "resumed": []}
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "config.json") as partial:
        partial.write_text(json.dumps(description, indent=2) + "\n")


def _read(folder: Path) -> dict[str, Any] | None:
    """The config.json of a run; None where the folder is absent or empty."""
    if not folder.exists() or not [path for path in folder.iterdir() if path.suffix != ".partial"]:
        return None
    try:
        description = json.loads((folder / "config.json").read_text())
        if {"config", "data", "versions", "devices", "commit", "resumed"} <= description.keys():
            return description
    except (FileNotFoundError, ValueError, AttributeError):
        pass
    raise InputError(
        f"The workdir {folder} holds files, but no config.json of a run: give a new or empty --workdir."
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
    """The git commit of this library, with "-dirty" where files differ from it; "unknown" outside git."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        # An installed copy may lie in somebody else's repository.
        git("ls-files", "--error-unmatch", "workdir.py")
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
