"""The warm-up of branches: fresh ones teach a trained main classifier only once they have learnt something.

While it lasts, branches learn from the labels and from all deeper classifiers, but what they teach deeper
ones counts less: nothing for `hold` epochs, then over `rise` epochs a share that rises linearly to 1.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from dks_jax import models
from dks_jax.config import AUTO, Config, complete, flatten, resolve
from dks_jax.runtime.errors import InputError
from dks_jax.supervision import BranchSpec
from dks_jax.synergy import scale_upward
from dks_jax.training.steps import LossSchedule

FIELD = "synergy.branch_warmup"
# (hold, rise) in epochs, for branches that start fresh beside trained weights and for all others.
FRESH, OFF = (4, 8), (0, 0)


def resolve_branch_warmup(config: Config, given: Sequence[BranchSpec] | None = None) -> Config:
    """The config of a run with numbers in place of `synergy.branch_warmup` = "auto".

    Args:
      config: the config, which is returned itself where it has numbers.
      given: branches of the weights that the run starts from; None where it starts from none.

    Raises:
      InputError: the numbers are not two.
    """
    warmup = config.synergy.branch_warmup
    if warmup != AUTO:
        if len(warmup) != 2:
            raise InputError(
                f"`{FIELD}` must be {AUTO} or two numbers of epochs, (hold, rise); got {warmup}."
            )
        return config
    own = models.resolve_branches(config.model, resolve(config).branches)
    fresh = own and given is not None and tuple(given) != own
    warmup = FRESH if fresh else OFF
    return complete(flatten(config) | {FIELD: warmup}, {}, models.arguments)


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
