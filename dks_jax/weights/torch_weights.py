"""Conversion of weights from and to PyTorch checkpoints, exact in both directions.

A checkpoint is a state dict, either bare or an entry of a training checkpoint (`state_dicts`), or it has the
format released with DKS: {"params": {flat name: tensor}, "epoch": number of epochs, "optimizer": state dict}.
A file that does not fit in every array is refused; a backbone may lack its head.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dks_jax import models
from dks_jax.config import COUNT_LIMIT, PUBLISHED
from dks_jax.data.imagenet_classes import wordnet_ids
from dks_jax.models import Network, Preprocessing, TorchFormat
from dks_jax.runtime.errors import InputError, listing, printable
from dks_jax.weights import descriptions, state_dicts, torch_files, torch_names
from dks_jax.weights.folder import Named, Weights
from dks_jax.weights.heads import in_head
from dks_jax.weights.metadata import Metadata
from dks_jax.weights.torch_files import Tensor

ARRAY_TYPES = ("float32", "float16", "bfloat16", "float64")
COUNTER_TYPES = ("int64", "int32")


def read_checkpoint(
    file: Path, model: str | None = None, entry: str | None = None, *, preferred: str | None = None
) -> Weights:
    """Reads the weights of a PyTorch checkpoint, with its branches and its optimizer.

    Weights of a backbone without a head have no class names.

    Args:
      file: a file of torch.save, or one that ends in .safetensors.
      model: name of the network, e.g. "resnet50" or "wide_resnet"; None to recognise it.
      entry: name of the entry that holds the state dict; None to find it.
      preferred: name of the network to take where names and shapes are those of several, if it is among them.

    Raises:
      InputError: the file cannot be read, or does not fit the network; the message lists the arrays that are
        missing, unexpected, misshapen or not finite.
    """
    content = torch_files.read(file)
    found = state_dicts.find(content, file, entry, model or preferred)
    network, table, tensors = found.network, found.table, found.tensors
    if model not in (None, network.model["name"]):
        raise InputError(
            f"{file} must hold a checkpoint of {model}; by its names and shapes "
            f"({listing(map(printable, tensors))}) it is of {network.model['name']}."
        )
    _require_named_branches(network, table)
    arrays, counters = _fit(file, network, table, tensors)
    statistics = {name: array for name, array in arrays.items() if name.endswith((".mean", ".var"))}
    params = {name: array for name, array in arrays.items() if name not in statistics}
    metadata, remarks = _metadata(network, table, counters, content)
    if found.others:
        remarks.append(_choice(network.model["name"], found.others, metadata.preprocessing))
    weights = Weights(params, statistics, metadata, remarks=(*found.remarks, *remarks))
    # The optimizer is that of the weights themselves, not of their averages.
    trained = table.training and not found.averaged
    return _with_progress(file, weights, content, list(tensors), table) if trained else weights


def _torch_table(network: Network, library: str | None) -> TorchFormat:
    """The format of PyTorch checkpoints of a network.

    Raises:
      InputError: there is no such format for its family, or it has no names for the branches.
    """
    tables = models.get_family(network.model["name"]).torch
    if not tables:
        raise InputError(f"There is no PyTorch checkpoint format for the network {network.model['name']}.")
    table = next((table for table in tables if library in (None, table.library)), None)
    if table is None:
        raise InputError(
            f"PyTorch checkpoints of {network.model['name']} have the names of "
            f"{' or '.join(table.library for table in tables)}; got {library!r}."
        )
    _require_named_branches(network, table)
    return table


def _require_named_branches(network: Network, table: TorchFormat) -> None:
    """Raises InputError for branches that have no names in PyTorch checkpoints."""
    if network.branches and not table.branches:
        raise InputError(
            f"PyTorch checkpoints of {models.describe(network.model)} have no names for branches; the "
            f"weights have {len(network.branches)}: leave the branches out."
        )
    if network.branches and network.branches != models.resolve_branches(network.model, PUBLISHED):
        own = ", ".join(str(tuple(branch)) for branch in network.branches)
        raise InputError(
            f"PyTorch checkpoints of {models.describe(network.model)} have names only for its published "
            f"branches; the weights have {own}: leave the branches out."
        )


def write_checkpoint(file: Path, weights: Weights, library: str | None = None) -> None:
    """Writes weights as a PyTorch checkpoint.

    The checkpoint of a ResNet is a state dict that torchvision's models load strictly. The checkpoint of a
    wide ResNet has the format released with DKS.

    Args:
      file: path of the file; .safetensors gives that format, any other name the format of torch.save.
      weights: the weights to write.
      library: whose names the arrays have, e.g. "timm"; None for those that are usual for the family.

    Raises:
      InputError: the metadata do not describe the weights, PyTorch has no names for the network, the library
        does not have it, or torch is not installed.
    """
    metadata, arrays = weights.metadata, weights.params | weights.batch_stats
    table = _torch_table(metadata.network, library)
    _require_network(metadata.network, arrays)
    tensors = torch_names.to_torch(table, arrays)
    if table.counters:
        tensors = _with_counters(tensors, metadata.num_batches_tracked or {})
    if not table.training or file.suffix == ".safetensors":
        torch_files.write(file, tensors)
    else:
        content: dict[str, Any] = {"params": tensors}
        if metadata.epoch is not None:
            content["epoch"] = metadata.epoch
        if weights.momentum is not None:
            content["optimizer"] = _optimizer(table, weights.momentum, metadata.optimizer or {})
        torch_files.write(file, content)


def _require_network(network: Network, arrays: Named) -> None:
    """Raises InputError unless the arrays have the names and shapes of the network."""
    expected = models.shapes(network)
    if {name: array.shape for name, array in arrays.items()} != {n: a.shape for n, a in expected.items()}:
        raise InputError(
            f"The weights must fit {network.model} with {network.num_classes} classes, which their metadata "
            "describe, and do not; put a copy of metadata.json back."
        )


def _fit(
    file: Path, network: Network, table: TorchFormat, tensors: Mapping[str, Tensor]
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Checks tensors against a network and converts them.

    Returns:
      The arrays by the names of this library, and the batch counters by their PyTorch names.

    Raises:
      InputError: the tensors do not fit the network.
    """
    own = models.shapes(network._replace(num_classes=max(network.num_classes, 1)))
    names = torch_names.names(table, own)
    counters = torch_names.counter_names(names) if table.counters else []
    unexpected = [printable(name) for name in tensors if name not in names and name not in counters]
    if not network.num_classes and not unexpected:
        names = {
            name: own_name for name, own_name in names.items() if name in tensors or not in_head(own_name)
        }
    problems = {"missing": [name for name in names if name not in tensors], "unexpected": unexpected}
    problems["misshapen"] = [
        f"{name} ({printable(_shape(tensors[name].shape))} instead of {_shape(expected)})"
        for name, expected in _expected_shapes(table, names, counters, own).items()
        if name in tensors
        and tensors[name].shape != expected
        # Some scripts keep a counter as a list of one number.
        and not (name in counters and tensors[name].shape == (1,))
    ]
    problems["of a wrong type"] = [
        f"{printable(name)} ({tensor.dtype}{'' if tensor.plain else ', without all of its values'})"
        for name, tensor in tensors.items()
        if not tensor.plain or tensor.dtype not in ARRAY_TYPES + (COUNTER_TYPES if name in counters else ())
    ]
    _refuse(file, network, problems)
    arrays = {name: tensors[name].numpy() for name in names}
    counts = {name: tensors[name].numpy().reshape(()) for name in counters if name in tensors}
    problems = {
        "not finite": [n for n, array in (arrays | counts).items() if not np.all(np.isfinite(array))],
        "negative": [
            name
            for name, array in (arrays | counts).items()
            if name.endswith(("running_var", torch_names.COUNTER)) and np.any(array < 0)
        ],
        "not whole": [name for name, count in counts.items() if count != np.trunc(count)],
    }
    _refuse(file, network, problems)
    ours = {
        own_name: torch_names.from_torch(table, own_name, arrays[name]) for name, own_name in names.items()
    }
    return {n: ours[n] for n in own if n in ours}, {name: int(count) for name, count in counts.items()}


