"""The state dict of a known network in a PyTorch checkpoint, wherever a training script has put it."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dks_jax import models
from dks_jax.models import Network, TorchFormat
from dks_jax.runtime.errors import InputError, listing, printable
from dks_jax.weights import torch_names
from dks_jax.weights.inert import Inert
from dks_jax.weights.torch_files import Tensor

# The number of averaged networks, which torch.optim.swa_utils.AveragedModel keeps among its tensors.
AVERAGED = "n_averaged"
# More wrappers around a network than this do not occur.
MOST_PREFIXES = 8


class StateDict(NamedTuple):
    """The tensors of a network.

    network: the network, recognised by names and shapes; `num_classes` is 0 where there is no head.
    table: the format in which the tensors are.
    others: the names of other networks that it may be of as well.
    tensors: tensors by the names that the network itself gives them.
    averaged: whether they are averages over training, e.g. exponential ones (EMA).
    remarks: sentences that say where they were found.
    """

    network: Network
    table: TorchFormat
    others: tuple[str, ...]
    tensors: dict[str, Tensor]
    averaged: bool
    remarks: tuple[str, ...]


def find(
    content: Mapping[Any, Any], file: Path, entry: str | None = None, model: str | None = None
) -> StateDict:
    """Finds the one state dict of a known network in a file: the file itself, or one of its entries.

    A prefix that all names share is taken off, one after another until the network is known. Averages over
    training are taken only where there is nothing else.

    Args:
      content: the dictionary of the file, as `torch_files.read` returns it.
      file: path of the file, for error messages.
      entry: name of the entry to take; None to find it.
      model: name of the network to take where the names and shapes fit several; None for the first.

    Raises:
      InputError: no state dict or more than one is of a known network, or it holds more than tensors.
    """
    entries = {name: value for name, value in content.items() if isinstance(name, str)}
    entries = {name: value for name, value in entries.items() if isinstance(value, Mapping)}
    if entry is None:
        candidates = {"": content, **entries}
    elif entry in entries:
        candidates = {entry: entries[entry]}
    else:
        own = listing(map(printable, entries)) or "no entry"
        raise InputError(f"`--entry` must name a dictionary in {file}, which has {own}; got {entry!r}.")
    known = {name: found for name, value in candidates.items() if (found := _recognise(name, value, model))}
    if not known:
        raise InputError(_unknown(file, candidates))
    name = _choose(known, file)
    _require_tensors_alone(candidates[name], file)
    found, remarks = known[name], list(known[name].remarks)
    if name:
        kind = "averages over training" if found.averaged else "weights"
        left = listing(f"`{printable(other)}`" for other in known if other != name)
        others = f", and the averages over training in {left} are left out" if left else ""
        remarks.insert(0, f"the {kind} in the entry `{printable(name)}` are taken{others}")
    return found._replace(remarks=tuple(remarks))


def _recognise(entry: str, value: Mapping[Any, Any], model: str | None) -> StateDict | None:
    """The state dict in an entry of a file, as far as it is of a known network."""
    tensors, prefix = _tensors(value), ""
    averaged = re.search(r"(^|_)(ema|swa|averaged?)(_|$)", entry.lower()) is not None
    for _ in range(MOST_PREFIXES + 1):
        averaged |= tensors.pop(AVERAGED, None) is not None
        recognised = torch_names.recognise({name: tensor.shape for name, tensor in tensors.items()}, model)
        if recognised:
            remarks = (f"the prefix `{printable(prefix)}` is taken off all names",) if prefix else ()
            return StateDict(*recognised, tensors, averaged, remarks)
        first, dot, _ = next(iter(tensors), "").partition(".")
        if not dot or not all(name.startswith(first + dot) for name in tensors):
            return None
        prefix += first + dot
        tensors = {name.removeprefix(first + dot): tensor for name, tensor in tensors.items()}
    return None


def _tensors(value: Mapping[Any, Any]) -> dict[str, Tensor]:
    return {n: tensor for n, tensor in value.items() if isinstance(n, str) and isinstance(tensor, Tensor)}


def _choose(known: Mapping[str, StateDict], file: Path) -> str:
    """The name of the state dict to take; raises InputError where several are as good."""
    names = [name for name in known if not known[name].averaged] or list(known)
    if len(names) > 1:
        own = " and ".join(f"`{printable(name)}`" if name else "the file itself" for name in names)
        raise InputError(
            f"{file} must hold one state dict of a known network; it holds {own}: choose one with "
            "tools/convert_pytorch.py import --entry NAME."
        )
    return names[0]


def _require_tensors_alone(value: Mapping[Any, Any], file: Path) -> None:
    odd = [
        printable(name) if isinstance(name, str) else f"a name of type {type(name).__name__}"
        for name, inner in value.items()
        if not (isinstance(name, str) and isinstance(inner, Tensor))
    ]
    if odd:
        raise InputError(
            f"{file} must hold tensors by name; besides them it holds {listing(odd)}: save the model's state "
            "dict."
        )


def _unknown(file: Path, candidates: Mapping[str, Mapping[Any, Any]]) -> str:
    """Why there is no state dict of a known network."""
    largest = max(candidates.values(), key=lambda value: len(_tensors(value)))
    if names := _tensors(largest):
        return (
            f"{file} must hold a checkpoint of one of {', '.join(models.NETWORKS)}; by its names and shapes "
            f"({listing(map(printable, names))}) it is none that is known."
        )
    everything = [item for value in candidates.values() for item in value.items()]
    objects = [f"`{printable(str(name))}`" for name, value in everything if isinstance(value, Inert)]
    if objects:
        return (
            f"{file} must hold tensors by name, and holds objects, whose code is not run, as "
            f"{listing(objects)}: save the state dict of the model, by torch.save(model.state_dict(), FILE)."
        )
    return f"{file} must hold tensors by name, and holds none: save the model's state dict."
