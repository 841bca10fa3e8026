"""Fields that a config may leave open; a run finds their values at its start and writes them down."""

import json
from collections.abc import Mapping
from typing import Any

from dks_jax import data, models
from dks_jax.config import AUTO, Config, complete, flatten

# The value, as JSON has it, by which a config leaves a field open.
OPEN: dict[str, Any] = {
    "data.train_split": "",
    "data.held_out": "",
    "data.channels": 0,
    "data.mean": [],
    "data.std": [],
    "norm_statistics": AUTO,
    "synergy.branch_warmup": AUTO,
}


def adopt(config: Config, recorded: Mapping[str, Any]) -> Config:
    """A copy of a config in which the fields that it leaves open are as a run has found them.

    Args:
      recorded: the fields of the run, as `config.recorded` gives them.

    Raises:
      InputError: the data of a run of an older version are absent.
    """
    now = json.loads(config.to_json())
    found = {name: _tuples(recorded[name]) for name, value in flatten(now).items() if is_open(name, value)}
    config = complete(flatten(config) | found, {}, models.arguments)
    if not config.data.held_out:
        # Versions before this field held out the test images, and the validation images where there are none.
        config.data.held_out = data.resolve(config.data, training=False).held_out
    return config


def is_open(name: str, value: Any) -> bool:
    """Whether a value, as JSON has it, leaves a field open; such a run is of a version before the field."""
    return name in OPEN and value == OPEN[name]


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
