"""A fence across which XLA fuses no gradient, for networks that are slow on a CPU without."""

import jax
from jax import lax

from dks_jax.nn.derivatives import is_forward_mode
from dks_jax.runtime.forms import by_platform


def fence(x: jax.Array) -> jax.Array:
    """x, whose gradient a program for one CPU device computes once, however many read it.

    XLA fuses the computation of a gradient into each of its readers, and so repeats it there. On a CPU that
    costs much where features are added to or appended to, since their gradient is a sum over all later
    blocks, and behind a linear layer, since the gradient of its output is read for its input, its kernel and
    its bias.

    The form for CPUs has no forward mode, unless the context manager `forward_mode` asks for it.
    """
    if is_forward_mode() or jax.device_count() > 1:
        return x
    return by_platform(x, cpu=_stored, accelerator=lambda x: x)


@jax.custom_vjp
def _stored(x: jax.Array) -> jax.Array:
    return x


def _forward(x: jax.Array) -> tuple[jax.Array, None]:
    return x, None


def _backward(_: None, g: jax.Array) -> tuple[jax.Array]:
    # XLA fuses nothing into a conditional, hence one with two equal branches. The barrier within, which XLA
    # removes before it fuses, keeps it from replacing the conditional by g.
    return (lax.cond(g.ravel()[0] > 0, lax.optimization_barrier, lax.optimization_barrier, g),)


_stored.defvjp(_forward, _backward)
