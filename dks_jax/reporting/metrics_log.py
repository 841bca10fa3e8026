"""The log of a run in metrics.jsonl and in event files of TensorBoard."""

import json
import math
from pathlib import Path
from typing import Any

from dks_jax.reporting.events import EventFile
from dks_jax.runtime.errors import InputError
from dks_jax.runtime.files import atomic_write, naming

Record = dict[str, Any]


class MetricsLog:
    """Writes metrics.jsonl and TensorBoard events, which always hold the same records.

    Args:
      folder: folder of the run.
      epochs: number of epochs that the run has completed. Records of later epochs are dropped, because a run
        that was stopped between its log and its checkpoint repeats them.
      steps_per_epoch: number of steps in an epoch.

    Attributes:
      records: all records of the run so far.
    """

    def __init__(self, folder: Path, epochs: int, steps_per_epoch: int):
        self._path = folder / "metrics.jsonl"
        self.records = records_until(self._path, epochs)
        with atomic_write(self._path) as partial:
            partial.write_text("".join(_line(record) for record in self.records))
        self._events = EventFile(folder, epochs * steps_per_epoch + 1)

    def add(self, record: Record) -> None:
        """Appends a record, and its metrics as scalars <split>/<name>."""
        self.records.append(record)
        with naming(self._path), self._path.open("a") as file:
            file.write(_line(record))
        # TensorBoard does not allow ">" in a tag.
        scalars = {
            f"{record['split']}/{name.replace('->', '_to_')}": value
            for name, value in record.items()
            if name not in ("step", "epoch", "split")
        }
        self._events.add(record["step"], scalars)


def records_until(path: Path, epochs: float = math.inf) -> list[Record]:
    """Reads the records of a metrics.jsonl of the first `epochs` epochs.

    Raises:
      InputError: a line is no record of a run.
    """
    try:
        return [record for record in read_records(path) if record["epoch"] <= epochs]
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{path} has a line that is no record of a run: put a copy back, or move the file away to go on "
            "without its records."
        ) from error


def read_records(path: Path) -> list[Record]:
    """Reads the records of the metrics.jsonl at `path`, none if it is absent; omits a truncated last line."""
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _line(record: Record) -> str:
    return json.dumps(record, allow_nan=False) + "\n"
