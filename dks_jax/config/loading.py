"""Loads config files, sets fields from the command line, and reads the configs of older runs.

A config file is plain Python with a function `get_config(method)`. It returns an ml_collections.ConfigDict
with any of the fields in `schema.FIELDS` and, under `model`, any arguments of the network that it names.
"""

import ast
import difflib
import runpy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import ml_collections

from dks_jax.config.field import Field, check, fits
from dks_jax.config.schema import FIELDS
from dks_jax.runtime.errors import InputError

Config: TypeAlias = Any
"""An ml_collections.ConfigDict, whose attributes a type checker cannot know."""
Arguments: TypeAlias = Callable[[str], Mapping[str, Field]]
"""A function from the name of a network to the rows of the schema for its own arguments."""
# What others call a field, for the remark on an unknown one.
ABBREVIATIONS = {"lr": "learning_rate"}
PACKAGE = Path(__file__).parents[1]


def _shipped() -> Path:
    """The folder of the configs that come with the library: in the package, or beside it in a checkout."""
    inside = PACKAGE / "configs"
    return inside if inside.is_dir() else PACKAGE.parent / "configs"


def load(file: str, overrides: Mapping[str, str], arguments: Arguments) -> Config:
    """Loads a config file and returns a checked config in which every field is set.

    Args:
      file: path of the config file, or the name of one that comes with the library, e.g. "digits_wrn"; with a
        training method after a colon, e.g. "configs/digits_wrn.py:baseline".
      overrides: values as typed on a command line, by dotted name, e.g. {"optimizer.learning_rate": "0.2"}.
      arguments: see `Arguments`.

    Raises:
      InputError: the file is absent or broken, or a field is unknown, of the wrong type or out of range.
    """
    path, method = find_config(file)
    try:
        get_config = runpy.run_path(str(path))["get_config"]
        config = get_config(method) if method else get_config()
    except Exception as error:
        raise InputError(f"The config file {path} fails with {type(error).__name__}: {error}.") from error
    if not isinstance(config, ml_collections.ConfigDict):
        raise InputError(f"`get_config` of {path} must return an ml_collections.ConfigDict; got {config!r}.")
    return complete(flatten(config), overrides, arguments)


def complete(given: Mapping[str, Any], overrides: Mapping[str, str], arguments: Arguments) -> Config:
    """A checked config in which every field is set, from overrides, given values and defaults in this order.

    Args:
      given: values by dotted name.
      overrides, arguments: see `load`.

    Raises:
      InputError: a field is unknown, of the wrong type or out of range.
    """
    network = overrides.get("model.name", given.get("model.name", FIELDS["model.name"].default))
    rows = _rows(network, arguments)
    values = dict(given)
    for name, text in overrides.items():
        if name not in rows:
            raise _unknown(name, rows)
        values[name] = _parse(name, text, rows[name])
    for name in values:
        if name not in rows:
            raise _foreign(name, network, rows) if name.startswith("model.") else _unknown(name, rows)
    values = {name: values.get(name, row.default) for name, row in rows.items()}
    check(values, rows)
    return _nest(values)


def restore(fields: Mapping[str, Any], overrides: Mapping[str, str], arguments: Arguments) -> Config:
    """The checked config of a run, with overrides.

    Args:
      fields: see `recorded`.
      overrides, arguments: see `load`.

    Raises:
      InputError: as for `complete`.
    """
    given = {name: _tuples(value) for name, value in recorded(fields, arguments).items()}
    return complete(given, overrides, arguments)


def recorded(fields: Mapping[str, Any], arguments: Arguments) -> dict[str, Any]:
    """Every field of a run, by its dotted name, with tuples as the lists that JSON makes of them.

    A field that the run of an older version did not record takes the `before` of its row, or the default.

    Args:
      fields: the "config" of the run's config.json.
      arguments: see `load`.
    """
    given = flatten(fields)
    try:
        rows = _rows(given.get("model.name", FIELDS["model.name"].default), arguments)
    except InputError:
        # The network of another version, or of somebody's own; the run has recorded its arguments.
        rows = FIELDS
    before = {n: row.default if row.before is None else row.before for n, row in rows.items()}
    return {name: _lists(value) for name, value in (before | given).items()}


