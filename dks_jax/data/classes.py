"""The names of classes: when they are known, and which label of a network each class of the data has.

Names are compared in Unicode's form NFC. The names "0" to "N-1" in order say no more than the labels
themselves, so they count as unknown. Labels go by name where the names of the network are known, by number
where folders are named by numbers, and by place in the listing only where the counts are equal.
"""

import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dks_jax.data.imagenet_classes import wordnet_ids
from dks_jax.data.images import HeldOut
from dks_jax.runtime.errors import InputError, listing, printable


class Labels(NamedTuple):
    """The labels of a network for the classes of the data.

    labels: int32 [class of the data]; -1 for a class without images that the network does not know.
    assumed: sentences that say what was assumed.
    """

    labels: np.ndarray
    assumed: tuple[str, ...]


def _normal_form(name: str) -> str:
    """The form in which names are compared."""
    return unicodedata.normalize("NFC", name)


def known(names: Sequence[str]) -> bool:
    """Whether names say more than the labels "0" to "N-1" in order."""
    return list(names) != [str(label) for label in range(len(names))]


def _as_numbers(names: Sequence[str]) -> list[int] | None:
    """The names as whole numbers, where 01 is 1; None if one of them is no whole number.

    Raises:
      InputError: two names are the same number.
    """
    if not all(name.isascii() and name.isdecimal() for name in names):
        return None
    numbers = [int(name) for name in names]
    for i, number in enumerate(numbers):
        if (first := numbers.index(number)) != i:
            raise InputError(
                f"Class folders that are numbers must differ as numbers; {names[first]!r} and {names[i]!r} "
                "are the same: join or rename them."
            )
    return numbers


def require_distinct(names: Sequence[str], where: object) -> None:
    """Raises InputError if two names of one split are alike in Unicode's form NFC."""
    seen: dict[str, str] = {}
    for name in names:
        if (twin := seen.setdefault(_normal_form(name), name)) != name:
            raise InputError(
                f"{where} holds two class folders whose names look alike, {twin!a} and {name!a}: "
                "join or rename them."
            )


def match(
    held_out: HeldOut, trained: Sequence[str], *, imported: bool = False, whose: str = "the network"
) -> Labels:
    """Finds the label in a network for each class of the data.

    Args:
      held_out: images with the names of their classes.
      trained: class names of the network in label order.
      imported: whether the network comes from a PyTorch checkpoint. The classes of ImageNet are then only
        assumed for one with 1,000 classes, so that they count as unknown.
      whose: what the classes in `trained` belong to, for error messages.

    Raises:
      InputError: the classes of the data are not those of the network, or it cannot be known which they are.
    """
    wnids = wordnet_ids()
    # An empty folder needs no label.
    needed = [name for name in held_out.class_names if name not in held_out.empty]
    listed = held_out.listed or held_out.class_names
    if known(trained) and not (imported and list(trained) == wnids):
        return _by_name(held_out, needed, trained, whose)
    if len(trained) == len(wnids) and set(needed) <= set(wnids):
        return _labels(held_out, dict(zip(wnids, range(len(wnids)), strict=True)), [])
    if held_out.numbered:
        return _by_number(held_out, len(trained), "the network has no class names")
    # A held-out split may lack the last class of those that train lists, by which a count from 1 shows.
    numbers = _as_numbers(sorted({*held_out.class_names, *listed}))
    if numbers is not None:
        _require_range(numbers, len(trained))
        own = {name: int(name) for name in held_out.class_names}
        return _labels(held_out, own, ["labels are the numbers of the class folders"])
    if len(listed) != len(trained):
        raise InputError(
            f"The network has {len(trained)} classes without names, and the data have "
            f"{len(listed)} class folders ({_listing(listed)}), so that their labels are "
            "unknown: add the folders of the other classes, even if they are empty, or import the weights "
            "with their class names by tools/convert_pytorch.py --classes FILE."
        )
    places = {name: place for place, name in enumerate(listed)}
    _require_names(needed, places, listed, "one of the class folders that give the labels")
    sentence = "labels are the places of the class folders in sorted order, since the network has no names"
    return _labels(held_out, places, [sentence])


