"""Reads a pickled dictionary of arrays, lists and strings without running anything that it names.

A pickle is a program: it may name any function and have it called. Here every name stands for an inert
record of what was to be called, and names that such a dictionary does not need are refused.
"""

import io
import pickle
import pickletools
from typing import Any

import numpy as np

# All that a pickled dictionary of arrays, lists, numbers and strings refers to.
PICKLE_GLOBALS = frozenset(
    {
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy.core.numeric", "_frombuffer"),
        ("numpy._core.numeric", "_frombuffer"),
        ("numpy.core.multiarray", "scalar"),
        ("numpy._core.multiarray", "scalar"),
        ("_codecs", "encode"),
        ("__builtin__", "bytes"),
        ("builtins", "bytes"),
    }
)


class RefusedError(ValueError):
    """A pickle names something that a dictionary of plain data does not need; the message says what."""


def loads(content: bytes) -> dict[str, object]:
    """The pickled dictionary by its keys, its arrays rebuilt; other values as pickled, strings maybe bytes.

    Raises:
      RefusedError: it names something else than arrays.
      pickle.UnpicklingError: it is damaged, or no dictionary.
    """
    try:
        for opcode, index, _ in pickletools.genops(content):
            # The unpickler allocates a table as long as the largest index: a damaged byte could fill memory.
            if opcode.name in ("PUT", "LONG_BINPUT") and isinstance(index, int) and index > len(content):
                raise ValueError(index)
        pickled = _Unpickler(io.BytesIO(content), encoding="bytes").load()
        return {
            text(key): _array(value) if isinstance(value, _Held) else value for key, value in pickled.items()
        }
    except RefusedError:
        raise
    # Not a list of types: the pickle module says of damaged input only that many exceptions are possible.
    except Exception as error:
        raise pickle.UnpicklingError(type(error).__name__) from error


def text(value: object) -> str:
    """A string of either Python version as str; TypeError for anything else."""
    if isinstance(value, bytes):
        return value.decode("latin1")
    if isinstance(value, str):
        return value
    raise TypeError(type(value))


class _Held:
    """What a pickle asks to be called, and with what: recorded, never done."""

    def __init__(self, name: str, arguments: tuple[Any, ...] = ()) -> None:
        self.name = name
        self.arguments = arguments
        self.state: Any = None

    def __call__(self, *arguments: Any) -> Any:
        # Python 3 writes bytes in the first two ways up to protocol 2, dictionary keys among them.
        if self.name == "encode":
            return _encode(*arguments)
        if self.name == "bytes" and not arguments:
            return b""
        if self.name == "scalar":
            dtype, content = arguments
            return np.frombuffer(content, _dtype(dtype))[0].item()
        return _Held(self.name, arguments)

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):
    """Reads dictionaries, lists, strings and numbers, and holds arrays as _Held."""

    def find_class(self, module: str, name: str) -> _Held:
        if (module, name) not in PICKLE_GLOBALS:
            raise RefusedError(f"{module}.{name}")
        return _Held(name)


def _array(held: _Held) -> np.ndarray:
    """Rebuilds an array from the arguments of numpy's two pickling functions; any exception means damage."""
    if held.name == "_frombuffer":
        content, dtype, shape, order = held.arguments
    else:
        _, shape, dtype, fortran, content = held.state
        order = "F" if fortran else "C"
    return np.frombuffer(content, _dtype(dtype)).reshape(shape, order=order)


def _dtype(held: _Held) -> str:
    """The name of a data type with its byte order, e.g. "<i8"."""
    return text(held.state[1]) + text(held.arguments[0])


def _encode(text: str, encoding: str) -> bytes:
    """Turns text into the bytes that it stands for; ValueError for another encoding than Python writes."""
    if encoding != "latin1":
        raise ValueError(encoding)
    return text.encode("latin1")
