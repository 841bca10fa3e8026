"""Wrong training labels: drawn at random, or given by a file, e.g. those of human annotators.

They depend on the data and a seed of their own, so that all methods and seeds of a training see the same.
"""

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from dks_jax.config import Config
from dks_jax.data.images import ImageData, Relabel
from dks_jax.runtime.errors import InputError


def from_config(config: Config, images: ImageData, name: Callable[[int], str]) -> Relabel | None:
    """The labels that a checked `config.data` gives to the training images; None for their own.

    Args:
      config: the section `data` of a config.
      images: the images that it describes.
      name: function from an index to the name of a training image.

    Raises:
      InputError: a class of `data.label_noise_map` is none of the images, or the file is absent or wrong.
    """
    if config.labels_file:
        names = [name(index) for index in range(images.train.num_examples)]
        return from_file(Path(config.labels_file).expanduser(), names, images.class_names)
    if not config.label_noise:
        return None
    places = {name: place for place, name in enumerate(images.class_names)}
    for class_name in np.ravel(config.label_noise_map).tolist():
        if class_name not in places:
            raise InputError(
                "`data.label_noise_map` must hold pairs of classes, (true, given); "
                f"{class_name!r} is none of the "
                f"{len(places)} classes, e.g. {images.class_names[0]!r}."
            )
    mapped = {places[true]: places[given] for true, given in config.label_noise_map}
    count, num_classes = images.train.num_examples, len(images.class_names)
    if num_classes < 2:
        raise InputError(
            "`data.label_noise` must be 0 where the images have one class, since there is no wrong one; got "
            f"{config.label_noise}."
        )
    chosen = choose(config.label_noise, count, config.label_noise_seed)
    if mapped:
        return asymmetric(chosen, mapped, count, num_classes)
    return symmetric(chosen, count, num_classes, config.label_noise_seed)


def choose(share: float, count: int, seed: int) -> np.ndarray:
    """Draws the indices of a share of `count` images."""
    return np.random.default_rng(seed).permutation(count)[: round(share * count)]


def symmetric(chosen: np.ndarray, count: int, num_classes: int, seed: int) -> Relabel:
    """Gives each chosen image another class, all of which are equally likely.

    Args:
      chosen: indices of images.
      count: number of all images.
      num_classes: number of classes.
      seed: seed of the classes.
    """
    shift = np.zeros(count, np.int64)
    shift[chosen] = np.random.default_rng([seed, 1]).integers(1, num_classes, len(chosen))
    return lambda indices, labels: ((labels + shift[indices]) % num_classes).astype(labels.dtype)


def asymmetric(chosen: np.ndarray, mapped: Mapping[int, int], count: int, num_classes: int) -> Relabel:
    """Gives each chosen image the class that its own is mapped to, e.g. trucks are called cars.

    Args:
      chosen: indices of images; those of a class that is not mapped keep it.
      mapped: the class that is given, by the true class.
      count: number of all images.
      num_classes: number of classes.
    """
    is_chosen, table = np.zeros(count, bool), np.arange(num_classes)
    is_chosen[chosen] = True
    table[list(mapped)] = list(mapped.values())
    return lambda indices, labels: np.where(is_chosen[indices], table[labels], labels).astype(labels.dtype)


def from_file(file: Path, names: Sequence[str], class_names: Sequence[str]) -> Relabel:
    """Gives images the labels of a CSV file with lines `path,label`, without a header.

    Images that the file does not name keep their own.

    Args:
      file: the CSV file.
      names: the path of each training image: below the root for a folder, and for sources without files the
        number of the image, from 0.
      class_names: the labels that can be given.

    Raises:
      InputError: the file is absent, or names an image or a class that there is not.
    """
    if not file.is_file():
        raise InputError(f"`data.labels_file` must be a CSV file with lines path,label; there is no {file}.")
    positions, places = ({name: i for i, name in enumerate(own)} for own in (names, class_names))
    given = np.full(len(names), -1)
    with file.open(newline="") as lines:
        for number, row in enumerate(csv.reader(lines), 1):
            position, place = _find(row, positions), _find(row[1:], places)
            if len(row) != 2 or position is None or place is None:
                raise InputError(
                    f"Line {number} of `data.labels_file`, {file}, must hold the path of a training image, "
                    f"e.g. {names[0]}, and the name of a class, e.g. {class_names[0]}; got {','.join(row)!r}."
                )
            given[position] = place
    return lambda indices, labels: np.where(given[indices] < 0, labels, given[indices]).astype(labels.dtype)


def _find(row: Sequence[str], places: Mapping[str, int]) -> int | None:
    return places.get(row[0]) if row else None


def check(config: Config) -> None:
    """Raises InputError where the fields of `config.data` about labels contradict each other."""
    if config.labels_file and config.label_noise:
        raise InputError(
            "`data.label_noise` must be 0 where `data.labels_file` gives the labels; got "
            f"{config.label_noise}."
        )
    if config.labels_file and config.train_per_class and config.source != "folder":
        raise InputError(
            f"`data.train_per_class` must be 0 for the source {config.source} where `data.labels_file` names "
            f"images by their place among all; got {config.train_per_class}."
        )
    pairs = config.label_noise_map
    if any(not isinstance(pair, tuple) or [type(name) for name in pair] != [str, str] for pair in pairs):
        raise InputError(
            "`data.label_noise_map` must hold pairs of class names, e.g. (('truck', 'automobile'),); got "
            f"{pairs}."
        )
    if pairs and not config.label_noise:
        raise InputError("`data.label_noise` must be above 0 where `data.label_noise_map` is set; got 0.")
