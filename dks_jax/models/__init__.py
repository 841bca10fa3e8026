"""The backbones by the name that `config.model.name` gives."""

import inspect
from collections.abc import Mapping
from typing import Any

from flax import nnx

from dks_jax.errors import InputError
from dks_jax.models.wide_resnet import wide_resnet
from dks_jax.supervision import DeeplySupervised

MODELS = {
    "wide_resnet": wide_resnet,
}


def build(
    model: Mapping[str, Any],
    *,
    num_classes: int,
    channels: int,
    branches: bool,
    norm_groups: int = 1,
    seed: int,
) -> DeeplySupervised:
    """The network that `model` describes, a name of MODELS and the arguments of its own, freshly initialised.

    Raises:
      InputError: no model has that name, or an argument is missing, unknown or out of its range.
    """
    fields = dict(model)
    name = fields.pop("name")
    if name not in MODELS:
        raise InputError(f"`model.name` must be one of {', '.join(MODELS)}; got {name!r}.")
    common = {
        "num_classes": num_classes,
        "channels": channels,
        "branches": branches,
        "norm_groups": norm_groups,
        "rngs": nnx.Rngs(seed),
    }
    parameters = inspect.signature(MODELS[name]).parameters
    accepted = [p for p in parameters if p not in common]
    required = [p for p in accepted if parameters[p].default is inspect.Parameter.empty]
    if set(required) - set(fields) or set(fields) - set(accepted):
        raise InputError(
            f"The fields of `model` for {name} must be {', '.join(accepted)}; got {', '.join(fields)}."
        )
    for field, value in fields.items():
        expected = parameters[field].annotation
        if not isinstance(value, (int, float) if expected is float else expected) or isinstance(value, bool):
            raise InputError(f"`model.{field}` must be of type {expected.__name__}; got {value!r}.")
    return MODELS[name](**common, **fields)
