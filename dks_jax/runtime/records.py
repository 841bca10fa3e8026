"""Immutable records."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Record:
    """The base class of records; `record["name"]` equals `record.name`."""

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)

    def replace(self, **changes: Any) -> Any:
        """A copy in which some fields are changed."""
        return dataclasses.replace(self, **changes)

    def to_json(self) -> dict[str, Any]:
        """The fields in a form that JSON can hold, without those that equal their default."""
        return {
            field.name: value.to_json() if isinstance(value, Record) else value
            for field in dataclasses.fields(self)
            if (value := getattr(self, field.name)) != field.default
        }