def _expected_shapes(
    table: TorchFormat,
    names: Mapping[str, str],
    counters: list[str],
    own: Mapping[str, jax.ShapeDtypeStruct],
) -> dict[str, tuple[int, ...]]:
    shapes = {
        name: torch_names.torch_shape(table, own_name, own[own_name].shape)
        for name, own_name in names.items()
    }
    return shapes | dict.fromkeys(counters, ())


def _refuse(file: Path, network: Network, problems: Mapping[str, list[str]]) -> None:
    """Raises InputError if there is any problem; `problems` maps a description to the affected names."""
    found = [
        f"{listing(names)} {'is' if len(names) == 1 else 'are'} {what}"
        for what, names in problems.items()
        if names
    ]
    if found:
        classes = f"with {network.num_classes} classes" if network.num_classes else "without a head"
        branches = "with" if network.branches else "without"
        raise InputError(
            f"{file} does not fit {models.describe(network.model)} {classes}, {branches} branches: "
            f"{'; '.join(found)}."
        )


def _metadata(
    network: Network, table: TorchFormat, counters: dict[str, int], content: Mapping[str, Any]
) -> tuple[Metadata, list[str]]:
    """The metadata of a checkpoint, and sentences that say what of it is given by the file."""
    preprocessing = table.preprocessing.replace(channels=network.channels)
    if size := network.model.get("image_size"):
        preprocessing = preprocessing.replace(height=size, width=size)
    given, remarks = descriptions.statistics(content, network.channels)
    if given:
        preprocessing = preprocessing.replace(mean=given[0], std=given[1])
    elif network.channels != table.preprocessing.channels:
        # The usual statistics are of RGB images, so others only keep their range, 0 to 1.
        preprocessing = preprocessing.replace(mean=(0.0,) * network.channels, std=(1.0,) * network.channels)
    class_names = ()
    if network.num_classes:
        known = table.imagenet and network.num_classes == len(wordnet_ids())
        class_names = tuple(wordnet_ids() if known else map(str, range(network.num_classes)))
        named, more = descriptions.class_names(content, network.num_classes)
        class_names, remarks = named or class_names, [*remarks, *more]
    metadata = Metadata(
        network.model,
        network.branches,
        class_names,
        preprocessing,
        imported=True,
        num_batches_tracked=counters or None,
    )
    return metadata, remarks


