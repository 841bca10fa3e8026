"""Image files in folders root/<split>/<class>/, the layout of ImageNet."""

import os
import zlib
from pathlib import Path

import numpy as np

from dks_jax.data import decoding
from dks_jax.data.images import HeldOut, ImageData, StoredSplit, UnreadableError, first_per_class
from dks_jax.data.preprocessing import UndecodableError, View
from dks_jax.data.sources.interface import Source
from dks_jax.runtime.errors import InputError

EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"},
)
HELD_OUT_NAMES = ("test", "val")


def load(root: str, view: View, train_per_class: int = 0, test_per_class: int = 0) -> ImageData:
    """Lists the images of root/train and of root/test (or root/val), which are decoded when they are read.

    The classes are the sorted class folders of train.

    Args:
      root: folder of the data.
      view: size, channels and preprocessing of the images.
      train_per_class, test_per_class: number of images to take of each class, the first ones; 0 for all.

    Raises:
      InputError: the root or a split is absent, there are both test and val, train lacks a class of the
        held-out split, or a class has no images.
    """
    test, names = load_held_out(root, view, test_per_class)
    folder = Path(os.path.expanduser(root))
    train = _first(folder, "train", names, view, count=train_per_class, field="train_per_class")
    return ImageData(train, test, names)


def load_held_out(root: str, view: View, test_per_class: int = 0) -> HeldOut:
    """Lists only the images of root/test (or root/val), as `load` does; root/train may be absent.

    Without root/train the classes are the sorted class folders of the held-out split.

    Raises:
      InputError: as for `load`, except that the images of train are not looked at.
    """
    folder = Path(os.path.expanduser(root))
    if not folder.is_dir():
        raise InputError(
            "`data.root` must be a folder that holds test (or val) and, for training, train; there is no "
            f"folder {root!r}."
        )
    found = [name for name in HELD_OUT_NAMES if (folder / name).is_dir()]
    # ImageNet's test images have no labels, so its test has no class folders and the held-out split is val.
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
    """The names of the class folders of a split in sorted order, without hidden ones.

    Raises:
      InputError: the split is absent or has no class folder.
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
    """Lists the images of a split, class by class, and their labels, int32 [example].

    The images of a class may lie at any depth below its folder; see `find_images`.

    Args:
      split_folder: folder that holds one folder per class.
      names: class names in label order.

    Raises:
      InputError: a class folder is not in `names` or holds no image.
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
    """Lists the image files below a folder, at any depth, sorted by path.

    Images are recognised by their extension in lower or upper case. Hidden files and folders are left out.

    Raises:
      InputError: there is no image.
    """
    found: list[Path] = []
    # os.walk sorts entries into files and folders without a system call for each, which matters for a million
    # images. Its files include links to absent files, which decoding reports.
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
    """Decodes one image file to uint8 [image_size, image_size, channels]; see `decoding.decode`.

    Raises:
      UnreadableError: the file cannot be decoded, has more than 8 bits per channel or is too narrow.
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
    """The listed images as a split, whose checksum covers their paths and their sizes in bytes."""
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


SOURCE = Source(
    lambda config, view: load(config.root, view, config.train_per_class, config.test_per_class),
    lambda config, view: load_held_out(config.root, view, config.test_per_class),
    channels=3,
    needs_root=True,
)
