"""CIFAR-10 and CIFAR-100 from the published files, which are downloaded if they are absent.

Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images (2009),
https://www.cs.toronto.edu/~kriz/cifar.html
"""

import contextlib
import hashlib
import os
import pickle
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dks_jax.data.images import ImageData, Split
from dks_jax.data.sources import plain_pickle
from dks_jax.data.sources.interface import Source
from dks_jax.runtime.errors import InputError


class Archive(NamedTuple):
    """The address of a published archive and the MD5 sum, in hexadecimal, that its publisher states."""

    url: str
    md5: str


class Layout(NamedTuple):
    """The folder of a data set in its Python or binary version, and the names of the files in it."""

    binary: bool
    folder: str
    train: tuple[str, ...]
    test: str
    meta: str


ARCHIVES = {
    "cifar10": Archive(
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a"
    ),
    "cifar100": Archive(
        "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85"
    ),
}
LAYOUTS = {
    "cifar10": (
        Layout(
            binary=False,
            folder="cifar-10-batches-py",
            train=tuple(f"data_batch_{part}" for part in range(1, 6)),
            test="test_batch",
            meta="batches.meta",
        ),
        Layout(
            binary=True,
            folder="cifar-10-batches-bin",
            train=tuple(f"data_batch_{part}.bin" for part in range(1, 6)),
            test="test_batch.bin",
            meta="batches.meta.txt",
        ),
    ),
    "cifar100": (
        Layout(binary=False, folder="cifar-100-python", train=("train",), test="test", meta="meta"),
        Layout(
            binary=True,
            folder="cifar-100-binary",
            train=("train.bin",),
            test="test.bin",
            meta="fine_label_names.txt",
        ),
    ),
}
CLASS_COUNTS = {"cifar10": 10, "cifar100": 100}
LABEL_KEYS = {"cifar10": "labels", "cifar100": "fine_labels"}
NAME_KEYS = {"cifar10": "label_names", "cifar100": "fine_label_names"}
ROW_BYTES = 3 * 32 * 32


def load(root: str, name: str) -> ImageData:
    """Loads CIFAR-10, or CIFAR-100 with its 100 fine labels; images are uint8 [example, 32, 32, 3] in RGB.

    If the data are absent, the published archive is downloaded into `root`, checked against its MD5 sum and
    unpacked; an archive that was put there by hand is used instead of a download. The pickles of the Python
    version are read without executing anything that they refer to.

    Args:
      root: the published folder in its Python or binary version, or the folder that holds it.
      name: "cifar10" or "cifar100".

    Raises:
      InputError: the name is unknown; a file is absent, damaged or refers to anything but plain arrays; a
        label is out of range; a checksum is wrong; or the download fails.
    """
    if name not in CLASS_COUNTS:
        raise InputError(f"`data.name` must be one of {', '.join(CLASS_COUNTS)}; got {name!r}.")
    folder = Path(os.path.expanduser(root))
    if folder.exists() and not folder.is_dir():
        raise InputError(
            f"`data.root` must be the folder of the data, which may be absent; {root} is a file."
        )
    found = _find(folder, name)
    if found is None:
        _obtain(folder, name)
        found = folder / LAYOUTS[name][0].folder, LAYOUTS[name][0]
    data, layout = found
    train = [_read_split(data / file, name, layout) for file in layout.train]
    return ImageData(
        train=Split(
            np.concatenate([part.images for part in train]), np.concatenate([part.labels for part in train])
        ),
        test=_read_split(data / layout.test, name, layout),
        class_names=_read_class_names(data / layout.meta, name, layout),
    )


def _find(root: Path, name: str) -> tuple[Path, Layout] | None:
    """Finds the folder of the data, which is root itself or a folder in it; None if it is absent."""
    for layout in LAYOUTS[name]:
        if any((root / file).is_file() for file in (*layout.train, layout.test)):
            return root, layout
        if (root / layout.folder).is_dir():
            return root / layout.folder, layout
    return None


def _obtain(root: Path, name: str) -> None:
    """Unpacks the Python version of the data into root, from an archive that is there or is downloaded."""
    source = ARCHIVES[name]
    archive = root / source.url.rpartition("/")[2]
    if archive.exists():
        _check(archive, source)
    else:
        _download(archive, source)
    _unpack(archive, LAYOUTS[name][0].folder)


def _check(archive: Path, source: Archive) -> None:
    """Compares the MD5 sum of an archive that was put in place by hand with the published one."""
    try:
        with archive.open("rb") as file:
            md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except OSError as error:
        raise InputError(
            f"{archive} cannot be read ({error.strerror}); delete it or make it readable."
        ) from error
    if md5 != source.md5:
        raise InputError(
            f"{archive} has the MD5 sum {md5}, expected {source.md5}; delete it and download it again"
            f" from {source.url}."
        )


