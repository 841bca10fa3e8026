"""Fields that a config may leave open; a run finds their values at its start and writes them down."""

import copy
from collections.abc import Mapping
from typing import Any

from dks_jax import data
from dks_jax.config import Config

# The value of each field that leaves it open.
OPEN: dict[str, Any] = {
    "data.train_split": "",
    "data.held_out": "",
    "data.channels": 0,
    "data.mean": (),
    "data.std": (),
}


def adopt(config: Config, recorded: Mapping[str, Any]) -> Config:
    """A copy of a config in which the fields that it leaves open are as a run has found them.

    Args:
      recorded: the fields in the config.json of the run, by dotted name, with lists for tuples.

    Raises:
      InputError: the data of a run of an older version are absent.
    """
    config = copy.deepcopy(config)
    for name, unset in OPEN.items():
        group, field = name.split(".")
        if config[group][field] == unset and name in recorded:
            value = recorded[name]
            config[group][field] = tuple(value) if isinstance(value, list) else value
    if "data.held_out" not in recorded and not config.data.held_out:
        # Versions before the field held out the test images, and the validation images where there are none.
        config.data.held_out = data.resolve(config.data, training=False).held_out
    return config


def is_open(name: str, value: Any) -> bool:
    """Whether a run has not written down the value of a field, since its version did not know the field."""
    return name in OPEN and value in (OPEN[name], list(OPEN[name]) if OPEN[name] == () else OPEN[name])
