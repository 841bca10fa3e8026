"""What a training checkpoint says of its classes and its images, beside the tensors of the network."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from dks_jax.weights.torch_files import Tensor

CLASSES = ("class_names", "classes", "class_to_idx", "idx_to_class")
STATISTICS = ("mean", "std")


def class_names(content: Mapping[Any, Any], count: int) -> tuple[tuple[str, ...] | None, list[str]]:
    """The names of `count` classes in label order, as a checkpoint gives them under one of CLASSES.

    Returns:
      (names, remarks): None if there are none, and sentences that say what is taken and what is passed over.
    """
    names, remarks = None, []
    for entry in CLASSES:
        if entry not in content:
            continue
        found = _names(entry, content[entry], count)
        if found is None:
            remarks.append(f"`{entry}` is passed over, since it does not name {count} different classes")
        elif names is None:
            names = found
            remarks.append(f"the names of the classes are those in `{entry}`")
    return names, remarks


def statistics(
    content: Mapping[Any, Any], channels: int
) -> tuple[tuple[tuple[float, ...], tuple[float, ...]] | None, list[str]]:
    """Mean and deviation of pixels from 0 to 1 for each channel, as a checkpoint gives them.

    Returns:
      ((mean, std), remarks): None if there are none, and sentences as of `class_names`.
    """
    given = [entry for entry in STATISTICS if entry in content]
    if not given:
        return None, []
    mean, std = (_numbers(content.get(entry), channels) for entry in STATISTICS)
    if mean and std and min(std) > 0:
        return (mean, std), ["mean and deviation of the images are those in `mean` and `std`"]
    own = " and ".join(f"`{entry}`" for entry in given)
    reason = f"mean and std must each be {channels} numbers from 0 to 1, and those of std above 0"
    return None, [f"{own} {'is' if len(given) == 1 else 'are'} passed over, since {reason}"]


def _names(entry: str, value: Any, count: int) -> tuple[str, ...] | None:
    """Names from a list of them, or from a dictionary between names and labels; None for anything else."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping):
        by_number = all(isinstance(key, int | np.integer) for key in value)
        from_labels = entry == "idx_to_class" or (by_number and entry != "class_to_idx")
        pairs = value.items() if from_labels else [(label, name) for name, label in value.items()]
        by_label = {_label(label): name for label, name in pairs}
        value = [by_label.get(label) for label in range(count)]
        if len(by_label) != count:
            return None
    if not isinstance(value, list | tuple) or len(value) != count:
        return None
    names = tuple(str(name) for name in value if isinstance(name, str | int | np.integer))
    distinct = len(set(names)) == count
    return names if distinct and all(name and name.isprintable() for name in names) else None


def _label(value: Any) -> int | None:
    """A label, of which JSON, among others, makes text; None for anything else."""
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 10:
        return int(value)
    return int(value) if isinstance(value, int | np.integer) else None


def _numbers(value: Any, count: int) -> tuple[float, ...] | None:
    """Numbers from 0 to 1, one for each channel; None for anything else."""
    if isinstance(value, Tensor) and value.plain:
        value = value.numpy()
    if isinstance(value, np.ndarray):
        # A float32 is meant to be the number that it prints as.
        value = (
            [float(str(number)) for number in value.ravel()] if value.dtype.kind == "f" else value.tolist()
        )
    if not isinstance(value, list | tuple) or len(value) != count:
        return None
    numbers = [float(n) for n in value if isinstance(n, int | float | np.number) and 0 <= n <= 1]
    return tuple(numbers) if len(numbers) == count else None
