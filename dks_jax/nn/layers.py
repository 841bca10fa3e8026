"""The layers of the networks, which compute as PyTorch does, on images [batch, height, width, channel].

A layer computes in the type of its input, so bfloat16 images give a bfloat16 network, and keeps its
parameters in their own type. Statistics and logits are float32 or wider.
"""

from collections.abc import Callable, Iterable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dks_jax.nn.batch_norm import normalise_batch, normalise_by
from dks_jax.nn.convolution import convolve
from dks_jax.nn.fence import fence
from dks_jax.nn.initialisation import Initialiser, draw, kaiming_normal, truncated_normal, uniform_by_fan_in
from dks_jax.runtime.errors import InputError
from dks_jax.runtime.forms import by_platform


class Conv(nnx.Module):
    """A square convolution with zero padding of kernel_size // 2 on every side.

    Called on images [batch, height, width, in], it computes what `convolve` does.

    Args:
      in_channels, out_channels: number of channels of the input and of the output.
      kernel_size: height and width of the kernel, odd.
      stride, groups: see `convolve`.
      bias: whether a bias is added.
      initial: draws the initial kernel.
      rngs: random streams of the initial values.

    Attributes:
      kernel: [height, width, in / groups, out].
      bias: [out], zeros; None without.
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
        bias: bool = False,
        initial: Initialiser = kaiming_normal,
        rngs: nnx.Rngs,
    ):
        shape = (kernel_size, kernel_size, in_channels // groups, out_channels)
        self.kernel = nnx.Param(initial(rngs, shape))
        self.bias = nnx.data(nnx.Param(jnp.zeros(out_channels)) if bias else None)
        self.stride = stride
        self.groups = groups
        self.deterministic = False

    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.kernel[...].astype(x.dtype)
        y = convolve(x, kernel, self.stride, self.groups, forward_mode=self.deterministic)
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)


class Patches(nnx.Module):
    """A linear layer of square patches that do not overlap, as a convolution with its size as its stride.

    Called on images [batch, height, width, in], it returns [batch, height / size, width / size, out]. Pixels
    at the right and at the bottom that fill no patch are left out, as in PyTorch.

    Args:
      in_channels, out_channels: number of channels of the input and of the output.
      size: height and width of a patch.
      rngs: random streams of the initial values.

    Attributes:
      kernel: [size, size, in, out], normal with a standard deviation of 0.02.
      bias: [out], zeros.
    """

    def __init__(self, in_channels: int, out_channels: int, size: int, *, rngs: nnx.Rngs):
        self.kernel = nnx.Param(truncated_normal(0.02)(rngs, (size, size, in_channels, out_channels)))
        self.bias = nnx.Param(jnp.zeros(out_channels))

    def __call__(self, x: jax.Array) -> jax.Array:
        size, _, channels, out_channels = self.kernel.shape
        batch, rows, columns = x.shape[0], x.shape[1] // size, x.shape[2] // size
        x = x[:, : rows * size, : columns * size].reshape(batch, rows, size, columns, size, channels)
        # A matrix, for the same reason as in `Dense`.
        patches = x.swapaxes(2, 3).reshape(-1, size * size * channels)
        kernel = self.kernel[...].reshape(-1, out_channels).astype(x.dtype)
        return (patches @ kernel + self.bias[...].astype(x.dtype)).reshape(batch, rows, columns, -1)


class Linear(nnx.Module):
    """A linear layer, x @ kernel + bias, that gives logits in float32 or wider for any type of x.

    Attributes:
      kernel: [in, out], Kaiming-normal by fan-in.
      bias: [out], zeros.

    Args:
      in_features, out_features: number of features of the input, [..., in], and of the output, [..., out].
      initial: draws the initial kernel.
      uniform: whether kernel and bias are drawn from U(-1, 1) / sqrt(in) instead, the default of
        `torch.nn.Linear`.
      rngs: random streams of the initial values.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        initial: Initialiser = kaiming_normal,
        uniform: bool = False,
        rngs: nnx.Rngs,
    ):
        by_fan_in = partial(uniform_by_fan_in, fan_in=in_features)
        self.kernel = nnx.Param((by_fan_in if uniform else initial)(rngs, (in_features, out_features)))
        self.bias = nnx.Param(by_fan_in(rngs, (out_features,)) if uniform else jnp.zeros(out_features))

    def __call__(self, x: jax.Array) -> jax.Array:
        accumulator = jnp.promote_types(x.dtype, jnp.float32)
        kernel = self.kernel[...].astype(x.dtype)
        return jnp.dot(x, kernel, preferred_element_type=accumulator) + self.bias[...]


class Dense(Linear):
    """A linear layer between others, whose output has the type of its input; see `Linear`.

    Where the input has more axes than two, it is computed as a matrix, since XLA's gradients of a product and
    of a sum over several axes take twice as long on a CPU.
    """

    def __call__(self, x: jax.Array) -> jax.Array:
        rows = x.reshape(-1, x.shape[-1])
        return fence(super().__call__(rows).astype(x.dtype)).reshape(*x.shape[:-1], -1)


class LayerNorm(nnx.LayerNorm):
    """Layer normalisation over the last axis, with statistics in float32 or wider and two passes over x.

    Source: Ba, Kiros, Hinton, "Layer Normalization", arXiv:1607.06450.

    Args:
      num_channels: size of the last axis.
      rngs: not drawn from.

    Attributes:
      scale: [channel], ones.
      bias: [channel], zeros.
    """

    def __init__(self, num_channels: int, *, rngs: nnx.Rngs):
        super().__init__(num_channels, epsilon=1e-6, use_fast_variance=False, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().__call__(x).astype(x.dtype)


class LayerScale(nnx.Module):
    """A factor for each channel of a residual: Touvron et al., ICCV 2021, arXiv:2103.17239, equation 4.

    Args:
      num_channels: size of the last axis.
      initial: the initial value of all factors.

    Attributes:
      gamma: [channel].
    """

    def __init__(self, num_channels: int, initial: float):
        self.gamma = nnx.Param(jnp.full(num_channels, initial, jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        return x * self.gamma[...].astype(x.dtype)


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
        `Functional`.

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
        then does not store; set by `Functional`.
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
