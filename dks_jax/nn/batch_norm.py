"""Batch normalisation with given statistics, or with batch statistics and a closed-form derivative."""

import jax
import jax.numpy as jnp

from dks_jax.nn.derivatives import is_forward_mode


def normalise_by(
    x: jax.Array, mean: jax.Array, var: jax.Array, *, scale: jax.Array, bias: jax.Array, epsilon: float
) -> jax.Array:
    """x normalised with given statistics: (x - mean) / sqrt(var + epsilon) * scale + bias.

    Computed in float32 or wider; the result has the type of x.
    """
    y = (_widen(x) - mean) * (jax.lax.rsqrt(var + epsilon) * scale) + bias
    return y.astype(x.dtype)


def normalise_batch(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float, shift: jax.Array | None = None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """x normalised with its own mean and variance per group and channel, and these statistics.

    The closed-form derivative takes two sums over the batch and keeps no activation but x, in its own type;
    automatic differentiation would take four sums. It excludes forward mode; within the context manager
    `forward_mode` both modes are JAX's own.

    Without `shift` the variance takes a second pass over x, after the mean is known. With it one pass gives
    the sums of x - shift and of its square. A compiler for accelerators computes them where it computes x,
    which is read one time less. In float32 the variance then has a relative error of about
    1e-7 (1 + d^2) for d = |mean - shift| / standard deviation.

    Args:
      x: [group, example, channel].
      scale, bias: [channel].
      shift: [channel], values near the mean that do not depend on x; no gradient flows to them.

    Returns:
      (normalised, mean, variance). `normalised` has the shape and the type of x. The mean and the biased
      variance are [group, 1, channel] in float32 or wider; no gradient flows through them.
    """
    if not is_forward_mode():
        return _normalise_batch(x, scale, bias, shift, epsilon)
    y, mean, var = _values(x, scale, bias, shift, epsilon)
    return y, jax.lax.stop_gradient(mean), jax.lax.stop_gradient(var)


def _values(x: jax.Array, scale: jax.Array, bias: jax.Array, shift: jax.Array | None, epsilon: float):
    return _forward(x, scale, bias, shift, epsilon)[0]


_normalise_batch = jax.custom_vjp(_values, nondiff_argnums=(4,))


def _forward(x: jax.Array, scale: jax.Array, bias: jax.Array, shift: jax.Array | None, epsilon: float):
    mean, var = _two_passes(_widen(x)) if shift is None else _one_pass(_widen(x), shift)
    y = normalise_by(x, mean, var, scale=scale, bias=bias, epsilon=epsilon)
    return (y, mean, var), (x, mean, var, scale, bias, shift)


def _two_passes(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    mean = jnp.mean(x, axis=1, keepdims=True)
    return mean, jnp.mean(jnp.square(x - mean), axis=1, keepdims=True)


def _one_pass(x: jax.Array, shift: jax.Array) -> tuple[jax.Array, jax.Array]:
    shift = jax.lax.stop_gradient(shift)
    shifted = x - shift
    mean, square = (jnp.mean(values, axis=1, keepdims=True) for values in (shifted, jnp.square(shifted)))
    # Rounding can give a variance below zero where x is constant.
    return shift + mean, jnp.maximum(square - jnp.square(mean), 0)


def _backward(epsilon: float, residuals, gradients):
    x, mean, var, scale, bias, shift = residuals
    inverse_std = jax.lax.rsqrt(var + epsilon)
    g = _widen(gradients[0])
    normalised = (_widen(x) - mean) * inverse_std
    of_bias = jnp.sum(g, axis=1, keepdims=True)
    of_scale = jnp.sum(g * normalised, axis=1, keepdims=True)
    of_x = inverse_std * scale * (g - (of_bias + normalised * of_scale) / x.shape[1])
    of_scale, of_bias = (jnp.sum(a, axis=(0, 1)) for a in (of_scale, of_bias))
    of_shift = None if shift is None else jnp.zeros_like(shift)
    return of_x.astype(x.dtype), of_scale.astype(scale.dtype), of_bias.astype(bias.dtype), of_shift


_normalise_batch.defvjp(_forward, _backward)


def _widen(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
