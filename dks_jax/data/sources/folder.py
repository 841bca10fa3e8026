"""Image files in folders root/<split>/<class>/, the layout of ImageNet."""

import os
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dks_jax.data import classes, decoding, splits
from dks_jax.data.images import HeldOut, ImageData, StoredSplit, UnreadableError, first_per_class
from dks_jax.data.preprocessing import UndecodableError, View
from dks_jax.data.sources import image_files
from dks_jax.data.sources.interface import Source
from dks_jax.runtime.errors import InputError
from dks_jax.runtime.hosts import from_primary

LAYOUT = "ROOT/SPLIT/CLASS/IMAGE, e.g. train/cat/1.jpg and val/cat/2.jpg"
# A split of which this share of the images lies beside the class folders is taken for half sorted.
UNSORTED_SHARE = 0.25


class Listing(NamedTuple):
    """The files of a split.

    paths: paths of the images, class by class.
    sizes: their sizes in bytes.
    labels: int32 [image], places in `class_names`.
    class_names: sorted names of the class folders.
    empty: names of those that hold no image.
    notes: a line about each kind of file that is left out.
    """

    paths: list[Path]
    sizes: list[int]
    labels: np.ndarray
    class_names: tuple[str, ...]
    empty: tuple[str, ...]
    notes: tuple[str, ...]


def load(
    root: str,
    view: View,
    *,
    train_split: str = "",
    held_out: str = "",
    train_per_class: int = 0,
    test_per_class: int = 0,
) -> ImageData:
    """Lists the images of the training split and of the held-out split, which are decoded when they are read.

    The classes are the sorted class folders of the training split. In a job of several processes one of them
    lists, and sends what it has found to the others.

    Args:
      root: folder of the data.
      view: size, channels and preprocessing of the images.
      train_split, held_out: names of the splits, folders below the root; "" to find them by `find_splits`.
      train_per_class, test_per_class: number of images to take of each class, the first ones; 0 for all.

    Raises:
      InputError: a class of the training split has no images, a class of the held-out split is none of the
        training split, or a split is only half sorted into class folders.
    """
    folder = _root(root)
    train_split, held_out = find_splits(root, train_split, held_out, training=True)
    listing = from_primary(lambda: list_split(folder / train_split))
    if listing.empty:
        raise InputError(
            f"Each class folder of {folder / train_split} must hold images; {listing.empty[0]!r} has none: "
            "add images to it or remove it."
        )
    train = _first(folder, listing, view.for_training, count=train_per_class, field="train_per_class")
    test = _held_out(folder, held_out, view, test_per_class)
    matched = classes.match(
        test._replace(listed=listing.class_names), listing.class_names, whose="the training split"
    )
    test = test.relabelled(matched.labels, listing.class_names)
    return ImageData(train, test.split, listing.class_names, (*listing.notes, *test.notes))


def load_held_out(
    root: str, view: View, *, train_split: str = "", held_out: str = "", test_per_class: int = 0
) -> HeldOut:
    """Lists only the held-out images, as `load` does; the training split may be absent.

    The classes are the class folders of the held-out split. Where there is a training split, the places of
    its class folders may serve as labels.

    Raises:
      InputError: as for `load`, except that the images of the training split are not looked at.
    """
    folder = _root(root)
    train_split, held_out = find_splits(root, train_split, held_out, training=False)
    found = _held_out(folder, held_out, view, test_per_class)
    if not train_split:
        return found
    return found._replace(listed=tuple(_class_folders(folder / train_split)))


def find_splits(root: str, train_split: str, held_out: str, *, training: bool) -> tuple[str, str]:
    """The names of the training split and of the held-out split.

    A split is a folder below the root that has class folders. Where its name is "", the one of its kind that
    is there is taken; see `splits`. The training split may be absent, and is then "", where only held-out
    images are asked for.

    Raises:
      InputError: a split is absent, not sorted into class folders, or there are two of one kind.
    """
    folder = _root(root)
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    with_classes = [name for name in names if _class_folders(folder / name)]
    found = []
    kinds = splits.IN_TRAINING if training else splits.IN_EVALUATION
    for field, name, own in (("held_out", held_out, kinds), ("train_split", train_split, ("train",))):
        if name and not _class_folders(folder / name):
            raise InputError(
                f"`data.{field}` must name a folder in {root} that holds a folder of images for each class; "
                f"got {name!r}: {_finding(folder / name)}."
            )
        found.append(name or splits.choose(with_classes, own, field))
        if not found[-1] and (training or field == "held_out"):
            raise _lacks_split(folder, names, own, field)
    return found[1] or "", found[0]


