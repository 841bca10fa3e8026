"""Names and layouts of arrays in PyTorch checkpoints, from the `TorchFormat` of each family of networks."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from dks_jax.models import NETWORKS, Network, TorchFormat
from dks_jax.models.family import Shape
from dks_jax.runtime.errors import InputError

ARRAYS = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
COUNTER = "num_batches_tracked"
# A network with more classes or channels than this would not fit into memory.
LARGEST = 10**6


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
    return module if table.bare and is_conv else f"{module}.{ARRAYS[kind]}"


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
    arrays = {name: np.asarray(ours[own]) for name, own in names(table, ours).items()}
    return {name: np.ascontiguousarray(a.transpose(_to_torch(a.ndim))) for name, a in arrays.items()}


def torch_shape(shape: Shape) -> Shape:
    """The shape in PyTorch's layout of an array of this library."""
    return tuple(shape[axis] for axis in _to_torch(len(shape)))


def from_torch(array: np.ndarray) -> np.ndarray:
    """Converts an array from PyTorch's layout to the layout of this library."""
    return np.ascontiguousarray(array.transpose(np.argsort(_to_torch(array.ndim))))


def _to_torch(ndim: int) -> Shape:
    return {4: (3, 2, 0, 1), 2: (1, 0)}.get(ndim, tuple(range(ndim)))


def recognise(shapes: Mapping[str, Shape]) -> Network | None:
    """Recognises the network of a checkpoint by the names and shapes of its arrays; None if it is unknown.

    Only a few of the names are looked at, so the others may still be wrong. The network has 0 classes where
    there is no head.
    """
    for family in NETWORKS.values():
        if family.torch is None:
            continue
        try:
            network = family.torch.recognise(shapes)
        except (KeyError, IndexError, InputError):
            continue
        # A small file can claim sizes for which it does not hold the values.
        if network and 0 <= network.num_classes <= LARGEST and 1 <= network.channels <= LARGEST:
            return network
    return None
