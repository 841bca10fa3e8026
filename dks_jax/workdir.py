"""The folder of a run, bound to one config by its config.json."""

import json
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import jax

from dks_jax.configuration import Config, flatten
from dks_jax.errors import InputError
from dks_jax.logs import write_text

PACKAGES = ("dks-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def check(folder: Path, config: Config) -> None:
    """Checks that `folder` is new, or the folder of a run with the same config.

    Raises:
      InputError: it is a file, or its config.json holds another config.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"`--workdir` must be a folder; {folder} is a file.")
    description = folder / "config.json"
    if not description.exists():
        return
    before = flatten(json.loads(description.read_text())["config"])
    now = flatten(json.loads(config.to_json()))
    changes = [
        f"{field} was {before.get(field)!r} and is {now.get(field)!r}"
        for field in sorted(before.keys() | now.keys())
        if before.get(field) != now.get(field)
    ]
    if changes:
        raise InputError(
            f"The workdir {folder} belongs to a run with another config ({'; '.join(changes)}): give another "
            "--workdir, or the same config to go on."
        )


def create(folder: Path, config: Config) -> None:
    """Makes the folder and its config.json: config, versions, devices and commit.

    Raises:
      InputError: the folder cannot be written.
    """
    description = {
        "config": json.loads(config.to_json()),
        "versions": {"python": platform.python_version()} | {p: metadata.version(p) for p in PACKAGES},
        "devices": [f"{device.platform}: {device.device_kind}" for device in jax.devices()],
        "commit": _commit(),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "config.json", json.dumps(description, indent=2) + "\n")
    except OSError as error:
        raise InputError(
            f"The workdir {folder} cannot be written ({error.strerror}); give another --workdir."
        ) from error


def _commit() -> str:
    """The git commit of this library, with "-dirty" where files differ from it; "unknown" outside git."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
