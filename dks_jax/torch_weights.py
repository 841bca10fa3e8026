"""Weights from PyTorch checkpoints, and checkpoints from weights; exact both ways.

A checkpoint is a state dict, bare or within a training checkpoint, or the training checkpoint released with
DKS: {"params": {flat name: tensor}, "epoch": whole epochs, "optimizer": state dict}. A file is taken over
whole or refused.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dks_jax import models, torch_files, torch_names
from dks_jax.configuration import COUNT_LIMIT
from dks_jax.errors import InputError, printable
from dks_jax.imagenet_classes import wordnet_ids
from dks_jax.models import Network
from dks_jax.torch_files import Tensor
from dks_jax.torch_names import Table
from dks_jax.weights_folder import Named, Weights

# Under which a training checkpoint keeps its state dict.
CONTAINERS = ("state_dict", "model", "params")
LISTED = 5
ARRAY_TYPES = ("float32", "float16", "bfloat16", "float64")
COUNTER_TYPES = ("int64", "int32")
# What a checkpoint does not tell: how images come to the network. As in the evaluations released with DKS.
ASSUMED_PREPROCESSING = {
    "resnet": {
        "name": "dks",
        "height": 224,
        "width": 224,
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
    },
    "wide_resnet": {
        "name": "squash",
        "height": 32,
        "width": 32,
        "mean": (125.3 / 255, 123.0 / 255, 113.9 / 255),
        "std": (63.0 / 255, 62.1 / 255, 66.7 / 255),
    },
}


def read_checkpoint(file: Path, model: str | None = None) -> Weights:
    """The weights in a PyTorch checkpoint, branches and optimizer included.

    Args:
      file: .pth, .pt, .pt7 or .safetensors, its names with or without "module.".
      model: name of the network, e.g. "resnet50" or "wide_resnet"; None recognises it.

    Raises:
      InputError: the file cannot be read, or does not fit the network: the sentence lists what is missing,
        unexpected, misshapen or not finite.
    """
    content = torch_files.read(file)
    tensors = state_dict(content, file)
    network = torch_names.recognise({name: value.shape for name, value in tensors.items()})
    if network is None or model not in (None, network.model["name"]):
        found = f"a {network.model['name']}" if network else "none that is known"
        wanted = model or "wide_resnet or one of resnet18, 34, 50, 101 and 152"
        own_names = _listing([printable(name) for name in tensors])
        raise InputError(
            f"{file} must hold a checkpoint of {wanted}; by its names and shapes ({own_names}) it is {found}."
        )
    table = torch_names.TABLES[network.model["name"]]
    own = models.shapes(**network._asdict())
    arrays, counters = _fit(file, network, table, tensors, own)
    params = {name: arrays[name] for name in own if not name.endswith((".mean", ".var"))}
    batch_stats = {name: arrays[name] for name in own if name not in params}
    weights = Weights(params, batch_stats, _metadata(network, counters))
    return (
        _with_progress(file, weights, content, list(tensors)) if table is torch_names.WIDE_RESNET else weights
    )


def write_checkpoint(file: Path, weights: Weights) -> None:
    """Writes what `torchvision.models` load strictly; of a wide ResNet the checkpoint released with DKS.

    Args:
      file: name that ends in .safetensors for that format, else as torch.save writes it.

    Raises:
      InputError: the network is not the one that the metadata describe; torch is not installed.
    """
    network, arrays = weights.network, weights.params | weights.batch_stats
    _require_network(network, arrays)
    table = torch_names.TABLES[network.model["name"]]
    tensors = torch_names.to_torch(table, arrays)
    if table is torch_names.RESNET:
        torch_files.write(file, _with_counters(tensors, weights.metadata))
    elif file.suffix == ".safetensors":
        torch_files.write(file, tensors)
    else:
        content: dict[str, Any] = {"params": tensors}
        if weights.metadata.get("epoch") is not None:
            content["epoch"] = weights.metadata["epoch"]
        if weights.momentum is not None:
            content["optimizer"] = _optimizer(weights.momentum, weights.metadata)
        torch_files.write(file, content)


def _require_network(network: Network, arrays: Named) -> None:
    """Raises InputError where the arrays are not those of the network that their metadata describe."""
    expected = models.shapes(**network._asdict())
    if {name: array.shape for name, array in arrays.items()} != {n: a.shape for n, a in expected.items()}:
        raise InputError(
            f"The weights must be those of {network.model} with {network.num_classes} classes, "
            "as their metadata say, and are others; put a copy of metadata.json back."
        )


def state_dict(content: Mapping[str, Any], file: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, without the "module." that DataParallel puts before every name.

    Raises:
      InputError: there are none, or something else stands among them.
    """
    found = content
    for container in CONTAINERS:
        if isinstance(content.get(container), Mapping):
            found = content[container]
            break
    odd = [
        printable(name) if isinstance(name, str) else f"a name of type {type(name).__name__}"
        for name, value in found.items()
        if not (isinstance(name, str) and isinstance(value, Tensor))
    ]
    if odd or not found:
        what = f"besides tensors {_listing(odd)}" if odd else "nothing"
        raise InputError(
            f"{file} must hold tensors by name, on the highest level or under one of "
            f"{', '.join(CONTAINERS)}; it holds {what}: save the model's state dict."
        )
    if all(name.startswith("module.") for name in found):
        return {name.removeprefix("module."): tensor for name, tensor in found.items()}
    return dict(found)


