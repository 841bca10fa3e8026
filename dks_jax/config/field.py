"""A row of the schema of a config, and the check of a value against it."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from dks_jax.runtime.errors import InputError


class Field(NamedTuple):
    """A row of the schema.

    Attributes:
      type: type of the value, or of its elements if `several` is set.
      default: value of the field if a config file does not set it.
      meaning: phrase that explains the field on its own, e.g. in the output of --help.
      minimum, maximum: inclusive bounds of a number.
      above, below: exclusive bounds of a number.
      words: accepted strings; for a field of another type, strings that are accepted besides its values.
      several: whether the value is a tuple.
      before: value of the field for a run whose config.json lacks it, if this is not `default`.
    """

    type: type
    default: Any
    meaning: str
    minimum: float = -math.inf
    maximum: float = math.inf
    above: float = -math.inf
    below: float = math.inf
    words: tuple[str, ...] = ()
    several: bool = False
    before: Any = None

    @property
    def accepted(self) -> str:
        """The accepted values in a few words: a list of strings, or the type with its bounds."""
        if self.type is str and self.words:
            return f"one of {', '.join(self.words)}"
        kind = f"a tuple of {self.type.__name__}" if self.several else self.type.__name__
        return ", ".join(filter(None, [kind, self.bounds, *self.words]))

    @property
    def bounds(self) -> str:
        """The bounds of a number in words; "" if it has none."""
        limits = {
            "at least": self.minimum,
            "above": self.above,
            "at most": self.maximum,
            "below": self.below,
        }
        return " and ".join(f"{word} {limit:.12g}" for word, limit in limits.items() if math.isfinite(limit))


def fits(value: Any, expected: type) -> bool:
    """Whether a value has the expected type; an int also counts as a float, a bool never as a number."""
    if isinstance(value, bool):
        return expected is bool
    return isinstance(value, (int, float) if expected is float else expected)


def check(values: Mapping[str, Any], rows: Mapping[str, Field]) -> None:
    """Checks values against the rows of a schema.

    Args:
      values, rows: values, and rows of the schema, by the names of fields; each value has a row.

    Raises:
      InputError: the row of a value does not accept it.
    """
    for name, value in values.items():
        _check_value(name, value, rows[name])


def _check_value(name: str, value: Any, field: Field) -> None:
    if field.words and isinstance(value, str):
        if value not in field.words:
            kind = f"tuple of {field.type.__name__}" if field.several else field.type.__name__
            also = "" if field.type is str else f" or a {kind}"
            raise InputError(f"`{name}` must be one of {', '.join(field.words)}{also}; got {value!r}.")
        return
    kind = f"a tuple of {field.type.__name__}" if field.several else f"of type {field.type.__name__}"
    values = value if field.several else (value,)
    if not isinstance(values, tuple) or not all(fits(v, field.type) for v in values):
        raise InputError(f"`{name}` must be {kind}; got {value!r}.")
    for v in values:
        if field.type not in (int, float):
            continue
        inside = field.minimum <= v <= field.maximum and field.above < v < field.below
        if not inside or not math.isfinite(v):
            raise InputError(f"`{name}` must be {field.bounds or 'finite'}; got {v}.")
