"""Files and folders that are never half-written, and those that were damaged afterwards."""

import shutil
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write a file or folder to; it takes the place of `path` once the block ends.

    Where the block fails `path` stays as it was.
    """
    partial = path.with_name(path.name + ".partial")
    remove(partial)
    try:
        with naming(path):
            yield partial
    except BaseException:
        remove(partial)
        raise
    # A folder cannot replace another one: the old one steps aside until the new one is there.
    old = path.with_name(path.name + ".old.partial")
    remove(old)
    if path.is_dir():
        path.replace(old)
    partial.replace(path)
    remove(old)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Gives an OSError that comes without one the name of the file being written."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def remove(path: Path) -> None:
    """Removes a file or a folder with all that it holds, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def checksums(folder: Path) -> dict[str, int]:
    """The CRC-32 of every file below a folder, by its path from there."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): _crc(path) for path in files}


def damage(folder: Path, expected: Mapping[str, int]) -> str | None:
    """What is wrong with the files that `checksums` has seen in a folder, None where nothing is."""
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
