"""Deeply-supervised knowledge synergy for image classifiers in JAX and Flax NNX."""

from dks_jax.errors import InputError
from dks_jax.supervision import Branch, DeeplySupervised
from dks_jax.synergy import all_pairs, bottom_up, no_pairs, objective, synergy_loss, top_down

__all__ = [
    "Branch",
    "DeeplySupervised",
    "InputError",
    "all_pairs",
    "bottom_up",
    "no_pairs",
    "objective",
    "synergy_loss",
    "top_down",
]