def _class_folders(split_folder: Path) -> list[str]:
    """The sorted names of the class folders of a split, without hidden ones; [] if the split is absent."""
    if not split_folder.is_dir():
        return []
    entries = split_folder.iterdir()
    return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def list_split(split_folder: Path) -> Listing:
    """Lists the images of a split, which may lie at any depth below the folder of their class.

    Raises:
      InputError: the split has no images or is only half sorted into class folders, or two class folders have
        names that look alike.
    """
    names = _class_folders(split_folder)
    classes.require_distinct(names, split_folder)
    found = [image_files.find(split_folder / name) for name in names]
    paths = [path for own in found for path in own.images]
    counts = [len(own.images) for own in found]
    beside = image_files.find(split_folder, deep=False)
    if len(beside.images) >= UNSORTED_SHARE * (len(paths) + len(beside.images)):
        raise InputError(
            f"{split_folder} must hold a folder of images for each class, and nothing else; "
            f"{_finding(split_folder)}: move each image into the folder of its class."
        )
    kinds = {
        "files that are not images": [path for own in found for path in own.others],
        "images beside the class folders": beside.images,
        "other files beside the class folders": beside.others,
    }
    notes = [
        f"left out of {split_folder.name}: {len(files):,} {kind}, e.g. {files[0].relative_to(split_folder)}"
        for kind, files in kinds.items()
        if files
    ]
    empty = tuple(name for name, count in zip(names, counts, strict=True) if not count)
    labels = np.repeat(np.arange(len(names), dtype=np.int32), counts)
    return Listing(paths, list(map(_size, paths)), labels, tuple(names), empty, tuple(notes))


def find_images(folder: Path) -> image_files.Found:
    """Lists the image files below a folder, at any depth, and the other files; see `image_files.find`.

    Raises:
      InputError: there is no image.
    """
    found = image_files.find(folder)
    if not found.images:
        raise InputError(f"{folder} must hold images; {_finding(folder)}.")
    return found


def decode(path: Path, view: View, rng: np.random.Generator | None = None) -> np.ndarray:
    """Decodes one image file to uint8 [height, width, channel], of the size of a view.

    Args:
      path: the file, of any format that Pillow reads.
      view: how it is resized and cropped, e.g. the `view` of a network's metadata.
      rng: random generator for the augmentation of the view; None for none.

    Raises:
      UnreadableError: the file cannot be decoded, has more than 8 bits per channel or is too narrow.
    """
    try:
        return decoding.decode(path, view, rng)
    except UndecodableError as error:
        raise UnreadableError(
            str(path), f"{path} {error}; replace it, or leave it out with --skip_unreadable."
        ) from error


def _root(root: str) -> Path:
    folder = Path(os.path.expanduser(root))
    if not folder.is_dir():
        raise InputError(f"`data.root` must be a folder of images, {LAYOUT}; there is no folder {root!r}.")
    return folder


def _lacks_split(root: Path, names: list[str], kinds: tuple[str, ...], field: str) -> InputError:
    known = [name for kind in kinds for name in splits.KINDS[kind]]
    flat = [f"{root / name}: {_finding(root / name)}" for name in names if name.lower() in known]
    if flat:
        found = f"{'; '.join(flat)}: sort its images into a folder for each class"
    elif any(image_files.find(root / name, deep=False).images for name in names):
        found = f"{root} holds the class folders {', '.join(names[:5])} themselves: move them into a split"
    else:
        found = f"{root} holds {', '.join(names[:5]) or 'no folder'}: name the split by data.{field}"
    return InputError(f"`data.root` must hold one of {', '.join(known)}, in the layout {LAYOUT}; {found}.")


def _finding(folder: Path) -> str:
    """What a folder holds that should hold class folders or images, in a few words."""
    if not folder.is_dir():
        return "there is no such folder"
    beside = image_files.find(folder, deep=False)
    counts = {
        "class folders": len(_class_folders(folder)),
        "images beside them": len(beside.images),
        "other files": len(beside.others),
    }
    found = ", ".join(f"{count:,} {what}" for what, count in counts.items())
    example = f", e.g. {beside.images[0].name}" if beside.images else ""
    return f"it holds {found}{example}"


def _held_out(root: Path, name: str, view: View, count: int) -> HeldOut:
    listing = from_primary(lambda: list_split(root / name))
    if not listing.paths:
        raise InputError(f"{root / name} must hold images; {_finding(root / name)}.")
    split = _first(root, listing, view, count=count, field="test_per_class")
    notes = list(listing.notes)
    if empty := list(listing.empty):
        more = f" and {len(empty) - 1} more" if len(empty) > 1 else ""
        notes.append(f"without images in {name}: the class {empty[0]}{more}")
    return HeldOut(
        split,
        listing.class_names,
        empty=listing.empty,
        numbered=False,
        notes=tuple(notes),
    )


def _first(root: Path, listing: Listing, view: View, *, count: int, field: str) -> StoredSplit:
    """The first `count` images of every class of a split that has any, 0 for all."""
    kept = first_per_class(listing.labels, count, listing.class_names, field, absent=listing.empty)
    paths, sizes = ([own[i] for i in kept] for own in (listing.paths, listing.sizes))
    return _stored(paths, sizes, listing.labels[kept], root, view)


def _stored(paths: list[Path], sizes: list[int], labels: np.ndarray, root: Path, view: View) -> StoredSplit:
    """The listed images as a split, whose checksum covers their paths and their sizes in bytes."""
    start = len(str(root / "_")) - 1
    listing = "".join(f"{str(path)[start:]} {size}\n" for path, size in zip(paths, sizes, strict=True))

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
    lambda config, view: load(
        config.root,
        view,
        train_split=config.train_split,
        held_out=config.held_out,
        train_per_class=config.train_per_class,
        test_per_class=config.test_per_class,
    ),
    lambda config, view: load_held_out(
        config.root,
        view,
        train_split=config.train_split,
        held_out=config.held_out,
        test_per_class=config.test_per_class,
    ),
    lambda config, *, training: find_splits(
        config.root, config.train_split, config.held_out, training=training
    ),
    needs_root=True,
    converts_channels=True,
)
