"""Writes files and folders completely or not at all, and finds damage that comes later."""

import errno
import glob
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax

from dks_jax.runtime.errors import InputError


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A context manager that gives a path beside `path`, to write a file or folder that then replaces `path`.

    It replaces `path` at the end of the block; if the block fails, `path` stays as it was.
    """
    partial = path.with_name(path.name + ".partial")
    old = path.with_name(path.name + ".partial.old")
    _remove_all(partial)
    try:
        with naming(path):
            yield partial
            # A folder cannot replace another one: the old one steps aside until the new one is there.
            if path.is_dir():
                path.replace(old)
            partial.replace(path)
    except BaseException:
        if old.exists() and not path.exists():
            old.replace(path)
        _remove_all(partial)
        raise
    remove(old)


def require_writable(path: Path, flag: str) -> None:
    """Raises InputError if `atomic_write` cannot write the file `path`, which the flag `flag` names."""
    if path.exists() and not path.is_file():
        kind = "folder" if path.is_dir() else "device"
        raise InputError(f"`{flag}` must name a file; {path} is a {kind}.")
    if not path.parent.is_dir():
        raise InputError(f"`{flag}` must name a file in a folder that exists; there is no {path.parent}.")
    try:
        tempfile.TemporaryFile(dir=path.parent, prefix=f"{path.name}.partial").close()
    except OSError as error:
        raise InputError(
            f"`{flag}` must name a file that can be written; got {path}: {error.strerror}."
        ) from error


def _remove_all(partial: Path) -> None:
    """Removes a partial file or folder and the temporary files beside it that a writer named after it."""
    for path in partial.parent.glob(glob.escape(partial.name) + "*"):
        remove(path)


def require_room(folder: Path, arrays: Any) -> None:
    """Raises OSError if a folder is too full for a pytree of arrays, is read-only or does not exist.

    Writing would raise it as well, but Orbax would also print the tracebacks of its threads.
    """
    with naming(folder), tempfile.TemporaryFile(dir=folder):
        free = shutil.disk_usage(folder).free
    # This is an upper bound: Orbax compresses the arrays and adds an index.
    needed = 1_000_000 + sum(array.nbytes * 11 // 10 for array in jax.tree.leaves(arrays))
    if free < needed:
        reason = f"No space left on device: {needed / 1e6:.1f} MB needed, {free / 1e6:.1f} MB free"
        raise OSError(errno.ENOSPC, reason, str(folder))


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """A context manager that names the file being written in an OSError that names none."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def remove(path: Path) -> None:
    """Removes a file, or a folder with its contents, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def checksums(folder: Path) -> dict[str, int]:
    """The CRC-32 checksums of all files below a folder, by relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): _crc(path) for path in files}


def find_damage(folder: Path, expected: Mapping[str, int]) -> str | None:
    """The first difference between a folder and its earlier `checksums`, in words; None if there is none."""
    for name, checksum in expected.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if _crc(folder / name) != checksum:
            return f"{name} has changed since it was written"
    return None


def _crc(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            checksum = zlib.crc32(block, checksum)
    return checksum
