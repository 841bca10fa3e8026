"""Splits an NNX module into a static graph and flat dictionaries of arrays, and merges them again.

Arrays are named by their attribute path: "stages.0.blocks.1.conv0.kernel" is
`module.stages[0].blocks[1].conv0.kernel`.
"""

import zlib
from collections.abc import Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, traverse_util

from dks_jax.nn.layers import BatchNorm, Stage
from dks_jax.runtime.errors import InputError

Arrays = dict[str, jax.Array]
"""Arrays by their names in a module, e.g. "stages.0.blocks.1.conv0.kernel"."""
Path = tuple[str | int, ...]


class Functional:
    """A module as pure functions of its arrays.

    Args:
      module: any NNX module; it is left in evaluation mode.
      remat: whether training recomputes activations in the backward pass; see `nn.layers.Stage`.
      statistics: how batch normalisation computes its statistics; see `nn.layers.BatchNorm`.

    Attributes:
      params: the module's trainable arrays. They are on the host, so that they take no memory of the devices
        in addition to the arrays in training.
      batch_stats: all other arrays except random state, e.g. running statistics; also on the host.
    """

    def __init__(self, module: nnx.Module, *, remat: bool = False, statistics: str = "auto"):
        module.train()
        _set(module, Stage, remat=remat)
        _set(module, BatchNorm, statistics=statistics)
        self._train_graph, params, random, batch_stats = nnx.split(module, nnx.Param, nnx.RngState, ...)
        module.eval()
        _set(module, Stage, remat=False)
        self._eval_graph = nnx.graphdef(module)
        self._paths = {_name(path): path for part in (params, random, batch_stats) for path in _flatten(part)}
        self.params = jax.device_get(_named(params))
        self.batch_stats = jax.device_get(_named(batch_stats))
        self._random = _named(random)

    def train(
        self,
        params: Mapping[str, jax.Array],
        batch_stats: Mapping[str, jax.Array],
        images: jax.Array,
        key: jax.Array,
    ) -> tuple[jax.Array, Arrays]:
        """The output in training mode and the new batch_stats.

        Args:
          params, batch_stats: arrays of the module by name.
          images: input of the module, e.g. [batch, height, width, channel].
          key: PRNG key of the random streams, such as that of dropout.
        """
        module = self._merge(self._train_graph, params, batch_stats, key)
        output = module(images)
        _, _, _, batch_stats = nnx.split(module, nnx.Param, nnx.RngState, ...)
        return output, _named(batch_stats)

    def eval(
        self, params: Mapping[str, jax.Array], batch_stats: Mapping[str, jax.Array], images: jax.Array
    ) -> jax.Array:
        """The output of the module in evaluation mode.

        Args:
          params, batch_stats: arrays of the module by name.
          images: input of the module, e.g. [batch, height, width, channel].
        """
        return self._merge(self._eval_graph, params, batch_stats, jax.random.key(0))(images)

    def _merge(self, graph: Any, params: Mapping, batch_stats: Mapping, key: jax.Array) -> Any:
        # Every stream needs its own key: with a shared key, all layers would drop the same positions.
        random = {
            name: jax.random.fold_in(key, i)
            if jnp.issubdtype(value.dtype, jax.dtypes.prng_key)
            else jnp.zeros_like(value)
            for i, (name, value) in enumerate(self._random.items())
        }
        return nnx.merge(graph, *(_state(part, self._paths) for part in (params, random, batch_stats)))


def get_arrays(module: nnx.Module) -> Arrays:
    """The parameters and statistics of a module by name."""
    return _named(nnx.state(module, nnx.Not(nnx.RngState)))


def get_params(module: nnx.Module) -> Arrays:
    """The parameters of a module by name, e.g. "stages.0.blocks.1.conv0.kernel"."""
    return _named(nnx.state(module, nnx.Param))


def set_arrays(module: nnx.Module, arrays: Mapping[str, jax.Array]) -> None:
    """Replaces the parameters and statistics of a module.

    Args:
      module: the module, which is changed in place.
      arrays: all of its parameters and statistics by name, as `get_arrays` gives them.

    Raises:
      InputError: the names or shapes differ from the module's; the message lists missing, unexpected and
        misshapen arrays.
    """
    own = _flatten(nnx.state(module, nnx.Not(nnx.RngState)))
    paths = {_name(path): path for path in own}
    shapes = {_name(path): value.shape for path, value in own.items()}
    problems = [f"{name} is missing" for name in shapes if name not in arrays]
    for name, value in arrays.items():
        if name not in shapes:
            problems.append(f"{name} is unexpected")
        elif value.shape != shapes[name]:
            problems.append(f"{name} has the shape {value.shape} instead of {shapes[name]}")
    if problems:
        raise InputError(f"The weights do not fit the network: {'; '.join(problems)}.")
    nnx.update(module, _state(arrays, paths))


def checksum(arrays: Mapping[str, Any]) -> int:
    """The CRC-32 checksum of the names and values of arrays, in whatever order."""
    crc = 0
    for name, array in sorted(arrays.items()):
        crc = zlib.crc32(np.ascontiguousarray(array).tobytes(), zlib.crc32(name.encode(), crc))
    return crc


def _set(module: nnx.Module, kind: type, **attributes: Any) -> None:
    """Sets attributes of the modules of this class alone: others may have their own of the same names."""
    module.set_attributes(lambda _, part: isinstance(part, kind), raise_if_not_found=False, **attributes)


def _flatten(state: nnx.State) -> dict[Path, jax.Array]:
    return cast(dict[Path, jax.Array], traverse_util.flatten_dict(nnx.to_pure_dict(state)))


def _name(path: Path) -> str:
    return ".".join(map(str, path))


def _named(state: nnx.State) -> Arrays:
    return {_name(path): value for path, value in _flatten(state).items()}


def _state(arrays: Mapping[str, jax.Array], paths: Mapping[str, Path]) -> nnx.State:
    return nnx.State(traverse_util.unflatten_dict({paths[name]: value for name, value in arrays.items()}))
