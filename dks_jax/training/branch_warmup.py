"""The warm-up of branches: fresh ones teach a trained main classifier only once they have learnt something.

While it lasts, branches learn from the labels and from all deeper classifiers, but what they teach deeper
ones counts less: nothing for `hold` epochs, then over `rise` epochs a share that rises linearly to 1.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dks_jax import models
from dks_jax.config import AUTO, Config, complete, flatten, resolve
from dks_jax.runtime.errors import InputError
from dks_jax.synergy import scale_upward
from dks_jax.training.steps import LossSchedule
from dks_jax.weights import load_weights

FIELD = "synergy.branch_warmup"
# (hold, rise) in epochs, for branches that start fresh beside trained weights and for all others.
FRESH, OFF = (2, 3), (0, 0)


def resolve_branch_warmup(config: Config, recorded: Mapping[str, Any] | None = None) -> Config:
    """The config of a run with numbers in place of `synergy.branch_warmup` = "auto".

    Args:
      config: the config, which is returned itself where it has numbers.
      recorded: the fields of the run that goes on, as `config.recorded` gives them; None for a new run, which
        looks into `init_weights`.

    Raises:
      InputError: the numbers are not two, or `init_weights` cannot be read.
    """
    warmup = config.synergy.branch_warmup
    if warmup != AUTO:
        if len(warmup) != 2:
            raise InputError(
                f"`{FIELD}` must be {AUTO} or two numbers of epochs, (hold, rise); got {warmup}."
            )
        return config
    if recorded is not None:
        warmup = tuple(recorded[FIELD])
    elif _has_fresh_branches(config):
        warmup = FRESH
    else:
        warmup = OFF
    return complete(flatten(config) | {FIELD: warmup}, {}, models.arguments)


def _has_fresh_branches(config: Config) -> bool:
    """Whether `init_weights` brings a backbone and the branches start with initial values."""
    branches = models.resolve_branches(config.model, resolve(config).branches)
    if not branches or not config.init_weights or config.init_optimizer:
        return False
    return load_weights(Path(config.init_weights)).metadata.branches != branches


def teaching_schedule(
    teaches: np.ndarray, hold: float, rise: float, steps_per_epoch: int
) -> LossSchedule | None:
    """The teaching matrix of `objective` as a function of the step; None where it never differs.

    Args:
      teaches: the full matrix, [teacher, student].
      hold, rise: the epochs of the warm-up.
    """
    # A beginning beyond the largest 32-bit step number never comes.
    begin = min(int(hold * steps_per_epoch), np.iinfo(np.int32).max)
    length = float(int(rise * steps_per_epoch))
    if not (begin or length) or not np.triu(teaches, 1).any():
        return None

    def at(step: jax.Array) -> dict[str, jax.Array]:
        share = jnp.clip((step - begin) / length, 0.0, 1.0) if length else step >= begin
        return {"teaches": scale_upward(teaches, share)}

    return at
