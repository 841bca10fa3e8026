"""The backbones by the name that `config.model.name` gives."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
from flax import nnx

from dks_jax.configuration import fits
from dks_jax.errors import InputError
from dks_jax.functional import get_arrays
from dks_jax.models import resnet, wide_resnet
from dks_jax.supervision import DeeplySupervised


class Model(NamedTuple):
    """How to build a network, and how to check the arguments that a config gives it."""

    build: Callable[..., DeeplySupervised]
    check: Callable[..., None]


class Network(NamedTuple):
    """What it takes to `build` a network for weights that exist.

    model: as `config.model` has it.
    """

    model: dict[str, Any]
    num_classes: int
    channels: int
    branches: bool


def _takes_no_arguments() -> None:
    """The check of a model that its name alone describes."""


MODELS = {"wide_resnet": Model(wide_resnet.wide_resnet, wide_resnet.check)} | {
    f"resnet{depth}": Model(partial(resnet.resnet, depth), _takes_no_arguments) for depth in resnet.RECIPES
}


def check(model: Mapping[str, Any]) -> None:
    """Raises InputError for a model of no name in MODELS, or an argument missing, unknown or out of range."""
    given = dict(model)
    name = given.pop("name")
    if name not in MODELS:
        raise InputError(f"`model.name` must be one of {', '.join(MODELS)}; got {name!r}.")
    types = arguments(name)
    if set(given) != set(types):
        raise InputError(
            f"The fields of `model` for {name} must be {', '.join(types) or 'none but its name'}; got "
            f"{', '.join(given) or 'none'}."
        )
    for argument, value in given.items():
        if not fits(value, types[argument]):
            raise InputError(f"`model.{argument}` must be of type {types[argument].__name__}; got {value!r}.")
    MODELS[name].check(**given)


def arguments(name: str) -> dict[str, type]:
    """The arguments that a config gives the model of this name, and their types."""
    parameters = inspect.signature(MODELS[name].check, eval_str=True).parameters
    return {argument: parameter.annotation for argument, parameter in parameters.items()}


def describe(model: Mapping[str, Any]) -> str:
    """The name of a model and its arguments."""
    # Sorted, since a config lists them in the order of the alphabet.
    arguments = ", ".join(f"{field} {value}" for field, value in sorted(model.items()) if field != "name")
    return f"{model['name']} ({arguments})" if arguments else model["name"]


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
      InputError: as `check`.
    """
    check(model)
    given = dict(model)
    return MODELS[given.pop("name")].build(
        **given,
        num_classes=num_classes,
        channels=channels,
        branches=branches,
        norm_groups=norm_groups,
        rngs=nnx.Rngs(seed),
    )


def shapes(model: Mapping[str, Any], **arguments: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of the arrays of the network that `build` makes of the same arguments, without making it."""
    check(model)
    abstract = nnx.eval_shape(lambda: build(model, seed=0, **arguments))
    return {name: jax.ShapeDtypeStruct(a.shape, a.dtype) for name, a in get_arrays(abstract).items()}
