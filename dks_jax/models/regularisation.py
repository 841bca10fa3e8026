"""Stochastic depth and dropout before the head, which the residual families have in common."""

from collections.abc import Callable
from typing import TypeAlias

import jax
from flax import nnx

from dks_jax.config import Field

# A function or a module from features to features of the same shape.
Transform: TypeAlias = Callable[[jax.Array], jax.Array]

ARGUMENTS = {
    "drop_path": Field(
        float,
        0.0,
        "rate of stochastic depth in the last block, to which it rises linearly over the blocks; 0: none",
        0,
        below=1,
    ),
    "head_dropout": Field(
        float, 0.0, "dropout rate of the pooled features before the linear layer of every head", 0, below=1
    ),
}
# The initial values take the first keys of the same stream.
OWN_STREAM = 2**32 - 1


def identity(x: jax.Array) -> jax.Array:
    """Returns its input; it stands where nothing is dropped."""
    return x


class Regularisation:
    """Makes the dropouts of a backbone and its branches, which act in training only.

    Where a rate is 0, the identity takes the place of a module. The dropouts have random streams of their
    own, so that the initial values drawn from `rngs` do not depend on the rates.

    Args:
      drop_path: drop rate of the last block.
      head_dropout: dropout rate before the linear layer of every head.
      blocks: number of blocks in each stage of the backbone.
      rngs: source of the initial values.
      from_zero: whether the rate of stochastic depth rises from 0 in the first block, so that block i of n,
        from 1, has the share (i - 1) / (n - 1) of the rate, as in ConvNeXt and DeiT; otherwise it has i / n.
    """

    def __init__(
        self,
        drop_path: float,
        head_dropout: float,
        blocks: tuple[int, ...],
        rngs: nnx.Rngs,
        *,
        from_zero: bool = False,
    ):
        self._drop_path = drop_path
        self._head_dropout = head_dropout
        self._blocks = blocks
        self._from_zero = from_zero
        used = drop_path or head_dropout
        self._rngs = nnx.Rngs(jax.random.fold_in(rngs.params.key[...], OWN_STREAM)) if used else None

    def drop_paths(self, index: int, num_blocks: int) -> list[Transform]:
        """Stochastic depth for the residual of each block of a stage.

        Residuals are [batch, height, width, channel] or [batch, token, channel]. With the rate of its block
        stochastic depth makes the residual of an example zero, and it divides that of the others by 1 - rate,
        as `torchvision.ops.stochastic_depth` in the mode "row". Unless it rises from zero, the rate is
        proportional to the number of the block, from 1: Huang et al., "Deep Networks with Stochastic Depth",
        ECCV 2016, arXiv:1603.09382, equation 4. A stage of a branch covers the rates of the backbone stage
        that it stands beside, also where the two differ in their numbers of blocks; one that lies deeper than
        the last stage has the rate of the last block.

        Args:
          index: depth of the stage, as for `Backbone.stage`.
          num_blocks: number of its blocks.
        """
        before, own = sum(self._blocks[:index]), sum(self._blocks[index : index + 1])
        first = int(self._from_zero)
        last = max(sum(self._blocks) - first, 1)
        depths = [(before - first + own * i / num_blocks) / last for i in range(1, num_blocks + 1)]
        # These are all axes but that of the batch, for features of three axes and of four.
        return [self._dropout(self._drop_path * depth, broadcast_dims=(1, -2, -1)) for depth in depths]

    def before_fc(self) -> Transform:
        """Dropout of the features [batch, channel] that enter the linear layer of a head."""
        return self._dropout(self._head_dropout)

    def _dropout(self, rate: float, broadcast_dims: tuple[int, ...] = ()) -> Transform:
        if not rate:
            return identity
        return nnx.Dropout(rate, broadcast_dims=broadcast_dims, rngs=self._rngs)
