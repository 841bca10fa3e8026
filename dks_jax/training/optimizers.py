"""Optimizers as `torch.optim` and timm compute them.

All are optax transformations of gradients by name, and take a schedule of the learning rate (`schedules`).
"""

from collections.abc import Collection, Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dks_jax.config import AUTO, Config
from dks_jax.runtime.errors import InputError
from dks_jax.training import schedules
from dks_jax.training.schedules import Schedule, drop_steps

# What is added to features or stands beside them, whatever its axes.
TOKENS = (".class_token", ".positions")


def sgd(
    schedule: Schedule,
    *,
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    clip_norm: float = 0.0,
    decay_norm_and_bias: bool = True,
    reset_steps: Collection[int] = (),
) -> optax.GradientTransformation:
    """SGD with momentum and coupled weight decay, equal to `torch.optim.SGD` at every step.

        gradient *= min(1, clip_norm / global norm of the gradient)
        gradient += weight_decay * parameter
        buffer = momentum * buffer + gradient
        parameter -= schedule(step) * (gradient + momentum * buffer if nesterov else buffer)

    Args:
      schedule: learning rate as a function of the step.
      momentum: decay of the momentum, at least 0 and below 1.
      nesterov: whether to step by Nesterov's modification of the momentum.
      weight_decay: coefficient of the weight decay, which is added to the gradient and not to the update.
      clip_norm: largest global norm of the gradient; 0 for no clipping.
      decay_norm_and_bias: whether every trainable array decays, as in the released DKS code, or only kernels,
        of whose kind the class token and the positions of a vision transformer are not.
      reset_steps: steps before which the momentum is reset; see `drop_steps` for the released recipe.
    """
    return optax.chain(
        _clip(clip_norm),
        optax.add_decayed_weights(weight_decay, _decayed(decay_norm_and_bias)),
        _momentum(momentum, nesterov, reset_steps),
        optax.scale_by_learning_rate(schedule),
    )


def adamw(
    schedule: Schedule,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    clip_norm: float = 0.0,
    decay_norm_and_bias: bool = True,
) -> optax.GradientTransformation:
    """AdamW, equal to `torch.optim.AdamW`: Loshchilov, Hutter, ICLR 2019, arXiv:1711.05101.

        m, v = means of the gradient and of its square by betas, without the bias of their start
        parameter -= schedule(step) * (m / (sqrt(v) + eps) + weight_decay * parameter)

    Args:
      betas: decays of the means of the gradient and of its square.
      eps: number that is added to the root of the mean square.
      schedule, weight_decay, clip_norm, decay_norm_and_bias: see `sgd`.
    """
    return optax.chain(
        _clip(clip_norm),
        optax.scale_by_adam(betas[0], betas[1], eps),
        optax.add_decayed_weights(weight_decay, _decayed(decay_norm_and_bias)),
        optax.scale_by_learning_rate(schedule),
    )


def lamb(
    schedule: Schedule,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-6,
    weight_decay: float = 0.0,
    clip_norm: float = 0.0,
    decay_norm_and_bias: bool = True,
) -> optax.GradientTransformation:
    """LAMB, equal to `timm.optim.Lamb`: You et al., ICLR 2020, arXiv:1904.00962.

        update = the direction of `adamw`, m / (sqrt(v) + eps) + weight_decay * parameter
        parameter -= schedule(step) * norm(parameter) / norm(update) * update

    A norm is that of one array. The quotient is 1 where a norm is 0 and, unlike that of `optax.lamb`, for
    parameters that do not decay. timm's default of 1 for the largest norm of the gradient is `clip_norm=1`.

    Args:
      schedule, betas, eps, weight_decay, clip_norm, decay_norm_and_bias: see `adamw`.
    """
    decay = optax.identity()
    if weight_decay:
        decay = optax.chain(optax.add_decayed_weights(weight_decay), optax.scale_by_trust_ratio())
        if not decay_norm_and_bias:
            decay = optax.masked(decay, _kernels_only)
    return optax.chain(
        _clip(clip_norm),
        optax.scale_by_adam(betas[0], betas[1], eps),
        decay,
        optax.scale_by_learning_rate(schedule),
    )


