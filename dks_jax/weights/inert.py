"""Stand-ins for what a training script has pickled beside its tensors, so that none of its code runs.

A pickle names the classes and functions that make its objects. torch's reader of weights looks each name up
in a list, and calls what it finds there. `stand_ins` gives it functions and classes of this module for names
that it does not know: NumPy's numbers and arrays become their values, a few containers become plain ones, and
every other object becomes an `Inert`, which keeps nothing.
"""

import re
from collections.abc import Iterable
from typing import Any

import numpy as np

# Types of NumPy whose values are plain numbers or text, without the byte order.
PLAIN_TYPE = re.compile(r"[biufU]\d+")
# No training script saves these, so a file with one of them is refused as a whole.
NEVER = {f"builtins.{name}" for name in ("eval", "exec", "compile", "__import__")}


class _LikeDict(type):
    """Makes a class equal to dict, since torch sets items on an object only if its type equals dict."""

    def __eq__(cls, other: object) -> bool:
        return other is cls or other is dict

    __hash__ = type.__hash__


class Inert(metaclass=_LikeDict):
    """An object of a class that is unknown here; it takes any arguments, state and items, and drops them."""

    def __init__(self, *_: Any):
        pass

    def __setstate__(self, _: Any) -> None:
        pass

    def __setitem__(self, *_: Any) -> None:
        pass


class PickledType:
    """A numpy.dtype; `values` reads bytes of the type."""

    def __init__(self, code: Any = None, *_: Any):
        self._code, self._order = code, "<"

    def __setstate__(self, state: Any) -> None:
        self._order = state[1]

    def values(self, data: Any) -> np.ndarray | None:
        """The values in bytes as an array of one axis; None if they are no plain numbers or text."""
        if not (isinstance(self._code, str) and PLAIN_TYPE.fullmatch(self._code) and isinstance(data, bytes)):
            return None
        try:
            return np.frombuffer(data, np.dtype(f"{self._order}{self._code}"))
        except (TypeError, ValueError):
            return None


class PickledArray:
    """A numpy.ndarray; `values` is the array, None if its values are no plain numbers or text."""

    values: np.ndarray | None = None

    def __init__(self, *_: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, by_column, data = state
        flat = kind.values(data) if isinstance(kind, PickledType) else None
        if flat is not None and flat.size == np.prod(shape):
            self.values = flat.reshape(shape, order="F" if by_column else "C")


def _scalar(kind: Any, data: Any = None) -> Any:
    values = kind.values(data) if isinstance(kind, PickledType) else None
    return Inert() if values is None or values.size != 1 else values[0]


def _dict(*_: Any) -> dict[Any, Any]:
    return {}


def _list(*_: Any) -> list[Any]:
    return []


# NumPy 2 has moved the functions that make its numbers and arrays.
KNOWN = {
    "numpy.dtype": PickledType,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
    "numpy.core.multiarray._reconstruct": PickledArray,
    "numpy._core.multiarray._reconstruct": PickledArray,
    "collections.defaultdict": _dict,
    "collections.deque": _list,
}
# What a file may hold whose names cannot be listed before it is read, as in the format before torch 1.6.
USUAL = (
    "numpy.ndarray",
    "argparse.Namespace",
    # Python 3.13 names paths by the module that defines them.
    *(
        f"{module}.{kind}{system}Path"
        for module in ("pathlib", "pathlib._local")
        for kind in ("", "Pure")
        for system in ("Posix", "Windows")
    ),
    *(f"datetime.{name}" for name in ("date", "datetime", "time", "timedelta", "timezone")),
    *(f"builtins.{name}" for name in ("dict", "float", "frozenset", "int", "list", "range", "slice", "str")),
)


def stand_ins(names: Iterable[str]) -> list[Any]:
    """Pairs (stand-in, name) for `torch.serialization.safe_globals`: the known names and the given ones."""
    others = {name for name in names if name not in KNOWN and name not in NEVER}
    return [(stand_in, name) for name, stand_in in KNOWN.items()] + [(Inert, name) for name in sorted(others)]