def _choice(taken: str, others: tuple[str, ...], preprocessing: Preprocessing) -> str:
    """The sentence that says of which of several networks with the same arrays weights are taken to be."""
    mean, std = (" ".join(f"{value:.4g}" for value in own) for own in (preprocessing.mean, preprocessing.std))
    return (
        f"the weights are taken for those of a {taken}, whose images have the mean {mean} and the deviation "
        f"{std}; for {' or '.join(others)}, with the same arrays, give its name as `--model` of "
        "tools/convert_pytorch.py import, or as `model.name` of a training"
    )


def _with_progress(
    file: Path, weights: Weights, content: Mapping[str, Any], names: list[str], table: TorchFormat
) -> Weights:
    """Adds the epoch and the momentum of a training checkpoint to weights, as far as it has them.

    Args:
      names: PyTorch names of the tensors in the order of the file, which is the order of the optimizer.
    """
    metadata, momentum = weights.metadata, None
    epoch = content.get("epoch", 0)
    # In Python a bool is an int.
    whole = isinstance(epoch, int | np.integer) and not isinstance(epoch, bool)
    if not (whole and 0 <= epoch <= COUNT_LIMIT):
        number = isinstance(epoch, int | float) and abs(epoch) <= COUNT_LIMIT
        raise InputError(
            f"{file} must have a whole number from 0 to {COUNT_LIMIT} as `epoch`; it has "
            f"{epoch if number else f'a value of type {type(epoch).__name__}'}: correct it, or remove "
            "`epoch` and `optimizer` from the file to take only the weights."
        )
    if epoch:
        metadata = metadata.replace(epoch=int(epoch))
    if "optimizer" in content:
        try:
            momentum, settings = _momentum(table, content["optimizer"], names, weights.params)
            metadata = metadata.replace(optimizer=settings)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            reason = str(error) if isinstance(error, InputError) else "its structure is different"
            if isinstance(error, KeyError):
                reason = f"it has no {printable(str(error))}"
            raise InputError(
                f"{file} must have a torch.optim.SGD of all its parameters as `optimizer`, and has another "
                f"one ({reason}): remove `optimizer` from the file to take only the weights."
            ) from error
    return weights._replace(metadata=metadata, momentum=momentum)


def _momentum(
    table: TorchFormat, optimizer: Any, names: list[str], params: Named
) -> tuple[Named | None, dict[str, Any]]:
    """The momentum by the names of this library, None before the first step, and the optimizer's settings."""
    groups, state = optimizer["param_groups"], optimizer["state"]
    if len(groups) != 1:
        raise InputError(f"it has {len(groups)} groups of parameters instead of one")
    keys = groups[0]["params"]
    settings = {
        name: value
        for name, value in groups[0].items()
        if isinstance(name, str) and isinstance(value, int | float | None)
    }
    if not state:
        return None, settings
    theirs = torch_names.names(table, params)
    trainable = [name for name in names if name in theirs]
    if len(keys) != len(trainable):
        raise InputError(f"it has {len(keys)} parameters instead of {len(trainable)}")
    momentum = {}
    for name, key in zip(trainable, keys, strict=True):
        tensor, own = state[key]["momentum_buffer"], theirs[name]
        expected = torch_names.torch_shape(table, own, params[own].shape)
        fits = isinstance(tensor, Tensor) and tensor.shape == expected
        if not fits or not tensor.plain or tensor.dtype not in ARRAY_TYPES:
            raise InputError(f"the momentum of {name} is no tensor of its shape and type")
        value = torch_names.from_torch(table, own, tensor.numpy())
        if not np.all(np.isfinite(value)):
            raise InputError(f"the momentum of {name} is not finite")
        momentum[own] = value
    return momentum, settings


def _optimizer(table: TorchFormat, momentum: Named, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The state dict of a torch.optim.SGD with the given momentum, its parameters in PyTorch's order."""
    buffers = torch_names.to_torch(table, momentum).values()
    state = {i: {"momentum_buffer": buffer} for i, buffer in enumerate(buffers)}
    return {"state": state, "param_groups": [{**settings, "params": list(state)}]}


def _with_counters(tensors: dict[str, np.ndarray], counters: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Adds a batch counter after every running variance, 0 where it is unknown."""
    complete = {}
    for name, tensor in tensors.items():
        complete[name] = tensor
        for counter in torch_names.counter_names([name]):
            complete[counter] = np.asarray(counters.get(counter, 0), np.int64)
    return complete


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a number"
