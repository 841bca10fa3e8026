"""The layers of the networks, which compute as PyTorch does, on images [batch, height, width, channel].

A layer computes in the type of its input, so bfloat16 images give a bfloat16 network, and keeps its
parameters in their own type. Statistics and logits are float32 or wider.
"""

import math
from collections.abc import Callable, Iterable
from functools import partial, reduce

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer

from dks_jax.nn.batch_norm import normalise_batch, normalise_by
from dks_jax.nn.convolution import convolve
from dks_jax.runtime.errors import InputError
from dks_jax.runtime.forms import by_platform


class Conv(nnx.Module):
    """A square convolution without bias, with zero padding of kernel_size // 2 on every side.

    Called on images [batch, height, width, in], it computes what `convolve` does. The initial values are
    those of He et al., "Delving Deep into Rectifiers", ICCV 2015, arXiv:1502.01852.

    Args:
      in_channels, out_channels: number of channels of the input and of the output.
      kernel_size: height and width of the kernel, odd.
      stride, groups: see `convolve`.
      fan_out: whether the initial values are scaled by the fan-out and not by the fan-in.
      uniform: whether they are drawn from U(-1, 1) / sqrt(fan-in) instead, the default of `torch.nn.Conv2d`.
      rngs: random streams of the initial values.

    Attributes:
      kernel: [height, width, in / groups, out], Kaiming-normal by fan-in, or by fan-out if `fan_out` is set.
      deterministic: whether the layer is in evaluation mode, in which it has derivatives of both modes; set
        by `.eval()` and `.train()`, as in NNX's own layers. The values are the same in both modes.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        *,
        groups: int = 1,
        fan_out: bool = False,
        uniform: bool = False,
        rngs: nnx.Rngs,
    ):
        shape = (kernel_size, kernel_size, in_channels // groups, out_channels)
        values = (
            _uniform(rngs, shape, math.prod(shape[:-1]))
            if uniform
            else _kaiming_normal(rngs, shape, fan_out=fan_out)
        )
        self.kernel = nnx.Param(values)
        self.stride = stride
        self.groups = groups
        self.deterministic = False

    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.kernel[...].astype(x.dtype)
        return convolve(x, kernel, self.stride, self.groups, forward_mode=self.deterministic)


class Linear(nnx.Module):
    """A linear layer, x @ kernel + bias, that gives logits in float32 or wider for any type of x.

    Attributes:
      kernel: [in, out], Kaiming-normal by fan-in.
      bias: [out], zeros.

    Args:
      in_features, out_features: number of features of the input, [..., in], and of the output, [..., out].
      uniform: whether both are drawn from U(-1, 1) / sqrt(in) instead, the default of `torch.nn.Linear`.
      rngs: random streams of the initial values.
    """

    def __init__(self, in_features: int, out_features: int, *, uniform: bool = False, rngs: nnx.Rngs):
        shape = (in_features, out_features)
        within = partial(_uniform, rngs, fan_in=in_features)
        self.kernel = nnx.Param(within(shape) if uniform else _kaiming_normal(rngs, shape))
        self.bias = nnx.Param(within(shape[1:]) if uniform else jnp.zeros(out_features))

    def __call__(self, x: jax.Array) -> jax.Array:
        accumulator = jnp.promote_types(x.dtype, jnp.float32)
        kernel = self.kernel[...].astype(x.dtype)
        return jnp.dot(x, kernel, preferred_element_type=accumulator) + self.bias[...]


class BatchNorm(nnx.Module):
    """Batch normalisation with the statistics of `torch.nn.BatchNorm2d`.

    flax.nnx.BatchNorm keeps a biased running variance and computes E[x^2] - E[x]^2, which loses precision in
    float32. Here the running variance is unbiased, and the variance of a batch is computed in two passes on
    CPUs and in one pass about the running mean on accelerators; see `normalise_batch`.

    With `norm_groups` = g the batch is normalised in g equal slices, as g replicas would normalise their
    shares, and the running statistics use the mean over the slices. The result does not depend on the number
    of devices. Called on features [batch, ..., channel], it returns them normalised, in their own type.

    Source: Ioffe, Szegedy, "Batch Normalization", ICML 2015, arXiv:1502.03167.

    Args:
      num_channels: number of channels.
      norm_groups: number g of slices of the batch.
      unit_scale: whether the scale starts with ones.
      rngs: random streams of the initial values.

    Attributes:
      scale: [channel], ones if `unit_scale` is set, else drawn from U(0, 1) as in the released DKS code for
        CIFAR.
      bias: [channel], zeros.
      mean, var: [channel], running statistics, updated as 0.9 * old + 0.1 * batch.
      statistics: "two_pass", "one_pass", or "auto" for what suits the platform; set by
        `.train(statistics=...)`.

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
        self.statistics = "auto"
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
                "a divisor of every batch, including the last one of an epoch unless data.drop_last is set."
            )
        grouped = x.reshape(self.norm_groups, -1, x.shape[-1])
        arguments = grouped, self.scale[...], self.bias[...], self.mean[...]
        if self.statistics == "auto":
            y, mean, var = by_platform(*arguments, cpu=self._two_pass, accelerator=self._one_pass)
        else:
            y, mean, var = (self._one_pass if self.statistics == "one_pass" else self._two_pass)(*arguments)
        count = grouped.shape[1]
        self._update(self.mean, jnp.mean(mean, axis=(0, 1)))
        self._update(self.var, jnp.mean(var, axis=(0, 1)) * (count / max(count - 1, 1)))
        return y.reshape(x.shape)

    def _two_pass(self, x: jax.Array, scale: jax.Array, bias: jax.Array, mean: jax.Array):
        del mean
        return normalise_batch(x, scale, bias, self.epsilon)

    def _one_pass(self, x: jax.Array, scale: jax.Array, bias: jax.Array, mean: jax.Array):
        return normalise_batch(x, scale, bias, self.epsilon, mean)

    def _update(self, running: nnx.BatchStat, new: jax.Array) -> None:
        running.set_value(self.momentum * running[...] + (1.0 - self.momentum) * jax.lax.stop_gradient(new))


