"""Stand-ins for packages that importing dks_jax takes and a training step does not, where they are absent.

A machine to measure on often has JAX and PyTorch and nothing else.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace
from typing import Any


class ConfigDict(dict):
    """Nested dicts whose entries are attributes too: what config files take of ml_collections."""

    def __init__(self, fields: Mapping[str, Any]):
        super().__init__({name: ConfigDict(v) if isinstance(v, Mapping) else v for name, v in fields.items()})

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    @contextmanager
    def ignore_type(self) -> Iterator[None]:
        """Types are not held to here."""
        yield


def _progress(*_: Any, **__: Any) -> None:
    raise ModuleNotFoundError("No module named 'tqdm'")


# Of Pillow the annotations of functions alone are evaluated on import.
PACKAGES = {
    "ml_collections": {"ConfigDict": ConfigDict},
    "tqdm": {"tqdm": _progress},
    "PIL": {"Image": SimpleNamespace(Image=object), "ImageEnhance": None},
}


def install() -> None:
    """Puts a stand-in in the place of every package that is absent."""
    for name, members in PACKAGES.items():
        if not find_spec(name):
            module = ModuleType(name)
            vars(module).update(members)
            sys.modules[name] = module
