"""Reads a pickled dictionary of arrays, lists, numbers and strings, and refuses every other name.

A pickle may name any function and have it called. The names that such a dictionary needs stand here for
functions that make nothing but arrays of numbers, and not for NumPy's own: with `numpy.ndarray`, or with the
state of a `numpy.dtype`, a pickle can have NumPy take bytes of its choice for the addresses of objects.
"""

import io
import pickle
import pickletools
from typing import Any

import numpy as np

# A pickle sets the state of a data type, its byte order and flags. These objects of NumPy's own ignore that;
# their copies do not.
DTYPES = {name: np.dtype(name) for name in ("u1", "i4", "i8")}


class RefusedError(ValueError):
    """A pickle names something that a dictionary of plain data does not need; the message says what."""


def loads(content: bytes) -> dict[str, object]:
    """The pickled dictionary by its keys; its other strings are str or bytes, as pickled.

    Raises:
      RefusedError: it names something that is not on the list.
      pickle.UnpicklingError: it is damaged, or no dictionary.
    """
    try:
        for opcode, index, _ in pickletools.genops(content):
            # The unpickler fills a table as long as the largest index: one damaged byte can take 32 GB.
            if opcode.name in ("PUT", "LONG_BINPUT") and isinstance(index, int) and index > len(content):
                raise ValueError(index)
        pickled = _Unpickler(io.BytesIO(content), encoding="bytes").load()
        return {text(key): value for key, value in pickled.items()}
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


def _dtype(name: object, *_: Any) -> np.dtype:
    return DTYPES[text(name)]


def _reconstruct(*_: Any) -> np.ndarray:
    """An empty array; the pickle then sets its state, which is shape, data type and content."""
    return np.empty(0, np.uint8)


def _frombuffer(content: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    # A copy, since `content` may be an array whose memory is freed when the pickle sets its state.
    return np.frombuffer(content, dtype).reshape(shape, order=order).copy()


ALLOWED = {
    "numpy.dtype": _dtype,
    "numpy.ndarray": None,
    "numpy._core.multiarray._reconstruct": _reconstruct,
    "numpy._core.numeric._frombuffer": _frombuffer,
    "numpy._core.multiarray.scalar": lambda dtype, content: np.frombuffer(content, dtype).item(),
    # Up to protocol 2 these two are how Python 3 writes bytes.
    "_codecs.encode": lambda characters, _: characters.encode("latin1"),
    "builtins.bytes": bytes,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        # The names of Python 2 and of NumPy 1.
        known = {"__builtin__": "builtins"}.get(module, module.replace("numpy.core.", "numpy._core."))
        try:
            return ALLOWED[f"{known}.{name}"]
        except KeyError:
            raise RefusedError(f"{module}.{name}") from None
