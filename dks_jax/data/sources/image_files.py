"""The image files below a folder, and the other files that lie among them."""

import os
import warnings
from pathlib import Path
from typing import NamedTuple

from PIL import Image

# Files that end in one of these count as images without being opened, which matters for a million images.
EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"},
)
# The header of such a file is enough to know that it is an image; Pillow knows the headers of other formats,
# e.g. of films, that it cannot decode.
DECODED = frozenset({"AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP"})


class Found(NamedTuple):
    """Files below a folder, each list sorted by path.

    images: files that are images.
    others: files that are not.
    """

    images: list[Path]
    others: list[Path]


def find(folder: Path, *, deep: bool = True) -> Found:
    """Lists the files below a folder, at any depth, in linked folders too; without hidden files and folders.

    A file is an image if it has a usual ending, in lower or upper case, or if Pillow can read it.

    Args:
      deep: whether to look into the folders below.
    """
    found = Found([], [])
    _visit(folder, found, frozenset(), deep)
    found.images.sort()
    found.others.sort()
    return found


def _visit(folder: Path, found: Found, above: frozenset[tuple[int, int]], deep: bool) -> None:
    status = folder.stat()
    identity = status.st_dev, status.st_ino
    if identity in above:
        # A link leads back to a folder that contains it.
        return
    # Scanning sorts entries into files and folders without a system call for each.
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                if deep:
                    _visit(folder / entry.name, found, above | {identity}, deep)
            else:
                # Links to absent files with a usual ending are images too, which decoding reports.
                path = folder / entry.name
                (found.images if _is_image(path) else found.others).append(path)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in EXTENSIONS or (path.is_file() and _opens(path))


def _opens(path: Path) -> bool:
    with warnings.catch_warnings():
        # Pillow warns of unusual metadata and sizes, although it decodes the images correctly.
        warnings.simplefilter("ignore")
        try:
            with Image.open(path) as image:
                if image.format not in DECODED:
                    image.load()
        # The plugins raise many types on files that are not theirs.
        except Exception:
            return False
    return True
