"""Stand-ins for packages that importing dks_jax takes and a training step does not, where they are absent.

A machine to measure on often has JAX and PyTorch and nothing else.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec
from types import SimpleNamespace
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


# Of Pillow what is evaluated on import, annotations of functions above all.
PACKAGES = {
    "ml_collections": {"ConfigDict": ConfigDict},
    "tqdm": {"tqdm": _progress},
    "PIL": {
        "Image": SimpleNamespace(Image=object),
        "ImageEnhance": SimpleNamespace(Brightness=None, Contrast=None, Color=None),
    },
}


def install() -> None:
    """Puts a stand-in in the place of every package that is absent."""
    for name, members in PACKAGES.items():
        if not find_spec(name):
            # With a spec, since others ask for it.
            module = module_from_spec(ModuleSpec(name, None))
            vars(module).update(members)
            sys.modules[name] = module