def scale_by_depth(layer_decay: float, distances: Mapping[str, int]) -> optax.GradientTransformation:
    """Multiplies the update of every parameter by layer_decay ** its distance from the head.

    The layer-wise learning-rate decay of Clark et al., "ELECTRA", arXiv:2003.10555, for fine-tuning.

    Args:
      layer_decay: factor from each part of the network to the one before it.
      distances: distances by the name of a parameter; see `supervision.distances_from_head`.
    """

    def scale(updates, params=None):
        del params
        return {name: layer_decay ** distances[name] * update for name, update in updates.items()}

    return optax.stateless(scale)


def _clip(norm: float) -> optax.GradientTransformation:
    return optax.clip_by_global_norm(norm) if norm else optax.identity()


class _MomentumState(NamedTuple):
    step: jax.Array
    momentum: optax.Params


def _momentum(decay: float, nesterov: bool, reset_steps: Collection[int]) -> optax.GradientTransformation:
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
        ahead = jax.tree.map(lambda m, g: g + decay * m, momentum, updates) if nesterov else momentum
        return ahead, _MomentumState(state.step + 1, momentum)

    return optax.GradientTransformation(init, update)


def _decayed(norm_and_bias: bool):
    """The mask of the parameters that decay, as optax takes it."""
    return None if norm_and_bias else _kernels_only


def _kernels_only(params: Mapping[str, jax.Array]) -> dict[str, bool]:
    """A mask that is True for kernels, False for biases, normalisation, class tokens and positions."""
    return {name: value.ndim > 1 and not name.endswith(TOKENS) for name, value in params.items()}


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
    if config.schedule != "step" and drop_epochs:
        raise InputError(
            f"`optimizer.drop_epochs` must be () where the schedule is {config.schedule}; got "
            f"{tuple(drop_epochs)}."
        )
    if config.warmup_epochs >= epochs:
        raise InputError(
            f"`optimizer.warmup_epochs` must be below `epochs`, {epochs}; got {config.warmup_epochs}."
        )
    if config.schedule == "one_cycle" and config.warmup_epochs:
        raise InputError(
            "`optimizer.warmup_epochs` must be 0 where the schedule is one_cycle, which has a warm-up of its "
            f"own; got {config.warmup_epochs}."
        )
    if len(config.betas) != 2:
        raise InputError(f"`optimizer.betas` must be two numbers, e.g. (0.9, 0.999); got {config.betas}.")
    for name in ("nesterov", "reset_momentum_at_drops"):
        if config[name] and config.name != "sgd":
            raise InputError(
                f"`optimizer.{name}` must be False where `optimizer.name` is {config.name}, since only the "
                "momentum of sgd knows it; got True."
            )
    if config.nesterov and not config.momentum:
        raise InputError(
            f"`optimizer.momentum` must be above 0 where `optimizer.nesterov` is True; got {config.momentum}."
        )


def from_config(
    config: Config, epochs: int, steps_per_epoch: int, distances: Mapping[str, int] | None = None
) -> tuple[optax.GradientTransformation, Schedule]:
    """The optimizer and the schedule of a `config.optimizer` that `check` accepts.

    Args:
      distances: distances of the parameters from the head, which `layer_decay` other than 1 needs; see
        `scale_by_depth`.
    """
    schedule = schedules.from_config(config, epochs, steps_per_epoch)
    common = {name: config[name] for name in ("weight_decay", "clip_norm", "decay_norm_and_bias")}
    if config.name == "sgd":
        resets = drop_steps(config.drop_epochs, steps_per_epoch) if config.reset_momentum_at_drops else []
        make = partial(sgd, momentum=config.momentum, nesterov=config.nesterov, reset_steps=resets)
    else:
        own = {} if config.eps == AUTO else {"eps": config.eps}
        make = partial({"adamw": adamw, "lamb": lamb}[config.name], betas=config.betas, **own)
    optimizer = make(schedule, **common)
    if config.layer_decay != 1:
        optimizer = optax.chain(optimizer, scale_by_depth(config.layer_decay, distances or {}))
    return optimizer, schedule