def _tuples(value: Any) -> Any:
    """The value as a config has it, with tuples in place of the lists of JSON."""
    return tuple(_tuples(inner) for inner in value) if isinstance(value, list) else value


def _lists(value: Any) -> Any:
    """The value as JSON returns it, with lists in place of tuples."""
    return [_lists(inner) for inner in value] if isinstance(value, list | tuple) else value


def find_config(file: str) -> tuple[Path, str]:
    """The config file and the method, which is empty if there is none, of an argument of `load`.

    Args:
      file: path or name of a config, maybe with a method after a colon.

    Raises:
      InputError: there is no such file, and none of this name comes with the library.
    """
    path, method = Path(file), ""
    if ":" in file and not path.is_file():
        name, _, method = file.rpartition(":")
        path = Path(name)
    if path.is_file():
        return path, method
    own = _shipped() / f"{path}.py"
    if path.name == str(path) and own.is_file():
        return own, method
    names = sorted(own.stem for own in _shipped().glob("*.py"))
    close = difflib.get_close_matches(path.stem, names, n=1)
    remark = f"the closest of the shipped ones is {close[0]}" if close else f"shipped are {', '.join(names)}"
    raise InputError(
        f"`--config` must name a config file, or one that comes with the library; there is no {path}: "
        f"{remark}."
    )


def flatten(config: Config, prefix: str = "") -> dict[str, Any]:
    """The fields of a config, or of its JSON form, by dotted name; each name starts with `prefix`."""
    flat = {}
    for name, value in config.items():
        if isinstance(value, Mapping | ml_collections.ConfigDict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _nest(values: Mapping[str, Any]) -> Config:
    nested: dict[str, Any] = {}
    for name, value in values.items():
        *groups, last = name.split(".")
        inner = nested
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[last] = value
    return ml_collections.ConfigDict(nested)


def _rows(network: Any, arguments: Arguments) -> dict[str, Field]:
    own = arguments(network) if isinstance(network, str) else {}
    return FIELDS | {f"model.{name}": row for name, row in own.items()}


def _parse(name: str, text: str, field: Field) -> Any:
    """The value of a field that is given as text on the command line.

    Raises:
      InputError: the value is not of the field's type.
    """
    expected = tuple if field.several else field.type
    value = text if text in field.words else _literal(text, expected)
    if not fits(value, expected) and value not in field.words:
        example = f"e.g. {field.default!r}" if not field.words else f"or one of {', '.join(field.words)}"
        raise InputError(
            f"`--config.{name}` must be of type {expected.__name__}, {example}; got {text[:100]!r}."
        )
    return value


def _literal(text: str, expected: type) -> Any:
    """The text as a Python literal of the expected type if possible; the text itself if it is no literal."""
    if expected is str:
        return text
    try:
        value = ast.literal_eval(text.capitalize() if expected is bool else text)
        return expected(value) if fits(value, expected) else value
    # literal_eval raises all but the last on arbitrary text; float() raises that one on too large an integer.
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError, OverflowError):
        return text


def _unknown(name: str, known: Mapping[str, Any]) -> InputError:
    members = [field for field in known if field.startswith(f"{name}.")]
    if members:
        return InputError(f"`{name}` is a group of fields; set one of {', '.join(members)}.")
    last = name.rpartition(".")[2]
    alike = [field for field in known if field.rpartition(".")[2] == ABBREVIATIONS.get(last, last)]
    close = alike or difflib.get_close_matches(name, known, n=1)
    accepted = f"the closest one is `{close[0]}`" if close else f"the fields are {', '.join(known)}"
    return InputError(f"The config has no field `{name}`; {accepted}.")


def _foreign(name: str, network: str, rows: Mapping[str, Any]) -> InputError:
    own = [row for row in rows if row.startswith("model.") and row not in FIELDS]
    accepted = ", ".join(f"`{row}`" for row in own) or "none"
    return InputError(f"`{name}` is no argument of the network {network}; its arguments are {accepted}.")
