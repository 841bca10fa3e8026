"""The layers of the backbones, as PyTorch computes them, on images [batch, height, width, channel].

A layer computes in the type of its input (bfloat16 images give a bfloat16 network) and keeps its
parameters in their own type. Statistics and logits are float32 or wider.
"""

import math
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer

from dks_jax.batch_norm import normalise_batch, normalise_by
from dks_jax.convolution import convolve
from dks_jax.errors import InputError


def draw(
    rngs: nnx.Rngs, shape: tuple[int, ...], values: Callable[[np.random.Generator], np.ndarray]
) -> jax.Array:
    """Initial values from a NumPy generator that is seeded by the next key of the `params` stream.

    They are drawn with NumPy because XLA compiles a program for every new shape: a WRN-28-10 takes 17 s that
    way and 5 s this way (2 CPU cores). A network is therefore built outside of jit. Under `nnx.eval_shape`,
    where there are shapes alone, nothing is drawn.
    """
    key = jax.random.key_data(rngs.params())
    if isinstance(key, Tracer):
        return jnp.zeros(shape)
    return jnp.asarray(values(np.random.default_rng(np.asarray(key))))


def kaiming_normal(rngs: nnx.Rngs, shape: tuple[int, ...], *, fan_out: bool = False) -> jax.Array:
    """Normal with variance 2 / fan-in, or 2 / fan-out, as PyTorch's kaiming_normal_.

    shape: its last two axes are input and output.
    """
    fan = math.prod(shape[:-2]) * shape[-1 if fan_out else -2]
    std = np.float32(math.sqrt(2.0 / fan))
    return draw(rngs, shape, lambda random: random.standard_normal(shape, np.float32) * std)


class Conv(nnx.Module):
    """A square convolution without bias; zero padding of kernel_size // 2 on every side.

    kernel: [height, width, in, out], Kaiming-normal by fan-in, or by fan-out where `fan_out` is set.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        *,
        fan_out: bool = False,
        rngs: nnx.Rngs,
    ):
        shape = (kernel_size, kernel_size, in_channels, out_channels)
        self.kernel = nnx.Param(kaiming_normal(rngs, shape, fan_out=fan_out))
        self.stride = stride

    def __call__(self, x: jax.Array) -> jax.Array:
        return convolve(x, self.kernel[...].astype(x.dtype), self.stride)


class Linear(nnx.Module):
    """x @ kernel + bias in float32 or wider, whatever the type of x: it ends a network with its logits.

    kernel: [in, out], Kaiming-normal by fan-in; bias: [out], zeros. Where `uniform` is set both are drawn
    from U(-1, 1) / sqrt(in), as `torch.nn.Linear` does by itself.
    """

    def __init__(self, in_features: int, out_features: int, *, uniform: bool = False, rngs: nnx.Rngs):
        shape = (in_features, out_features)

        def within(shape: tuple[int, ...]) -> jax.Array:
            bound = 1.0 / math.sqrt(in_features)
            return draw(rngs, shape, lambda random: random.uniform(-bound, bound, shape).astype(np.float32))

        self.kernel = nnx.Param(within(shape) if uniform else kaiming_normal(rngs, shape))
        self.bias = nnx.Param(within(shape[1:]) if uniform else jnp.zeros(out_features))

    def __call__(self, x: jax.Array) -> jax.Array:
        accumulator = jnp.promote_types(x.dtype, jnp.float32)
        kernel = self.kernel[...].astype(x.dtype)
        return jnp.dot(x, kernel, preferred_element_type=accumulator) + self.bias[...]


class BatchNorm(nnx.Module):
    """Batch normalisation with the statistics of `torch.nn.BatchNorm2d`.

    flax.nnx.BatchNorm keeps a biased running variance and computes E[x^2] - E[x]^2, which loses digits
    in float32; `normalise_batch` takes two passes, and the running variance is of the unbiased one.

    With `norm_groups` = g the batch is normalised in g equal slices, as g replicas would each normalise
    their own share; the running statistics take the mean over the slices. The result does not depend on
    the number of devices.

    scale: [channel], ones where `unit_scale` is set, else drawn from U(0, 1), as the released DKS code does
    on CIFAR; bias: [channel], zeros; mean, var: running statistics, new = 0.9 old + 0.1 batch.

    Raises:
      InputError: the batch does not divide into `norm_groups` slices.
    """

    momentum = 0.9
    epsilon = 1e-5

    def __init__(self, num_channels: int, *, norm_groups: int = 1, unit_scale: bool = False, rngs: nnx.Rngs):
        shape = (num_channels,)
        scale = jnp.ones(shape) if unit_scale else draw(rngs, shape, lambda r: r.random(shape, np.float32))
        self.scale = nnx.Param(scale)
        self.bias = nnx.Param(jnp.zeros(num_channels))
        self.mean = nnx.BatchStat(jnp.zeros(num_channels))
        self.var = nnx.BatchStat(jnp.ones(num_channels))
        self.norm_groups = norm_groups
        self.use_running_average = False

    def __call__(self, x: jax.Array) -> jax.Array:
        if not self.use_running_average:
            return self._by_batch(x)
        mean, var, scale, bias = (v[...] for v in (self.mean, self.var, self.scale, self.bias))
        return normalise_by(x, mean, var, scale=scale, bias=bias, epsilon=self.epsilon)

    def _by_batch(self, x: jax.Array) -> jax.Array:
        if x.shape[0] % self.norm_groups:
            raise InputError(
                f"`norm_groups` must divide the batch of {x.shape[0]} images; got {self.norm_groups}: choose "
                "a divisor of every batch, the last one of an epoch too (data.drop_last=True drops that one)."
            )
        grouped = x.reshape(self.norm_groups, -1, x.shape[-1])
        y, mean, var = normalise_batch(grouped, self.scale[...], self.bias[...], self.epsilon)
        count = grouped.shape[1]
        self._update(self.mean, jnp.mean(mean, axis=(0, 1)))
        self._update(self.var, jnp.mean(var, axis=(0, 1)) * (count / max(count - 1, 1)))
        return y.reshape(x.shape)

    def _update(self, running: nnx.BatchStat, new: jax.Array) -> None:
        running.set_value(self.momentum * running[...] + (1.0 - self.momentum) * jax.lax.stop_gradient(new))


class Stage(nnx.Module):
    """Blocks one after another.

    remat: whether the backward pass computes anew what is within a block, instead of keeping it since the
      forward pass; switched as training mode is, by `.train(remat=True)`.
    """

    def __init__(self, blocks: Iterable[Callable[[jax.Array], jax.Array]]):
        self.blocks = nnx.List(blocks)
        self.remat = False

    def __call__(self, x: jax.Array) -> jax.Array:
        apply = nnx.remat(_apply) if self.remat else _apply
        for block in self.blocks:
            x = apply(block, x)
        return x


def _apply(block: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    return block(x)


def max_pool(x: jax.Array) -> jax.Array:
    """The largest of every 3x3 window at stride 2, the border padded by one, as `MaxPool2d(3, 2, 1)`."""
    padding = ((0, 0), (1, 1), (1, 1), (0, 0))
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), padding)
