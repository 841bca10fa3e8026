"""Comparison of the logits that this library and PyTorch compute for the same images."""

from collections.abc import Mapping

import numpy as np

from dks_jax.runtime.errors import InputError

# Largest accepted difference relative to the largest logit; rounding in float32 causes about 1e-6.
TOLERANCE = 1e-4


def compare(ours: np.ndarray, theirs: np.ndarray) -> dict[str, float]:
    """The largest absolute difference between logits, and the largest absolute logit of PyTorch."""
    return {
        "largest_difference": float(np.abs(ours - theirs).max()),
        "largest_logit": float(np.abs(theirs).max()),
    }


def require(found: Mapping[str, float], theirs: str, consequence: str) -> None:
    """Raises InputError if the differences exceed rounding.

    Args:
      found: result of `compare`.
      theirs: name of the other implementation, for the message.
      consequence: what follows from a difference, for the message.
    """
    # The comparison is negated so that NaN raises too.
    if not found["largest_difference"] < TOLERANCE * found["largest_logit"]:
        raise InputError(
            f"The logits of dks_jax and {theirs} must differ by less than {TOLERANCE:g} of the largest, "
            f"{found['largest_logit']:.4g}; they differ by {found['largest_difference']:.2e}: {consequence}."
        )
