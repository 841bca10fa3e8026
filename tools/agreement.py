"""Whether this library and PyTorch give the same logits for the same images."""

from collections.abc import Mapping

import numpy as np

from dks_jax.errors import InputError

# Largest difference, relative to the largest logit; float32 gives 1e-6.
TOLERANCE = 1e-4


def compare(ours: np.ndarray, theirs: np.ndarray) -> dict[str, float]:
    """The largest difference of logits, and the largest logit."""
    return {
        "largest_difference": float(np.abs(ours - theirs).max()),
        "largest_logit": float(np.abs(theirs).max()),
    }


def require(found: Mapping[str, float], theirs: str, consequence: str) -> None:
    """Raises InputError where `compare` has found more than rounding; names PyTorch and the consequence."""
    # Written so that it holds for NaN too.
    if not found["largest_difference"] < TOLERANCE * found["largest_logit"]:
        raise InputError(
            f"The logits of dks_jax and {theirs} must differ by less than {TOLERANCE:g} of the largest, "
            f"{found['largest_logit']:.4g}; they differ by {found['largest_difference']:.2e}: {consequence}."
        )
