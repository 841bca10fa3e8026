"""Config files: loading one, setting its fields from the command line, and checking all of them.

A config file is plain Python with a function `get_config(method)` that returns an ml_collections
ConfigDict. It holds every field of FIELDS and, under `model`, the arguments of the model it names.
"""

import ast
import difflib
import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import ml_collections

from dks_jax.errors import InputError

# A ConfigDict. Its fields are attributes that no type checker can know.
Config: TypeAlias = Any

FIELDS: dict[str, type] = {
    "method": str,
    "seed": int,
    "epochs": int,
    "precision": str,
    "norm_groups": int,
    "checkpoint_every_epochs": int,
    "data.source": str,
    "data.name": str,
    "data.root": str,
    "data.image_size": int,
    "data.train_per_class": int,
    "data.test_per_class": int,
    "data.batch_size": int,
    "data.drop_last": bool,
    "data.padding": int,
    "data.pad_mode": str,
    "data.flip": bool,
    "data.mean": tuple,
    "data.std": tuple,
    "model.name": str,
    "synergy.alpha": float,
    "synergy.temperature": float,
    "synergy.epsilon": float,
    "optimizer.schedule": str,
    "optimizer.learning_rate": float,
    "optimizer.momentum": float,
    "optimizer.weight_decay": float,
    "optimizer.decay_norm_and_bias": bool,
    "optimizer.drop_epochs": tuple,
    "optimizer.drop_factor": float,
    "optimizer.reset_momentum_at_drops": bool,
    "optimizer.warmup_epochs": float,
}

# The smallest value that a field may have.
MINIMA = {
    "seed": 0,
    "epochs": 1,
    "norm_groups": 1,
    "checkpoint_every_epochs": 1,
    "data.batch_size": 1,
    "data.padding": 0,
    "data.train_per_class": 0,
    "data.test_per_class": 0,
    "synergy.alpha": 0,
    "synergy.epsilon": 0,
    "optimizer.learning_rate": 0,
    "optimizer.weight_decay": 0,
    "optimizer.drop_factor": 0,
    "optimizer.warmup_epochs": 0,
}


def load(file: str, overrides: Mapping[str, str]) -> Config:
    """The config of `file` ("configs/NAME.py" or "configs/NAME.py:method") with fields replaced.

    Args:
      file: path of the config file, and after a colon the method to train by.
      overrides: by field, e.g. "optimizer.learning_rate", the new value as typed on a command line.

    Raises:
      InputError: the file is absent or broken, a field is unknown, missing, of another type or too small.
    """
    path, _, method = file.partition(":")
    if not Path(path).is_file():
        raise InputError(
            f"`--config` must name a config file, e.g. configs/digits_wrn.py; there is no {path}."
        )
    try:
        get_config = runpy.run_path(path)["get_config"]
        config = get_config(method) if method else get_config()
    except Exception as error:
        raise InputError(f"The config file {path} fails with {type(error).__name__}: {error}.") from error
    if not isinstance(config, ml_collections.ConfigDict):
        raise InputError(f"`get_config` of {path} must return an ml_collections.ConfigDict; got {config!r}.")
    for field, text in overrides.items():
        _override(config, field, text)
    check(config)
    return config


def flatten(config: Config, prefix: str = "") -> dict[str, Any]:
    """Every field of a config, or of its JSON form, by its dotted name."""
    flat = {}
    for name, value in config.items():
        if isinstance(value, Mapping | ml_collections.ConfigDict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def check(config: Config) -> None:
    """Raises InputError for a field that is unknown, missing, of another type or too small.

    The fields of `model` other than its name are checked where the model is built.
    """
    flat = flatten(config)
    for field in FIELDS:
        if field not in flat:
            raise InputError(f"The config lacks the field `{field}`; set it, as configs/digits_wrn.py does.")
    for field, value in flat.items():
        if field not in FIELDS and not field.startswith("model."):
            raise _unknown(field, FIELDS)
        expected = FIELDS.get(field, type(value))
        if not _fits(value, expected):
            raise InputError(f"`{field}` must be of type {expected.__name__}; got {value!r}.")
        if field in MINIMA and value < MINIMA[field]:
            raise InputError(f"`{field}` must be {MINIMA[field]} or more; got {value}.")
    if config.synergy.temperature <= 0:
        raise InputError(f"`synergy.temperature` must be above 0; got {config.synergy.temperature}.")


def _override(config: Config, field: str, text: str) -> None:
    flat = flatten(config)
    if field not in flat:
        raise _unknown(field, flat)
    expected = type(flat[field])
    try:
        value = text if expected is str else ast.literal_eval(text.capitalize() if expected is bool else text)
    except (ValueError, SyntaxError):
        value = text
    if not _fits(value, expected):
        raise InputError(
            f"`--config.{field}` must be of type {expected.__name__}, e.g. {flat[field]!r}; got {text!r}."
        )
    *parents, name = field.split(".")
    for parent in parents:
        config = config[parent]
    config[name] = expected(value)


def _fits(value: Any, expected: type) -> bool:
    """Whether a value serves as one of a type: also an int as a float, but no bool as a number."""
    if isinstance(value, bool):
        return expected is bool
    return isinstance(value, (int, float) if expected is float else expected)


def _unknown(field: str, known: Mapping[str, Any]) -> InputError:
    close = difflib.get_close_matches(field, known, n=1)
    accepted = f"the closest one is `{close[0]}`" if close else f"the fields are {', '.join(known)}"
    return InputError(f"The config has no field `{field}`; {accepted}.")
