"""The networks by their names in `config.model.name`; each family is a module of its own."""

from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx

from dks_jax import config
from dks_jax.config import PUBLISHED, Config, Field
from dks_jax.models import (
    cifar_resnet,
    convnext,
    densenet,
    mobilenet,
    regularisation,
    resnet,
    vit,
    wide_resnet,
)
from dks_jax.models.family import Backbone, Family, Layers, Network, Preprocessing, TorchFormat, assemble
from dks_jax.nn.functional import get_arrays
from dks_jax.runtime.errors import InputError
from dks_jax.supervision import BranchSpec, DeeplySupervised, branch_specs, require_forks

__all__ = [
    "NETWORKS",
    "Backbone",
    "Family",
    "Layers",
    "Network",
    "Preprocessing",
    "TorchFormat",
    "arguments",
    "assemble",
    "build",
    "check",
    "describe",
    "get_family",
    "load_config",
    "resolve_branches",
    "restore_config",
    "shapes",
]

NETWORKS: dict[str, Family] = {
    **wide_resnet.NETWORKS,
    **resnet.NETWORKS,
    **cifar_resnet.NETWORKS,
    **densenet.NETWORKS,
    **mobilenet.NETWORKS,
    **convnext.NETWORKS,
    **vit.NETWORKS,
}
"""The families by the names of their networks, to which your own can be added."""
# The fields of `config.model` that are not arguments of a network.
COMMON = ("name", "branches")


def get_family(name: Any) -> Family:
    """The family of the network with the given name.

    Args:
      name: a name in NETWORKS.

    Raises:
      InputError: there is no network with this name.
    """
    if name not in NETWORKS:
        raise InputError(f"`model.name` must be one of {', '.join(NETWORKS)}; got {name!r}.")
    return NETWORKS[name]


def arguments(name: str) -> Mapping[str, Field]:
    """The schema of a network's arguments, by their names.

    Args:
      name: a name in NETWORKS.

    Raises:
      InputError: there is no network with this name.
    """
    return get_family(name).arguments


def load_config(file: str, overrides: Mapping[str, str] | None = None) -> Config:
    """Loads a config file, including the arguments of its network, and checks it; every field is then set.

    Args:
      file: path of the config file, or the name of one that comes with the library, e.g. "digits_wrn"; with a
        training method after a colon, e.g. "digits_wrn:baseline".
      overrides: values as typed on a command line, by dotted name, e.g. {"optimizer.learning_rate": "0.2"};
        None for none.

    Raises:
      InputError: the file is absent or broken, or a field is unknown, of the wrong type or out of range.
    """
    return config.load(file, overrides or {}, arguments)


def restore_config(fields: Mapping[str, Any], overrides: Mapping[str, str] | None = None) -> Config:
    """The checked config of a run from its JSON form, with the arguments of its network.

    Args:
      fields: the "config" of the run's config.json. Fields that an older version did not record are there as
        it behaved.
      overrides: see `load_config`.

    Raises:
      InputError: a field is unknown, of the wrong type or out of range.
    """
    return config.restore(fields, overrides or {}, arguments)


def check(model: Mapping[str, Any]) -> dict[str, Any]:
    """Checks the arguments of a network and completes them with their defaults.

    Args:
      model: name of the network and its arguments, as in `config.model`; branches are ignored.

    Returns:
      All arguments of the network by name.

    Raises:
      InputError: there is no network with this name, or an argument is unknown or out of range.
    """
    own = get_family(model["name"])
    given = {name: value for name, value in model.items() if name not in COMMON}
    if unknown := sorted(set(given) - set(own.arguments)):
        raise InputError(
            f"The arguments of {model['name']} are {', '.join(own.arguments) or 'none'}; got "
            f"`{unknown[0]}`: leave it out."
        )
    values = {name: given.get(name, row.default) for name, row in own.arguments.items()}
    config.check(
        {f"model.{name}": value for name, value in values.items()},
        {f"model.{name}": row for name, row in own.arguments.items()},
    )
    own.check(**values)
    return values


def describe(model: Mapping[str, Any]) -> str:
    """The name of a network with its arguments, e.g. "wide_resnet (depth 28, dropout 0.0, width 10)".

    Regularisation that is off is left out, and so are the initial values of the usual kind.

    Args:
      model: name of the network and its arguments.
    """
    # Sorted like the fields of a ConfigDict, so that a config and its weights read the same.
    own = ", ".join(
        f"{field} {value}" for field, value in sorted(model.items()) if _is_described(field, value)
    )
    return f"{model['name']} ({own})" if own else model["name"]


def _is_described(field: str, value: Any) -> bool:
    usual = {**dict.fromkeys(regularisation.ARGUMENTS, 0), "initialisation": "dks"}
    return field not in COMMON and (field not in usual or value != usual[field])


def resolve_branches(model: Mapping[str, Any], branches: Any) -> tuple[BranchSpec, ...]:
    """Turns the branches of a config into specifications, and checks them against the network.

    Args:
      model: name of the network and its arguments.
      branches: "published", or a tuple (after, blocks, widths) for each branch.

    Raises:
      InputError: as for `check`, or a branch is not such a tuple or forks after a stage that does not exist.
    """
    own, values = get_family(model["name"]), check(model)
    specs = own.branches(**values) if branches == PUBLISHED else branch_specs(branches)
    # This is cheap, because a backbone draws no initial values until its parts are made.
    backbone = own.backbone(**values, num_classes=1, channels=1, norm_groups=1, rngs=nnx.Rngs(0))
    require_forks([spec.after for spec in specs], len(backbone.blocks))
    return specs


def build(
    model: Mapping[str, Any],
    *,
    num_classes: int,
    channels: int,
    branches: Any = PUBLISHED,
    norm_groups: int = 1,
    seed: int,
) -> DeeplySupervised:
    """Builds a newly initialised network.

    Args:
      model: name of the network in NETWORKS, and its arguments.
      num_classes: number of logits of every classifier.
      channels: number of channels of the images.
      branches: "published", or a tuple (after, blocks, widths) for each branch; () gives the plain backbone.
        The initial values of the backbone do not depend on the branches.
      norm_groups: number of slices in which batch normalisation treats the batch; see `BatchNorm`.
      seed: seed of the initial values.

    Raises:
      InputError: as for `resolve_branches` and `assemble`.
    """
    specs = resolve_branches(model, branches)
    backbone = get_family(model["name"]).backbone(
        **check(model),
        num_classes=num_classes,
        channels=channels,
        norm_groups=norm_groups,
        rngs=nnx.Rngs(seed),
    )
    return assemble(backbone, specs)


def shapes(network: Network) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes and dtypes of a network's arrays by name, computed without allocating them.

    Args:
      network: description of the network.
    """
    abstract = nnx.eval_shape(lambda: build(**network._asdict(), seed=0))
    return {name: jax.ShapeDtypeStruct(a.shape, a.dtype) for name, a in get_arrays(abstract).items()}
