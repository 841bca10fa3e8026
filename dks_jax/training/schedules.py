"""Learning-rate schedules.

Schedules are functions of the step, counted from 0, so that a resumed run needs no other state for them.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dks_jax.config import Config

# A function from the step, an integer or an array, to the learning rate.
Schedule = Callable[[Any], Any]


def drop_steps(drop_epochs: Sequence[int], steps_per_epoch: int) -> list[int]:
    """The steps at which `step_schedule` drops the learning rate.

    Epochs are counted from 1, and a drop takes effect at the start of its epoch: a drop at epoch 60 comes
    after 59 full epochs. This is the rule of the released DKS code.
    """
    # A drop beyond the largest 32-bit step number never takes effect.
    return [min((epoch - 1) * steps_per_epoch, np.iinfo(np.int32).max) for epoch in drop_epochs]


def step_schedule(
    learning_rate: float,
    drop_epochs: Sequence[int],
    drop_factor: float,
    steps_per_epoch: int,
    warmup_epochs: float = 0.0,
) -> Schedule:
    """A rate that drops by a factor at the start of some epochs, as in the released DKS code.

    Args:
      learning_rate: rate before the first drop.
      drop_epochs: epochs, counted from 1, at whose start the rate drops: at 60, after 59 full epochs.
      drop_factor: factor of each drop.
      steps_per_epoch: number of steps in an epoch.
      warmup_epochs: first epochs, in which the rate is also multiplied by a factor that rises from 0 to 1.

    Returns:
      A function from the step, counted from 0, to the learning rate.
    """
    boundaries = np.asarray(drop_steps(drop_epochs, steps_per_epoch), np.int32)
    rates = np.asarray([learning_rate * drop_factor**k for k in range(len(boundaries) + 1)])
    warmup_steps = int(warmup_epochs * steps_per_epoch)

    def rate(step: Any) -> jax.Array:
        return jnp.asarray(rates)[jnp.sum(step >= boundaries)]

    if not warmup_steps:
        return rate
    return lambda step: rate(step) * jnp.minimum(step / warmup_steps, 1.0)


def cosine_schedule(
    learning_rate: float, warmup_epochs: float, epochs: int, steps_per_epoch: int
) -> Schedule:
    """A linear warm-up from 0, then half a cosine to 0.

    Source: Loshchilov, Hutter, "SGDR", ICLR 2017, arXiv:1608.03983, without its restarts.

    Args:
      learning_rate: largest rate.
      warmup_epochs: epochs over which it rises.
      epochs: epoch at whose end the rate is 0.
      steps_per_epoch: number of steps in an epoch.

    Returns:
      A function from the step, counted from 0, to the learning rate.
    """
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=learning_rate,
        warmup_steps=int(warmup_epochs * steps_per_epoch),
        decay_steps=epochs * steps_per_epoch,
    )


def one_cycle_schedule(
    learning_rate: float,
    epochs: int,
    steps_per_epoch: int,
    *,
    pct_start: float = 0.3,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
) -> Schedule:
    """A rate that rises and then falls, each along half a cosine, as `torch.optim.lr_scheduler.OneCycleLR`.

    Smith, Topin, "Super-Convergence", arXiv:1708.07120, in the two phases of torch's default, and without
    its cycle of the momentum.

    Args:
      learning_rate: largest rate.
      epochs, steps_per_epoch: length of the cycle.
      pct_start: share of the steps over which the rate rises.
      div_factor: largest rate over the first one.
      final_div_factor: first rate over that of the last step.

    Returns:
      A function from the step, counted from 0, to the learning rate.
    """
    last = epochs * steps_per_epoch - 1
    top = pct_start * (last + 1) - 1
    first_rate = learning_rate / div_factor
    last_rate = first_rate / final_div_factor

    def anneal(start: float, end: float, share: jax.Array) -> jax.Array:
        return end + (start - end) / 2 * (1 + jnp.cos(jnp.pi * share))

    def rate(step: Any) -> jax.Array:
        rise = anneal(first_rate, learning_rate, step / top)
        fall = anneal(learning_rate, last_rate, jnp.minimum((step - top) / (last - top), 1.0))
        return jnp.where(step <= top, rise, fall)

    return rate


def from_config(config: Config, epochs: int, steps_per_epoch: int) -> Schedule:
    """The schedule of a `config.optimizer` that `optimizers.check` accepts."""
    if config.schedule == "step":
        return step_schedule(
            config.learning_rate,
            config.drop_epochs,
            config.drop_factor,
            steps_per_epoch,
            config.warmup_epochs,
        )
    if config.schedule == "one_cycle":
        return one_cycle_schedule(config.learning_rate, epochs, steps_per_epoch)
    return cosine_schedule(config.learning_rate, config.warmup_epochs, epochs, steps_per_epoch)
