"""Configs of experiments: their schema, the training methods, and the loading of config files."""

from dks_jax.config.field import Field, check, fits
from dks_jax.config.loading import Arguments, Config, complete, find_config, flatten, load, recorded, restore
from dks_jax.config.methods import BY_METHOD, METHODS, PUBLISHED, Method, resolve
from dks_jax.config.schema import AUTO, COUNT_LIMIT, FIELDS

__all__ = [
    "AUTO",
    "BY_METHOD",
    "COUNT_LIMIT",
    "FIELDS",
    "METHODS",
    "PUBLISHED",
    "Arguments",
    "Config",
    "Field",
    "Method",
    "check",
    "complete",
    "find_config",
    "fits",
    "flatten",
    "load",
    "recorded",
    "resolve",
    "restore",
]
