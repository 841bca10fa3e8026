"""Deeply-supervised knowledge synergy for image classifiers in JAX and Flax NNX."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dks_jax.runtime.errors import InputError

if TYPE_CHECKING:
    from dks_jax.supervision import Attached, Branch, BranchSpec, DeeplySupervised, attach
    from dks_jax.synergy import all_pairs, bottom_up, no_pairs, objective, synergy_loss, top_down

__version__ = "0.2.0"
"""The version of the library."""

__all__ = [
    "Attached",
    "Branch",
    "BranchSpec",
    "DeeplySupervised",
    "InputError",
    "__version__",
    "all_pairs",
    "attach",
    "bottom_up",
    "no_pairs",
    "objective",
    "synergy_loss",
    "top_down",
]

_SUPERVISION = ("Attached", "Branch", "BranchSpec", "DeeplySupervised", "attach")


def __getattr__(name: str) -> Any:
    """Imports JAX and Flax when a name is first used, so that a command can prepare for Ctrl-C before."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = import_module("dks_jax.supervision" if name in _SUPERVISION else "dks_jax.synergy")
    return getattr(home, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
