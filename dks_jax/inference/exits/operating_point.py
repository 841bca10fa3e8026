"""Operating points as JSON, which prediction takes, and the weights that they belong to."""

import json
import math
from pathlib import Path
from typing import Any

from dks_jax.inference.exits.rules import Confidence, Patience, Rule
from dks_jax.nn import checksum, get_arrays
from dks_jax.runtime.errors import InputError
from dks_jax.supervision import DeeplySupervised


def as_json(rule: Rule, network: DeeplySupervised) -> dict[str, Any]:
    """A rule and the network that it was fitted to, in types that JSON can hold; the inverse of `read`."""
    return {
        "classifiers": list(network.names),
        "checksum": checksum(get_arrays(network)),
        **describe(rule, network.names),
    }


def describe(rule: Rule, classifiers: tuple[str, ...]) -> dict[str, Any]:
    """A rule by the names of the classifiers; a branch that is left out has the threshold None."""
    if isinstance(rule, Patience):
        return {"patience": rule.patience}
    assert isinstance(rule, Confidence)
    thresholds = [value if math.isfinite(value) else None for value in rule.thresholds]
    return {
        "thresholds": dict(zip(classifiers[:-1], thresholds, strict=True)),
        "temperatures": dict(zip(classifiers[:-1], rule.temperatures, strict=True)),
    }


def read(file: Path, network: DeeplySupervised) -> Rule:
    """Reads the rule of an operating point that `python -m dks_jax.early_exit` has written.

    Args:
      file: the file.
      network: the network that is to follow the rule.

    Raises:
      InputError: there is no such file, it is no operating point, or it belongs to other weights.
    """
    again = "fit it to these weights by python -m dks_jax.early_exit"
    try:
        fields = json.loads(file.read_text())
        names, own = tuple(fields["classifiers"]), fields["checksum"]
        rule = _rule(fields, names)
    except OSError as error:
        raise InputError(f"`--exit` must name an operating point; {file}: {error.strerror}.") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"`--exit` must name an operating point; {file} is none: {again}.") from error
    if names != network.names or own != checksum(get_arrays(network)):
        raise InputError(
            f"`--exit` must name an operating point of the weights in use; {file} belongs to others: {again}."
        )
    return rule


def _rule(fields: dict[str, Any], names: tuple[str, ...]) -> Rule:
    if "patience" in fields:
        patience, branches = fields["patience"], len(names) - 1
        if patience not in range(1, branches + 1):
            raise ValueError(patience)
        return Patience(patience, branches)
    thresholds = [fields["thresholds"][name] for name in names[:-1]]
    return Confidence(
        tuple(float(fields["temperatures"][name]) for name in names[:-1]),
        tuple(math.inf if value is None else float(value) for value in thresholds),
    )
