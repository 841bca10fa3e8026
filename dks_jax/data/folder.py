"""Images on disk as root/<split>/<class>/<image>, the layout of ImageNet."""

import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from dks_jax.data.images import ImageData, Split, first_per_class
from dks_jax.errors import InputError

EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"},
)
HELD_OUT_NAMES = ("test", "val")


def load(root: str, image_size: int, train_per_class: int = 0, test_per_class: int = 0) -> ImageData:
    """Reads root/train and root/test (or root/val) as uint8 [example, image_size, image_size, 3] in RGB.

    Of every class the first train_per_class and test_per_class images are taken, 0 for all.

    The classes are the sorted class folders of train. Everything is listed before the first image is
    decoded, so that a misplaced folder is reported at once.

    Raises InputError for an absent root or split, both test and val, a held-out class
    that train lacks, a class without images and an image that cannot be decoded.
    """
    folder = Path(os.path.expanduser(root))
    if not folder.is_dir():
        raise InputError(
            f"`data.root` must be a folder that holds train and test (or val); there is no folder {root!r}."
        )
    held_out = [name for name in HELD_OUT_NAMES if (folder / name).is_dir()]
    if len(held_out) != 1:
        found = "both test and val" if held_out else "neither test nor val"
        raise InputError(f"`data.root` must hold exactly one of test and val; {root} holds {found}.")
    names = class_names(folder / "train")

    def keep(split: str, count: int, field: str) -> tuple[list[Path], np.ndarray]:
        paths, labels = list_images(folder / split, names)
        kept = first_per_class(labels, count, names, field)
        return [paths[i] for i in kept], labels[kept]

    train = keep("train", train_per_class, "train_per_class")
    test = keep(held_out[0], test_per_class, "test_per_class")
    return ImageData(_decode_all(*train, image_size), _decode_all(*test, image_size), names)


def class_names(split_folder: Path) -> tuple[str, ...]:
    """Lists the class folders of a split in sorted order, hidden ones left out.

    Raises InputError where the split is absent or has no class folder.
    """
    if not split_folder.is_dir():
        raise InputError(f"{split_folder} is no folder; put one folder of images per class there.")
    names = sorted(
        entry.name for entry in split_folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")
    )
    if not names:
        raise InputError(f"{split_folder} holds no class folder; put one folder of images per class there.")
    return tuple(names)


def list_images(split_folder: Path, names: tuple[str, ...]) -> tuple[list[Path], np.ndarray]:
    """Lists the images of a split, in sorted path order, and their int32 labels (positions in names).

    Images lie at any depth below their class folder and are recognised by extension in either case; hidden
    files and what lies in hidden folders are left out.

    Raises InputError for a class folder that is not in names or holds no image.
    """
    paths: list[Path] = []
    labels: list[int] = []
    for name in class_names(split_folder):
        if name not in names:
            raise InputError(
                f"{split_folder / name} is no class of the training split; remove it or add it there."
            )
        found = sorted(path for path in (split_folder / name).rglob("*") if _is_image(path, split_folder))
        if not found:
            raise InputError(
                f"{split_folder / name} holds no image; remove it or add files that end in one of"
                f" {', '.join(sorted(EXTENSIONS))}."
            )
        paths += found
        labels += [names.index(name)] * len(found)
    return paths, np.array(labels, dtype=np.int32)


def decode(path: Path, image_size: int) -> np.ndarray:
    """Decodes one image to uint8 [image_size, image_size, 3] in RGB, the first frame of an animated one.

    An image of another size is resized bicubically, both sides, its aspect ratio not kept, as the released
    ImageNet evaluation does. EXIF orientation is not applied.

    Raises InputError naming the file where it cannot be decoded or has more than 8 bits of grey.
    """
    try:
        with Image.open(path) as image:
            mode = image.mode
            rgb = image.convert("RGB")
    # Not a list of types: on bad bytes the plugins raise OSError, SyntaxError, struct.error and others.
    except Exception as error:
        raise InputError(
            f"{path} cannot be decoded as an image ({type(error).__name__}); replace or remove it."
        ) from error
    if mode.startswith(("I", "F")):
        # Pillow converts these by cutting off everything above 255, which leaves a white image.
        raise InputError(f"{path} has the pixel mode {mode}; save it with 8 bits per channel.")
    if rgb.size != (image_size, image_size):
        rgb = rgb.resize((image_size, image_size), Image.Resampling.BICUBIC)
    return np.asarray(rgb)


def _is_image(path: Path, split_folder: Path) -> bool:
    """Tells whether the path has an image's extension, is not hidden and is not a folder."""
    hidden = any(part.startswith(".") for part in path.relative_to(split_folder).parts)
    # A link to an absent file counts, so that decoding reports it.
    return path.suffix.lower() in EXTENSIONS and not hidden and not path.is_dir()


def _decode_all(paths: list[Path], labels: np.ndarray, image_size: int) -> Split:
    """Decodes the files in threads (Pillow releases the interpreter lock) into one array."""
    images = np.empty((len(paths), image_size, image_size, 3), dtype=np.uint8)

    def fill(position: int) -> None:
        images[position] = decode(paths[position], image_size)

    # Around the pool and not inside decode, because the warning filters belong to the whole process.
    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        # Pillow warns of odd metadata, palettes and large images that it decodes all the same.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        for _ in tqdm(pool.map(fill, range(len(paths))), total=len(paths), unit="image", disable=None):
            pass
    return Split(images, labels)