class Stage(nnx.Module):
    """A sequence of blocks, called on features.

    Args:
      blocks: modules from features to features.

    Attributes:
      remat: whether the backward pass recomputes the activations within each block, which the forward pass
        then does not store; set by `.train(remat=True)`.
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
    """Max pooling over 3x3 windows at stride 2 with a padding of one, as `torch.nn.MaxPool2d(3, 2, 1)`.

    Where several values of a window are the largest, the first one in row-major order has the gradient.

    Args:
      x: [batch, height, width, channel].

    Returns:
      [batch, height / 2, width / 2, channel], the sizes rounded up.
    """
    return by_platform(x, cpu=_reduce_windows, accelerator=_largest, tpu=_reduce_windows)


def _reduce_windows(x: jax.Array) -> jax.Array:
    padding = ((0, 0), (1, 1), (1, 1), (0, 0))
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), padding)


@jax.custom_jvp
def _largest(x: jax.Array) -> jax.Array:
    """The maximum of nine shifted images, where no derivative is taken, else `_select_largest`."""
    return reduce(jnp.maximum, _shifted(x))


@_largest.defjvp
def _tangent(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    return jax.jvp(_select_largest, primals, tangents)


def _select_largest(x: jax.Array) -> jax.Array:
    """Selects from nine shifted images, whose derivative is nine selections.

    The derivative of `_reduce_windows` sums by atomic operations on a GPU, in an order that varies. On a TPU
    it stays, because there the shifted images would be written and read: as compiled for a v5e, 256 images of
    112x112x64 take 17.1 GB in both directions instead of 3.8.
    """
    largest, *others = _shifted(x)
    for values in others:
        largest = jnp.where((values > largest) | jnp.isnan(values), values, largest)
    return largest


def _shifted(x: jax.Array) -> list[jax.Array]:
    """For each of the nine places in a window, its value in all windows, in row-major order."""
    batch, height, width, channels = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
    return [
        jax.lax.slice(padded, (0, i, j, 0), (batch, i + height, j + width, channels), (1, 2, 2, 1))
        for i in range(3)
        for j in range(3)
    ]


def _kaiming_normal(rngs: nnx.Rngs, shape: tuple[int, ...], *, fan_out: bool = False) -> jax.Array:
    """Normal initial values with variance 2 / fan-in or 2 / fan-out, as PyTorch's kaiming_normal_ draws them.

    Args:
      shape: shape of the kernel, with input and output channels as its last two axes.
      fan_out: whether to use the fan-out.
    """
    fan = math.prod(shape[:-2]) * shape[-1 if fan_out else -2]
    std = np.float32(math.sqrt(2.0 / fan))
    return draw(rngs, shape, lambda random: random.standard_normal(shape, np.float32) * std)


def _uniform(rngs: nnx.Rngs, shape: tuple[int, ...], fan_in: int) -> jax.Array:
    """Initial values from U(-1, 1) / sqrt(fan_in), the default of PyTorch's layers."""
    bound = 1.0 / math.sqrt(fan_in)
    return draw(rngs, shape, lambda random: random.uniform(-bound, bound, shape).astype(np.float32))


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
