"""The heads among the arrays of a network, and the rows of theirs that belong to classes."""

import re
from collections.abc import Sequence

import numpy as np

from dks_jax.weights.folder import Named


def in_head(name: str) -> bool:
    """Whether an array belongs to the head of the backbone or of a branch."""
    return re.match(r"(branches\.\d+\.)?head\.", name) is not None


def _has_classes(name: str) -> bool:
    """Whether the last axis of an array is that of the classes, as in the last layer of a head."""
    return in_head(name) and name.endswith((".fc.kernel", ".fc.bias"))


def take_classes(arrays: Named, rows: Sequence[int] | None) -> Named:
    """The arrays with the given rows of all heads in this order; without their last layers for None."""
    if rows is None:
        return {name: array for name, array in arrays.items() if not _has_classes(name)}
    if list(rows) == list(range(len(rows))):
        return arrays
    own = list(rows)
    return {n: np.asarray(array)[..., own] if _has_classes(n) else array for n, array in arrays.items()}