def _fit(
    file: Path,
    network: Network,
    table: Table,
    tensors: Mapping[str, Tensor],
    own: Mapping[str, jax.ShapeDtypeStruct],
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """The arrays by our names, and the counters of batches by PyTorch's.

    Raises:
      InputError: the tensors are not those of the network.
    """
    names = torch_names.names(table, own)
    counters = torch_names.counter_names(names) if table.counters else []
    problems = {"missing": [name for name in names if name not in tensors]}
    problems["unexpected"] = [
        printable(name) for name in tensors if name not in names and name not in counters
    ]
    problems["misshapen"] = [
        f"{name} ({printable(_shape(tensors[name].shape))} instead of {_shape(expected)})"
        for name, expected in _expected_shapes(names, counters, own).items()
        if name in tensors and tensors[name].shape != expected
    ]
    problems["of a wrong type"] = [
        f"{printable(name)} ({tensor.dtype}{'' if tensor.plain else ', without all of its values'})"
        for name, tensor in tensors.items()
        if not tensor.plain or tensor.dtype not in (COUNTER_TYPES if name in counters else ARRAY_TYPES)
    ]
    _refuse(file, network, problems)
    arrays = {name: tensors[name].numpy() for name in names}
    counts = {name: tensors[name].numpy() for name in counters if name in tensors}
    problems = {
        "not finite": [name for name, array in arrays.items() if not np.all(np.isfinite(array))],
        "negative": [
            name
            for name, array in (arrays | counts).items()
            if name.endswith(("running_var", torch_names.COUNTER)) and np.any(array < 0)
        ],
    }
    _refuse(file, network, problems)
    ours = {own_name: torch_names.from_torch(arrays[name]) for name, own_name in names.items()}
    return ours, {name: int(count) for name, count in counts.items()}


def _expected_shapes(
    names: Mapping[str, str], counters: list[str], own: Mapping[str, jax.ShapeDtypeStruct]
) -> dict[str, tuple[int, ...]]:
    shapes = {name: torch_names.torch_shape(own[own_name].shape) for name, own_name in names.items()}
    return shapes | dict.fromkeys(counters, ())


def _refuse(file: Path, network: Network, problems: Mapping[str, list[str]]) -> None:
    """Raises InputError where there is any problem."""
    found = [
        f"{_listing(names)} {'is' if len(names) == 1 else 'are'} {what}"
        for what, names in problems.items()
        if names
    ]
    if found:
        branches = "with" if network.branches else "without"
        raise InputError(
            f"{file} does not fit {models.describe(network.model)} with {network.num_classes} classes, "
            f"{branches} branches: {'; '.join(found)}."
        )


def _metadata(network: Network, counters: dict[str, int]) -> dict[str, Any]:
    family = "wide_resnet" if network.model["name"] == "wide_resnet" else "resnet"
    known = family == "resnet" and network.num_classes == len(wordnet_ids())
    preprocessing = {**ASSUMED_PREPROCESSING[family], "channels": network.channels, "assumed": True}
    if network.channels != 3:
        # Nothing is known of such images but their range, 0 to 1.
        preprocessing |= {"mean": [0.0] * network.channels, "std": [1.0] * network.channels}
    metadata = {
        "model": network.model,
        "class_names": wordnet_ids() if known else [str(label) for label in range(network.num_classes)],
        "preprocessing": preprocessing,
    }
    return metadata | ({torch_names.COUNTER: counters} if counters else {})


def _with_progress(file: Path, weights: Weights, content: Mapping[str, Any], names: list[str]) -> Weights:
    """Weights with the epoch and the optimizer's momentum of a training checkpoint, as far as it has them.

    Args:
      names: of the tensors, in the order of the file, by which an optimizer counts.
    """
    metadata, momentum = dict(weights.metadata), None
    epoch = content.get("epoch", 0)
    # In Python a truth value is a whole number.
    whole = isinstance(epoch, int | np.integer) and not isinstance(epoch, bool)
    if not (whole and 0 <= epoch <= COUNT_LIMIT):
        number = isinstance(epoch, int | float) and abs(epoch) <= COUNT_LIMIT
        raise InputError(
            f"{file} must have a whole number from 0 to {COUNT_LIMIT} as `epoch`; it has "
            f"{epoch if number else f'something of type {type(epoch).__name__}'}: put it right, or leave "
            "`epoch` and `optimizer` out of the file to take the weights alone."
        )
    if epoch:
        metadata["epoch"] = int(epoch)
    if "optimizer" in content:
        try:
            momentum, metadata["optimizer"] = _momentum(content["optimizer"], names, weights.params)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            reason = str(error) if isinstance(error, InputError) else "it is put together in another way"
            if isinstance(error, KeyError):
                reason = f"it has no {printable(str(error))}"
            raise InputError(
                f"{file} holds an optimizer that is no torch.optim.SGD of all its parameters ({reason}): "
                "leave `optimizer` out of the file to take the weights alone."
            ) from error
    return weights._replace(metadata=metadata, momentum=momentum)


def _momentum(optimizer: Any, names: list[str], params: Named) -> tuple[Named | None, dict[str, Any]]:
    """The momentum by our names, None before the first step, and the settings of the optimizer."""
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
    theirs = torch_names.names(torch_names.WIDE_RESNET, params)
    trainable = [name for name in names if name in theirs]
    if len(keys) != len(trainable):
        raise InputError(f"it has {len(keys)} parameters instead of {len(trainable)}")
    momentum = {}
    for name, key in zip(trainable, keys, strict=True):
        tensor, shape = state[key]["momentum_buffer"], params[theirs[name]].shape
        fits = isinstance(tensor, Tensor) and tensor.shape == torch_names.torch_shape(shape)
        if not fits or not tensor.plain or tensor.dtype not in ARRAY_TYPES:
            raise InputError(f"the momentum of {name} is no tensor of its shape and type")
        value = torch_names.from_torch(tensor.numpy())
        if not np.all(np.isfinite(value)):
            raise InputError(f"the momentum of {name} is not finite")
        momentum[theirs[name]] = value
    return momentum, settings


def _optimizer(momentum: Named, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The state dict of a torch.optim.SGD of the parameters of a wide ResNet, in the order of their names."""
    buffers = torch_names.to_torch(torch_names.WIDE_RESNET, momentum).values()
    state = {i: {"momentum_buffer": buffer} for i, buffer in enumerate(buffers)}
    return {"state": state, "param_groups": [{**metadata.get("optimizer", {}), "params": list(state)}]}


def _with_counters(tensors: dict[str, np.ndarray], metadata: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The tensors, and after every running variance the counter of batches, 0 where it is not known."""
    counters = metadata.get(torch_names.COUNTER, {})
    complete = {}
    for name, tensor in tensors.items():
        complete[name] = tensor
        for counter in torch_names.counter_names([name]):
            complete[counter] = np.asarray(counters.get(counter, 0), np.int64)
    return complete


def _listing(names: list[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a number"
