"""Functions that draw the initial values of an array, each as the function of its name in torch.nn.init."""

import math
from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer

Shape: TypeAlias = tuple[int, ...]
# From the random streams and the shape of an array to its initial values.
Initialiser: TypeAlias = Callable[[nnx.Rngs, Shape], jax.Array]


def kaiming_normal(rngs: nnx.Rngs, shape: Shape) -> jax.Array:
    """Normal with variance 2 / fan-in: He et al., "Delving Deep into Rectifiers", arXiv:1502.01852.

    Args:
      rngs: random streams.
      shape: shape of a kernel, with input and output channels as its last two axes.
    """
    return _normal(rngs, shape, math.sqrt(2.0 / (math.prod(shape[:-2]) * shape[-2])))


def kaiming_normal_fan_out(rngs: nnx.Rngs, shape: Shape) -> jax.Array:
    """Normal with variance 2 / fan-out; see `kaiming_normal`."""
    return _normal(rngs, shape, math.sqrt(2.0 / (math.prod(shape[:-2]) * shape[-1])))


def uniform_by_fan_in(rngs: nnx.Rngs, shape: Shape, fan_in: int | None = None) -> jax.Array:
    """Uniform within 1 / sqrt(fan-in), with which PyTorch's layers start.

    Args:
      rngs: random streams.
      shape: shape of a kernel, with input and output channels as its last two axes, or of a bias.
      fan_in: fan-in of the layer; None to take it from the shape of a kernel.
    """
    bound = 1.0 / math.sqrt(fan_in or math.prod(shape[:-1]))
    return draw(rngs, shape, lambda random: random.uniform(-bound, bound, shape).astype(np.float32))


def truncated_normal(std: float) -> Initialiser:
    """Normal values with the given standard deviation, drawn again where they are beyond -2 or 2.

    These are absolute bounds, as in torch.nn.init.trunc_normal_, where networks have standard deviations of
    0.02 and hardly a value is drawn again.
    """

    def values(rngs: nnx.Rngs, shape: Shape) -> jax.Array:
        def within(random: np.random.Generator) -> np.ndarray:
            drawn = random.standard_normal(shape, np.float32) * np.float32(std)
            while (beyond := np.abs(drawn) > 2).any():
                drawn[beyond] = random.standard_normal(beyond.sum(), np.float32) * np.float32(std)
            return drawn

        return draw(rngs, shape, within)

    return values


def _normal(rngs: nnx.Rngs, shape: Shape, std: float) -> jax.Array:
    return draw(rngs, shape, lambda random: random.standard_normal(shape, np.float32) * np.float32(std))


def draw(
    rngs: nnx.Rngs, shape: tuple[int, ...], values: Callable[[np.random.Generator], np.ndarray]
) -> jax.Array:
    """Draws initial values with a NumPy generator, seeded by the next key of the `params` stream.

    With JAX's generator XLA would compile a program for every new shape: a WRN-28-10 would take 17 s instead
    of 5 s (2 CPU cores). Networks are therefore built outside of jit. Under `nnx.eval_shape`, which needs
    only shapes, the values are zeros.

    Args:
      shape: shape of the array.
      values: function that draws an array of this shape from a generator.
    """
    key = jax.random.key_data(rngs.params())
    if isinstance(key, Tracer):
        return jnp.zeros(shape)
    return jnp.asarray(values(np.random.default_rng(np.asarray(key))))