def match_heads(given: Sequence[str], own: Sequence[str]) -> tuple[list[int] | None, str | None]:
    """Finds the rows of a trained head for the classes of a network that starts from it.

    Args:
      given: class names of the trained weights in label order.
      own: class names of the network in label order.

    Returns:
      (rows, sentence): the row of the trained head for each own class, None if the head must start with
      initial values; and a sentence for the log, None if both have the same names in the same order.
    """
    if len(given) == len(own) and not (known(given) and known(own)):
        if list(given) == list(own):
            return list(range(len(own))), None
        return list(range(len(own))), "the rows of the heads are taken by place, since names are unknown"
    trained, classes = _comparable(given, own)
    if set(trained) != set(classes):
        return None, f"the heads start with initial values, since the classes differ: {_change(given, own)}"
    rows = [trained.index(name) for name in classes]
    if rows == list(range(len(own))):
        return rows, None
    return rows, "the rows of the heads are taken by the names of their classes"


def _comparable(first: Sequence[str], second: Sequence[str]) -> tuple[list, list]:
    """Both lists of names as whole numbers if all of them are, else in normal form."""
    numbers = _as_numbers(first), _as_numbers(second)
    if None not in numbers:
        return numbers  # type: ignore[return-value]
    return [_normal_form(name) for name in first], [_normal_form(name) for name in second]


def _by_name(held_out: HeldOut, needed: Sequence[str], trained: Sequence[str], whose: str) -> Labels:
    names, classes = _comparable(trained, held_out.class_names)
    labels = {name: label for label, name in enumerate(names)}
    own = {
        name: labels[comparable]
        for name, comparable in zip(held_out.class_names, classes, strict=True)
        if comparable in labels
    }
    if held_out.numbered and not known(held_out.class_names) and not set(needed) <= set(own):
        return _by_number(held_out, len(trained), "the data have no class names")
    if _as_numbers(needed) is not None and _as_numbers(trained) is None:
        raise InputError(
            f"The class folders are numbers ({_listing(needed)}) and the classes of the network have names "
            f"({_listing(trained)}): name the folders as the classes, or import the weights with their "
            "class names in label order by tools/convert_pytorch.py --classes FILE."
        )
    _require_names(needed, own, trained, f"one of the {len(trained)} classes of {whose}")
    return _labels(held_out, own, [])


def _by_number(held_out: HeldOut, count: int, reason: str) -> Labels:
    if len(held_out.class_names) != count:
        raise InputError(
            f"The network must have as many classes as the data, {len(held_out.class_names)}, since "
            f"{reason}; it has {count}: give other weights or other data."
        )
    labels = {name: label for label, name in enumerate(held_out.class_names)}
    return _labels(held_out, labels, [f"labels are those of the data set by number, since {reason}"])


def _labels(held_out: HeldOut, labels: dict[str, int], assumed: list[str]) -> Labels:
    found = [labels.get(name, -1) for name in held_out.class_names]
    return Labels(np.array(found, np.int32), tuple(assumed))


def _require_range(numbers: Sequence[int], count: int) -> None:
    if max(numbers) < count:
        return
    hint = " (do they count from 1?)" if sorted(numbers) == list(range(1, count + 1)) else ""
    raise InputError(
        f"Class folders that are numbers must be below {count}, the number of classes of the network, which "
        f"has no class names; got {max(numbers)}{hint}: to give the names in label order, import the weights "
        "by tools/convert_pytorch.py --classes FILE."
    )


def _require_names(needed: Sequence[str], labels: dict[str, int], accepted: Sequence[str], what: str) -> None:
    if foreign := [name for name in needed if name not in labels]:
        raise InputError(
            f"Each class of the data must be {what}, {_listing(accepted)}; these are none: "
            f"{_listing(foreign)}: rename or remove their folders."
        )


def _change(given: Sequence[str], own: Sequence[str]) -> str:
    return f"{_listing(given)} in the weights, {_listing(own)} here"


def _listing(names: Sequence[str]) -> str:
    return listing(map(printable, names))
