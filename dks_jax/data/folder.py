"""Images on disk as root/<split>/<class>/<image>, the layout of ImageNet."""

import os
import zlib
from pathlib import Path

import numpy as np

from dks_jax.data import decoding
from dks_jax.data.images import HeldOut, ImageData, StoredSplit, UnreadableError, first_per_class
from dks_jax.data.views import UndecodableError, View
from dks_jax.errors import InputError

EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"},
)
HELD_OUT_NAMES = ("test", "val")


def load(root: str, view: View, train_per_class: int = 0, test_per_class: int = 0) -> ImageData:
    """Lists root/train and root/test (or root/val), read as uint8 [image_size, image_size, 3] in RGB.

    Of every class the first train_per_class and test_per_class images are taken, 0 for all.

    The classes are the sorted class folders of train. An image that cannot be decoded raises
    UnreadableError when it is read.

    Raises InputError for an absent root or split, both test and val, a held-out class that train lacks and
    a class without images.
    """
    test, names = load_held_out(root, view, test_per_class)
    folder = Path(os.path.expanduser(root))
    train = _first(folder, "train", names, view, count=train_per_class, field="train_per_class")
    return ImageData(train, test, names)


def load_held_out(root: str, view: View, test_per_class: int = 0) -> HeldOut:
    """Lists root/test (or root/val) as `load` does, whether or not there is a root/train.

    Where there is none, the classes are the sorted class folders of the held-out split.

    Raises InputError as `load` does, but for the images of train.
    """
    folder = Path(os.path.expanduser(root))
    if not folder.is_dir():
        raise InputError(
            "`data.root` must be a folder that holds test (or val) and, for training, train; there is no "
            f"folder {root!r}."
        )
    found = [name for name in HELD_OUT_NAMES if (folder / name).is_dir()]
    # The test images of ImageNet have no classes, and lie beside val without class folders.
    found = [name for name in found if _class_folders(folder / name)] or found
    if len(found) != 1:
        finding = "both test and val" if found else "neither test nor val"
        raise InputError(
            f"`data.root` must hold exactly one of test and val with class folders; {root} holds {finding}."
        )
    names = class_names(folder / ("train" if (folder / "train").is_dir() else found[0]))
    split = _first(folder, found[0], names, view, count=test_per_class, field="test_per_class")
    return HeldOut(split, names)


def class_names(split_folder: Path) -> tuple[str, ...]:
    """Lists the class folders of a split in sorted order, hidden ones left out.

    Raises InputError where the split is absent or has no class folder.
    """
    if not split_folder.is_dir():
        raise InputError(f"{split_folder} is no folder; put one folder of images per class there.")
    names = _class_folders(split_folder)
    if not names:
        raise InputError(f"{split_folder} holds no class folder; put one folder of images per class there.")
    return tuple(names)


def _class_folders(split_folder: Path) -> list[str]:
    entries = split_folder.iterdir()
    return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def list_images(split_folder: Path, names: tuple[str, ...]) -> tuple[list[Path], np.ndarray]:
    """Lists the images of a split, in sorted path order, and their int32 labels (positions in names).

    Images lie at any depth below their class folder; see `find_images`.

    Raises InputError for a class folder that is not in names or holds no image.
    """
    paths: list[Path] = []
    labels: list[int] = []
    for name in class_names(split_folder):
        if name not in names:
            raise InputError(
                f"{split_folder / name} is no class of the training split; remove it or add it there."
            )
        found = find_images(split_folder / name)
        paths += found
        labels += [names.index(name)] * len(found)
    return paths, np.array(labels, dtype=np.int32)


def find_images(folder: Path) -> list[Path]:
    """Lists the image files below a folder, at any depth, in sorted path order.

    They are recognised by extension in either case; hidden files and those in hidden folders are left out.

    Raises InputError where there is none.
    """
    found: list[Path] = []
    # Its files are those of scandir, so that none of a million has to be asked what it is; links to absent
    # files are among them, which decoding reports.
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        images = (n for n in files if os.path.splitext(n)[1].lower() in EXTENSIONS and not n.startswith("."))
        found += [Path(parent, name) for name in images]
    found.sort()
    if not found:
        raise InputError(
            f"{folder} holds no image; remove it or add files that end in one of"
            f" {', '.join(sorted(EXTENSIONS))}."
        )
    return found


def decode(path: Path, view: View, rng: np.random.Generator | None = None) -> np.ndarray:
    """Decodes one image file to uint8 [image_size, image_size, 3] in RGB; see `decoding.decode`.

    Raises UnreadableError naming the file where it cannot be decoded or has more than 8 bits of grey.
    """
    try:
        return decoding.decode(path, view, rng)
    except UndecodableError as error:
        raise UnreadableError(str(path), f"{path} {error}; replace it or remove it.") from error


def _first(
    root: Path, split: str, names: tuple[str, ...], view: View, *, count: int, field: str
) -> StoredSplit:
    """The first `count` images of every class of a split, 0 for all."""
    paths, labels = list_images(root / split, names)
    kept = first_per_class(labels, count, names, field)
    return _stored([paths[i] for i in kept], labels[kept], root, view)


def _stored(paths: list[Path], labels: np.ndarray, root: Path, view: View) -> StoredSplit:
    """The listed images; their checksum is of names and sizes in bytes."""
    start = len(str(root / "_")) - 1
    listing = "".join(f"{str(path)[start:]} {_size(path)}\n" for path in paths)

    def read(index: int, rng: np.random.Generator | None = None) -> tuple[np.ndarray, int]:
        return decode(paths[index], view, rng), int(labels[index])

    def name(index: int) -> str:
        return paths[index].relative_to(root).as_posix()

    return StoredSplit(len(paths), view.shape, zlib.crc32(os.fsencode(listing)), read, name)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        # A link to an absent file is reported when it is decoded.
        return 0