def _download(archive: Path, source: Archive) -> None:
    """Downloads an archive and checks it; leaves nothing behind if that fails."""
    import pooch

    created = [folder for folder in archive.parents if not folder.exists()]
    try:
        pooch.retrieve(
            source.url,
            known_hash=f"md5:{source.md5}",
            fname=archive.name,
            path=archive.parent,
            progressbar=sys.stderr.isatty(),
        )
    # This includes all network failures, since the exceptions of requests derive from OSError.
    except OSError as error:
        raise InputError(
            f"{archive} is absent and could not be downloaded ({type(error).__name__}); download {source.url}"
            f" elsewhere and put the file into {archive.parent}."
        ) from error
    except ValueError as error:
        raise InputError(
            f"{archive} was downloaded, but its MD5 sum is not the expected {source.md5}; try again or"
            f" download {source.url} elsewhere and put the file into {archive.parent}."
        ) from error
    finally:
        if not archive.exists():
            for folder in created:
                with contextlib.suppress(OSError):
                    folder.rmdir()


def _unpack(archive: Path, folder: str) -> None:
    """Unpacks one folder of an archive next to the archive, completely or not at all."""
    target = archive.parent / folder
    try:
        with tempfile.TemporaryDirectory(prefix=f"{folder}-", dir=archive.parent) as unpacked:
            with tarfile.open(archive) as tar:
                for member in tar:
                    parent, _, file = member.name.rpartition("/")
                    # Only plain files directly in the folder are written, so nothing can end up elsewhere.
                    if parent.removeprefix("./") == folder and (content := tar.extractfile(member)):
                        (Path(unpacked) / folder).mkdir(exist_ok=True)
                        (Path(unpacked) / folder / file).write_bytes(content.read())
            os.rename(Path(unpacked) / folder, target)
    except OSError as error:
        # Another process may have unpacked the same archive in the meantime; its result serves as well.
        if not target.is_dir():
            raise InputError(
                f"{archive} could not be unpacked ({error.strerror}); make room, or unpack it by hand in"
                f" {archive.parent}."
            ) from error


def _read_split(path: Path, name: str, layout: Layout) -> Split:
    """Reads one file of images, each stored as 1024 red, 1024 green and 1024 blue values."""
    rows, labels = _read_binary(path, name) if layout.binary else _read_pickle(path, name)
    if not isinstance(rows, np.ndarray) or rows.dtype != np.uint8 or rows.shape[1:] != (ROW_BYTES,):
        raise _damaged(path, f"has no images as rows of {ROW_BYTES} bytes")
    if not isinstance(labels, list) or len(labels) != len(rows) or not labels:
        raise _damaged(path, f"must have images with one label each, and has {len(rows)} images")
    classes = CLASS_COUNTS[name]
    for position, label in enumerate(labels):
        # The message gives the position, since the label in a damaged pickle can be an object of any size.
        if not isinstance(label, int) or not 0 <= label < classes:
            raise _damaged(path, f"has a label outside 0 to {classes - 1} for image {position}")
    images = rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return Split(np.ascontiguousarray(images), np.array(labels, dtype=np.int32))


def _read_binary(path: Path, name: str) -> tuple[np.ndarray, list[int]]:
    """Reads records of a label byte and an image; in CIFAR-100 the byte of the coarse label comes first."""
    label_bytes = 1 if name == "cifar10" else 2
    content = np.frombuffer(_read(path), dtype=np.uint8)
    if content.size % (label_bytes + ROW_BYTES):
        raise _damaged(path, f"has {content.size} bytes, no multiple of {label_bytes + ROW_BYTES}")
    records = content.reshape(-1, label_bytes + ROW_BYTES)
    return records[:, label_bytes:], records[:, label_bytes - 1].tolist()


def _read_pickle(path: Path, name: str) -> tuple[object, object]:
    """Reads the rows and the labels of a pickled batch, of whatever type they are."""
    batch = _unpickle(path)
    labels = batch.get(LABEL_KEYS[name])
    return batch.get("data"), labels.tolist() if isinstance(labels, np.ndarray) else labels


def _read_class_names(path: Path, name: str, layout: Layout) -> tuple[str, ...]:
    """Reads the class names in label order; without the file they are the labels as numbers."""
    classes = CLASS_COUNTS[name]
    if not path.exists():
        return tuple(str(label) for label in range(classes))
    names = _read(path).split() if layout.binary else _unpickle(path).get(NAME_KEYS[name])
    if not isinstance(names, list) or not all(isinstance(entry, str | bytes) for entry in names):
        raise _damaged(path, "has no list of class names")
    if len(names) != classes:
        raise _damaged(path, f"has {len(names)} class names, not {classes}")
    return tuple(plain_pickle.text(entry) for entry in names)


def _unpickle(path: Path) -> dict[str, object]:
    """Reads a pickled dictionary without executing anything that it refers to."""
    try:
        return plain_pickle.loads(_read(path))
    except plain_pickle.RefusedError as error:
        raise _damaged(path, f"refers to {error}, which no CIFAR file needs and is not run") from error
    except pickle.UnpicklingError as error:
        raise _damaged(path, f"is no complete pickle of a CIFAR file ({error})") from error


def _read(path: Path) -> bytes:
    """Reads a file of the data set."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise _damaged(path, f"cannot be read ({error.strerror})") from error


def _damaged(path: Path, finding: str) -> InputError:
    """An error about a damaged file of the data set."""
    return InputError(f"{path} {finding}; delete its folder to have the data downloaded again.")


SOURCE = Source(
    lambda config, view: load(config.root, config.name),
    lambda config, view: load(config.root, config.name).held_out,
    image_size=32,
    channels=3,
    num_classes=lambda config: CLASS_COUNTS.get(config.name, 0),
    needs_root=True,
    named=True,
)
