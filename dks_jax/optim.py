"""Stochastic gradient descent as `torch.optim.SGD` computes it, and learning-rate schedules by epoch.

Schedules are functions of the step number, counted from 0, so that a resumed run needs nothing else.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dks_jax.configuration import Config
from dks_jax.errors import InputError

Schedule = Callable[[Any], Any]  # from the step, an integer or an array, to the learning rate


def drop_steps(drop_epochs: Sequence[int], steps_per_epoch: int) -> list[int]:
    """The steps at which `step_schedule` drops the learning rate.

    Epochs are numbered from 1, and an epoch's drop takes effect as it starts: a drop at epoch 60 comes
    after 59 whole epochs. This is the rule of the released DKS code.
    """
    # A drop beyond the last 32-bit step number never comes.
    return [min((epoch - 1) * steps_per_epoch, np.iinfo(np.int32).max) for epoch in drop_epochs]


def step_schedule(
    learning_rate: float, drop_epochs: Sequence[int], drop_factor: float, steps_per_epoch: int
) -> Schedule:
    """The learning rate, multiplied by `drop_factor` as each of `drop_epochs` starts; see `drop_steps`."""
    boundaries = np.asarray(drop_steps(drop_epochs, steps_per_epoch), np.int32)
    rates = np.asarray([learning_rate * drop_factor**k for k in range(len(boundaries) + 1)])
    return lambda step: jnp.asarray(rates)[jnp.sum(step >= boundaries)]


def cosine_schedule(
    learning_rate: float, warmup_epochs: float, epochs: int, steps_per_epoch: int
) -> Schedule:
    """Linear warm-up from 0 over `warmup_epochs`, then half a cosine down to 0 at the end of `epochs`."""
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=learning_rate,
        warmup_steps=int(warmup_epochs * steps_per_epoch),
        decay_steps=epochs * steps_per_epoch,
    )


class _MomentumState(NamedTuple):
    step: jax.Array
    momentum: optax.Params


def _momentum(decay: float, reset_steps: Collection[int]) -> optax.GradientTransformation:
    """buffer = decay * buffer + gradient, with the buffer set to zero before each of `reset_steps`.

    The released DKS code makes a new optimizer at every drop of the learning rate, which forgets the
    momentum there.
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
    """True for convolution and linear kernels, False for the scales and offsets of norms and for biases."""
    return {name: value.ndim > 1 for name, value in params.items()}


def sgd(
    schedule: Schedule,
    *,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    clip_norm: float = 0.0,
    decay_norm_and_bias: bool = True,
    reset_steps: Collection[int] = (),
) -> optax.GradientTransformation:
    """SGD with momentum and coupled weight decay, step for step equal to `torch.optim.SGD`.

        gradient *= min(1, clip_norm / norm of the whole gradient)
        gradient += weight_decay * parameter
        buffer = momentum * buffer + gradient
        parameter -= schedule(step) * buffer

    Args:
      schedule: learning rate by step.
      momentum: 0 to below 1; no Nesterov.
      weight_decay: added to the gradient (coupled), not to the update.
      clip_norm: largest norm of all gradients together; 0 does not clip.
      decay_norm_and_bias: True decays every trainable tensor, as released; False the kernels alone.
      reset_steps: steps before which the momentum is forgotten; `drop_steps` for the released recipe.
    """
    mask = None if decay_norm_and_bias else _kernels_only
    clip = optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity()
    return optax.chain(
        clip,
        optax.add_decayed_weights(weight_decay, mask),
        _momentum(momentum, reset_steps),
        optax.scale_by_learning_rate(schedule),
    )


def state_before(
    opt_state: optax.OptState, step: int, momentum: Mapping[str, jax.Array] | None
) -> optax.OptState:
    """The state of a fresh `sgd` as it is before a step, with a momentum or, where that is None, without."""
    if step:
        opt_state = optax.tree_utils.tree_set(opt_state, step=jnp.int32(step), count=jnp.int32(step))
    return opt_state if momentum is None else optax.tree_utils.tree_set(opt_state, momentum=dict(momentum))


def check(config: Config, epochs: int) -> None:
    """Raises InputError for fields of `config.optimizer` that do not fit each other or `epochs`."""
    if config.schedule not in ("step", "cosine"):
        raise InputError(f"`optimizer.schedule` must be 'step' or 'cosine'; got {config.schedule!r}.")
    drop_epochs = list(config.drop_epochs)
    if drop_epochs != sorted(set(drop_epochs)):
        raise InputError(
            f"`optimizer.drop_epochs` must be rising, e.g. (60, 120, 160); got {tuple(drop_epochs)}."
        )
    if config.schedule == "cosine" and drop_epochs:
        raise InputError(
            f"`optimizer.drop_epochs` must be () where the schedule is cosine; got {tuple(drop_epochs)}."
        )
    if config.schedule == "step" and config.warmup_epochs:
        raise InputError(
            f"`optimizer.warmup_epochs` must be 0 where the schedule is step; got {config.warmup_epochs}."
        )
    if config.warmup_epochs >= epochs:
        raise InputError(
            f"`optimizer.warmup_epochs` must be below `epochs`, {epochs}; got {config.warmup_epochs}."
        )


def from_config(
    config: Config, epochs: int, steps_per_epoch: int
) -> tuple[optax.GradientTransformation, Schedule]:
    """The optimizer and the schedule that `config.optimizer` describes, as `check` accepts it."""
    reset_steps = []
    if config.schedule == "step":
        schedule = step_schedule(
            config.learning_rate, config.drop_epochs, config.drop_factor, steps_per_epoch
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
