"""Deeply-supervised knowledge synergy for image classifiers in JAX and Flax NNX."""

from dks_jax.runtime.errors import InputError
from dks_jax.supervision import Branch, BranchSpec, DeeplySupervised
from dks_jax.synergy import all_pairs, bottom_up, no_pairs, objective, synergy_loss, top_down

__version__ = "0.2.0"

__all__ = [
    "Branch",
    "BranchSpec",
    "DeeplySupervised",
    "InputError",
    "__version__",
    "all_pairs",
    "bottom_up",
    "no_pairs",
    "objective",
    "synergy_loss",
    "top_down",
]
