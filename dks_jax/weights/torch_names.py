"""Names and layouts of arrays in PyTorch checkpoints, from the `TorchFormat` of each family of networks."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from dks_jax.models import NETWORKS, Network, TorchFormat
from dks_jax.models.family import Shape
from dks_jax.runtime.errors import InputError

ARRAYS = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
COUNTER = "num_batches_tracked"
# A network with more classes or channels than this would not fit into memory.
LARGEST = 10**6


class Recognised(NamedTuple):
    """What a checkpoint is by the names and shapes of its arrays.

    Attributes:
      network: the network; it has 0 classes where there is no head.
      table: the format in which the checkpoint has it.
      others: the names of other networks with the same arrays, of which this one was not asked for.
    """

    network: Network
    table: TorchFormat
    others: tuple[str, ...] = ()


def _torch_name(table: TorchFormat, name: str) -> str:
    """The PyTorch name of an array of this library."""
    module, kind = name.rsplit(".", 1)
    for pattern, replacement in table.rules:
        module, found = re.subn(f"^{pattern}", replacement, module)
        if found:
            break
    for pattern, replacement in table.replacements:
        module = re.sub(pattern, replacement, module)
    is_conv = re.search(r"(^|\.)conv\w*$", module)
    if table.bare and is_conv:
        return module
    name = ".".join(filter(None, (module, (ARRAYS | dict(table.kinds))[kind])))
    for pattern, replacement in table.joined:
        name = re.sub(pattern, replacement, name)
    return name


def names(table: TorchFormat, ours: Iterable[str]) -> dict[str, str]:
    """A dictionary from PyTorch names to names of this library, in the order in which PyTorch lists them."""

    def rank(name: str) -> list[int]:
        # A number is the index of a block, or of a layer in a downsample.
        parts = re.sub(r"block(\d)", r"\1", name).split(".")
        return [int(part) if part.isdecimal() else table.order.index(part) for part in parts]

    theirs = {_torch_name(table, name): name for name in ours}
    return {name: theirs[name] for name in sorted(theirs, key=rank)}


def counter_names(theirs: Iterable[str]) -> list[str]:
    """The names of the batch counters, one beside each running variance, in PyTorch names."""
    return [name.replace("running_var", COUNTER) for name in theirs if name.endswith("running_var")]


def to_torch(table: TorchFormat, ours: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Converts arrays of this library to PyTorch's names, order and layout.

    Kernels of convolutions become [out, in, height, width], kernels of linear layers [out, in].
    """
    arrays = {name: (own, np.asarray(ours[own])) for name, own in names(table, ours).items()}
    return {
        name: np.ascontiguousarray(
            array.transpose(_axes(array.ndim)).reshape(torch_shape(table, own, array.shape))
        )
        for name, (own, array) in arrays.items()
    }


def torch_shape(table: TorchFormat, name: str, shape: Shape) -> Shape:
    """The shape in PyTorch's layout of an array of this library.

    Args:
      table: the format.
      name: name of the array in this library.
      shape: its shape in this library.
    """
    if name.rpartition(".")[2] in table.columns:
        return (*shape, 1, 1)
    return tuple(shape[axis] for axis in _axes(len(shape)))


def from_torch(table: TorchFormat, name: str, array: np.ndarray) -> np.ndarray:
    """Converts an array from PyTorch's layout to the layout of this library; see `torch_shape`."""
    if name.rpartition(".")[2] in table.columns:
        return array.reshape(-1)
    return np.ascontiguousarray(array.transpose(np.argsort(_axes(array.ndim))))


def _axes(ndim: int) -> Shape:
    """The axes of this library in the order of PyTorch."""
    return {4: (3, 2, 0, 1), 2: (1, 0)}.get(ndim, tuple(range(ndim)))


def recognise(shapes: Mapping[str, Shape], model: str | None = None) -> Recognised | None:
    """Recognises the network of a checkpoint by the names and shapes of its arrays; None if it is unknown.

    Only a few of the names are looked at, so the others may still be wrong.

    Args:
      shapes: shapes of the arrays by name.
      model: name of the network to take where the arrays fit several; None for the first.
    """
    found = [
        Recognised(network, table)
        for family in NETWORKS.values()
        for table in family.torch
        if (network := _recognise(table, shapes))
    ]
    if not found:
        return None
    own = next((one for one in found if one.network.model["name"] == model), found[0])
    chosen = own.network.model["name"]
    names = {} if chosen == model else dict.fromkeys(one.network.model["name"] for one in found)
    return own._replace(others=tuple(name for name in names if name != chosen))


def _recognise(table: TorchFormat, shapes: Mapping[str, Shape]) -> Network | None:
    try:
        network = table.recognise(shapes)
    except (KeyError, IndexError, InputError):
        return None
    # A small file can claim sizes for which it does not hold the values.
    known = network and 0 <= network.num_classes <= LARGEST and 1 <= network.channels <= LARGEST
    return network if known else None
