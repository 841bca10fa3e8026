"""Files and folders that are never half-written."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write a file or folder to; it takes the place of `path` once the block ends.

    Where the block fails `path` stays as it was.
    """
    partial = path.with_name(path.name + ".partial")
    _remove(partial)
    try:
        yield partial
    except BaseException:
        _remove(partial)
        raise
    # A folder cannot replace another one: the old one steps aside until the new one is there.
    old = path.with_name(path.name + ".old.partial")
    _remove(old)
    if path.is_dir():
        path.replace(old)
    partial.replace(path)
    _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
