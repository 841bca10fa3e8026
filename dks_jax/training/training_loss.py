"""What the loss of training has that the loss of evaluation has not, which stays comparable between runs."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dks_jax.config import Config
from dks_jax.training.branch_warmup import teaching_schedule
from dks_jax.training.steps import LossSchedule

# The number that the key of a step is folded with for the pairs that it leaves out; mixing has the one below.
PAIRS_STREAM = 2**31 - 2


def schedule(config: Config, teaches: np.ndarray, steps_per_epoch: int) -> LossSchedule | None:
    """The keyword arguments of `objective` in training as a function of the step; None where there are none.

    Args:
      config: a config with numbers in `synergy.branch_warmup`.
      teaches: the teaching matrix, [teacher, student], with the rows of frozen teachers.
      steps_per_epoch: number of steps in an epoch.
    """
    synergy, loss = config.synergy, config.loss
    fixed: dict[str, Any] = {}
    if loss.label_smoothing:
        fixed["label_smoothing"] = loss.label_smoothing
    if loss.binary:
        fixed |= {"binary": True, "threshold": loss.binary_threshold}
    if loss.classifier_weights:
        fixed["classifier_weights"] = loss.classifier_weights
    hold, rise = synergy.branch_warmup
    warmup = teaching_schedule(teaches, hold, rise, steps_per_epoch)
    alpha_steps = float(int(synergy.alpha_warmup * steps_per_epoch))
    if len(teaches) > teaches.shape[1]:
        fixed["teaches"] = teaches
    if not (fixed or warmup or alpha_steps or synergy.random_pairs):
        return None

    def at(step: jax.Array) -> dict[str, Any]:
        arguments = fixed | (warmup(step) if warmup else {})
        if alpha_steps:
            arguments["alpha"] = synergy.alpha * jnp.minimum(step / alpha_steps, 1.0)
        if synergy.random_pairs:
            key = jax.random.fold_in(jax.random.key(config.seed), step)
            key = jax.random.fold_in(key, PAIRS_STREAM)
            arguments["teaches"] = leave_out_pairs(jnp.asarray(arguments.get("teaches", teaches)), key)
        return arguments

    return at


def leave_out_pairs(teaches: jax.Array, key: jax.Array) -> jax.Array:
    """The teaching matrix without the pairs that were drawn, as many with replacement as there are pairs.

    With 3 classifiers each of the 6 pairs stays with the probability (5/6)^6, one third. Source: a variant in
    the code of Dynamic Hierarchical Mimicking, github.com/d-li14/DHM.

    Args:
      teaches: [teacher, student]; frozen teachers, whose rows come last, are not left out.
      key: PRNG key of the step.
    """
    count = teaches.shape[1]
    pairs = count * (count - 1)
    drawn = jax.random.randint(key, (pairs,), 0, pairs)
    left_out = jnp.zeros(pairs, bool).at[drawn].set(True)
    # The pairs are the entries off the diagonal, row by row.
    rows, columns = np.nonzero(~np.eye(count, dtype=bool))
    return teaches.at[rows, columns].multiply(jnp.where(left_out, 0, 1))
