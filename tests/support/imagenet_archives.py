"""Small archives with the names and the layout of those that ImageNet (ILSVRC 2012) is published as."""

import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from support.tfds_files import noise


def photo(seed: int, height: int = 40, width: int = 50) -> bytes:
    """An encoded image."""
    file = io.BytesIO()
    Image.fromarray(noise(seed, height, width)).save(file, "jpeg")
    return file.getvalue()


def write_archives(
    folder: Path, train: Mapping[str, Sequence[bytes]], val: Sequence[bytes], test: Sequence[bytes] = ()
) -> None:
    """Writes ILSVRC2012_img_<split>.tar: the training images by class, the others in order."""
    classes = {
        f"{name}.tar": _tar_of({f"{name}_{i}.JPEG": image for i, image in enumerate(images)})
        for name, images in train.items()
    }
    archives = {
        "train": classes,
        "val": {val_name(i): image for i, image in enumerate(val)},
        "test": {f"ILSVRC2012_test_{i + 1:08}.JPEG": image for i, image in enumerate(test)},
    }
    for split, members in archives.items():
        if members:
            (folder / f"ILSVRC2012_img_{split}.tar").write_bytes(_tar_of(members))


def val_name(index: int) -> str:
    """The published name of a validation image."""
    return f"ILSVRC2012_val_{index + 1:08}.JPEG"


def _tar_of(members: Mapping[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return file.getvalue()
