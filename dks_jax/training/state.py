"""The state of training, and the moving average of the weights as a part of it."""

from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax

from dks_jax.nn import Arrays


class TrainState(NamedTuple):
    """The complete state of training, as a plain pytree.

    Attributes:
      step: number of steps taken, an integer scalar.
      params, batch_stats: trainable arrays and running statistics of the network, by name.
      opt_state: state of the optimizer.
    """

    step: jax.Array
    params: Arrays
    batch_stats: Arrays
    opt_state: optax.OptState


class Average(NamedTuple):
    """Exponential moving averages (EMA) of the trainable arrays and of the running statistics."""

    params: Arrays
    batch_stats: Arrays


class AveragedState(NamedTuple):
    """A `TrainState` with the moving averages of its arrays.

    It is a type of its own so that states and checkpoints without averages have no entry for them.
    """

    step: jax.Array
    params: Arrays
    batch_stats: Arrays
    opt_state: optax.OptState
    ema: Average


State: TypeAlias = TrainState | AveragedState


def with_average(state: TrainState) -> AveragedState:
    """The state with averages that start from its arrays."""
    return AveragedState(*state, Average(state.params, state.batch_stats))


def to_use(state: State) -> Average | TrainState:
    """What is evaluated and saved: the averages of a state, or the state itself where it has none."""
    return state.ema if isinstance(state, AveragedState) else state


def update_average(
    ema: Average, params: Arrays, batch_stats: Arrays, step: jax.Array, decay: float
) -> Average:
    """The averages after a step.

        d = min(decay, (1 + step) / (10 + step))
        average = d * average + (1 - d) * array

    The smaller d of the first steps keeps the averages from remembering the initial values, as in
    `tf.train.ExponentialMovingAverage` with `num_updates`. Whole numbers are not averaged.

    Args:
      ema: averages before the step.
      params, batch_stats: arrays after the step.
      step: number of the step, 0 for the first.
      decay: largest decay.
    """

    def follow(average: jax.Array, array: jax.Array) -> jax.Array:
        if not jnp.issubdtype(array.dtype, jnp.floating):
            return array
        # 1 - d, without the rounding of this difference.
        rate = jnp.maximum(1 - decay, 9 / (10 + step.astype(array.dtype)))
        # In this form it stays where it is once both are equal.
        return average + rate * (array - average)

    return jax.tree.map(follow, ema, Average(params, batch_stats))
