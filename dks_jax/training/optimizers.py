"""Stochastic gradient descent as `torch.optim.SGD` computes it, and learning-rate schedules by epoch.

Schedules are functions of the step, counted from 0, so that a resumed run needs no other state for them.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dks_jax.config import Config
from dks_jax.runtime.errors import InputError

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
    """A rate that is multiplied by `drop_factor` at the start of each of `drop_epochs`; see `drop_steps`.

    Over the first `warmup_epochs` it is also multiplied by a factor that rises linearly from 0 to 1.
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
    """A linear warm-up from 0 over `warmup_epochs`, then half a cosine to 0 at the end of `epochs`."""
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=learning_rate,
        warmup_steps=int(warmup_epochs * steps_per_epoch),
        decay_steps=epochs * steps_per_epoch,
    )


def sgd(
    schedule: Schedule,
    *,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    clip_norm: float = 0.0,
    decay_norm_and_bias: bool = True,
    reset_steps: Collection[int] = (),
) -> optax.GradientTransformation:
    """SGD with momentum and coupled weight decay, equal to `torch.optim.SGD` at every step.

        gradient *= min(1, clip_norm / global norm of the gradient)
        gradient += weight_decay * parameter
        buffer = momentum * buffer + gradient
        parameter -= schedule(step) * buffer

    Args:
      schedule: learning rate as a function of the step.
      momentum: decay of the momentum, at least 0 and below 1, without Nesterov's modification.
      weight_decay: coefficient of the weight decay, which is added to the gradient and not to the update.
      clip_norm: largest global norm of the gradient; 0 for no clipping.
      decay_norm_and_bias: whether every trainable array decays, as in the released DKS code, or only kernels.
      reset_steps: steps before which the momentum is reset; see `drop_steps` for the released recipe.
    """
    mask = None if decay_norm_and_bias else _kernels_only
    clip = optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity()
    return optax.chain(
        clip,
        optax.add_decayed_weights(weight_decay, mask),
        _momentum(momentum, reset_steps),
        optax.scale_by_learning_rate(schedule),
    )


class _MomentumState(NamedTuple):
    step: jax.Array
    momentum: optax.Params


def _momentum(decay: float, reset_steps: Collection[int]) -> optax.GradientTransformation:
    """Momentum, buffer = decay * buffer + gradient, with a zero buffer before each of `reset_steps`.

    The released DKS code creates a new optimizer at every drop of the learning rate, which resets the
    momentum.
    """
    resets = np.asarray(sorted(reset_steps), np.int32)

    def init(params: optax.Params) -> _MomentumState:
        return _MomentumState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params))

    def update(updates, state, params=None):
        del params
        keep = ~jnp.any(state.step == resets)
        momentum = jax.tree.map(lambda m, g: jnp.where(keep, decay * m, 0) + g, state.momentum, updates)
        return momentum, _MomentumState(state.step + 1, momentum)

    return optax.GradientTransformation(init, update)


def _kernels_only(params: Mapping[str, jax.Array]) -> dict[str, bool]:
    """A mask that is True for kernels, False for biases and for the scales and offsets of normalisation."""
    return {name: value.ndim > 1 for name, value in params.items()}


def state_before(
    opt_state: optax.OptState, step: int, momentum: Mapping[str, jax.Array] | None
) -> optax.OptState:
    """The state of a fresh `sgd` moved to a step, with the given momentum or, for None, without any."""
    if step:
        opt_state = optax.tree_utils.tree_set(opt_state, step=jnp.int32(step), count=jnp.int32(step))
    return opt_state if momentum is None else optax.tree_utils.tree_set(opt_state, momentum=dict(momentum))


def check(config: Config, epochs: int) -> None:
    """Raises InputError for fields of `config.optimizer` that do not fit each other or `epochs`."""
    drop_epochs = list(config.drop_epochs)
    if drop_epochs != sorted(set(drop_epochs)):
        raise InputError(
            f"`optimizer.drop_epochs` must be rising, e.g. (60, 120, 160); got {tuple(drop_epochs)}."
        )
    if config.schedule == "cosine" and drop_epochs:
        raise InputError(
            f"`optimizer.drop_epochs` must be () where the schedule is cosine; got {tuple(drop_epochs)}."
        )
    if config.warmup_epochs >= epochs:
        raise InputError(
            f"`optimizer.warmup_epochs` must be below `epochs`, {epochs}; got {config.warmup_epochs}."
        )


def from_config(
    config: Config, epochs: int, steps_per_epoch: int
) -> tuple[optax.GradientTransformation, Schedule]:
    """The optimizer and the schedule of a `config.optimizer` that `check` accepts."""
    reset_steps = []
    if config.schedule == "step":
        schedule = step_schedule(
            config.learning_rate,
            config.drop_epochs,
            config.drop_factor,
            steps_per_epoch,
            config.warmup_epochs,
        )
        if config.reset_momentum_at_drops:
            reset_steps = drop_steps(config.drop_epochs, steps_per_epoch)
    else:
        schedule = cosine_schedule(config.learning_rate, config.warmup_epochs, epochs, steps_per_epoch)
    optimizer = sgd(
        schedule,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        clip_norm=config.clip_norm,
        decay_norm_and_bias=config.decay_norm_and_bias,
        reset_steps=reset_steps,
    )
    return optimizer, schedule
