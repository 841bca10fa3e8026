"""What a run leaves to read: metrics.jsonl, TensorBoard events, and progress on the terminal."""

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dks_jax.errors import InputError
from dks_jax.events import EventFile
from dks_jax.files import naming, replacing

Record = dict[str, Any]


class MetricsLog:
    """metrics.jsonl and the TensorBoard events of a run, in step with each other.

    Args:
      folder: of the run.
      epochs: lines of later epochs are dropped: a run that was stopped between its log and its checkpoint
        repeats them.
      steps_per_epoch: of the run.
    """

    def __init__(self, folder: Path, epochs: int, steps_per_epoch: int):
        self._path = folder / "metrics.jsonl"
        try:
            self.records = [record for record in read_records(self._path) if record["epoch"] <= epochs]
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(
                f"{self._path} has a line that is no record of a run: put a copy back, or move the file away "
                "to go on without what it has logged."
            ) from error
        with replacing(self._path) as partial:
            partial.write_text("".join(_line(record) for record in self.records))
        self._events = EventFile(folder, epochs * steps_per_epoch + 1)

    def add(self, record: Record) -> None:
        """Appends one line, and its figures as scalars <split>/<name>."""
        self.records.append(record)
        with naming(self._path), self._path.open("a") as file:
            file.write(_line(record))
        # TensorBoard allows no ">" in a name.
        scalars = {
            f"{record['split']}/{name.replace('->', '_to_')}": value
            for name, value in record.items()
            if name not in ("step", "epoch", "split")
        }
        self._events.add(record["step"], scalars)


def read_records(path: Path) -> list[Record]:
    """The lines of a metrics.jsonl, none where there is no file; a last line cut short is left out."""
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _line(record: Record) -> str:
    return json.dumps(record, allow_nan=False) + "\n"


class Progress:
    """A bar over all steps of a run with loss, error, images/s and time left; lines without a terminal.

    Args:
      total: steps of the whole run.
      done: steps that an earlier part of the run has made.
      num_epochs: of the whole run.
      quiet: whether to show nothing.
    """

    SECONDS_BETWEEN_LINES = 30.0

    # Below, waiting for input is no matter.
    WAITING_SHARE, WAITING_SECONDS = 0.1, 1.0

    def __init__(self, total: int, done: int, num_epochs: int, *, quiet: bool = False):
        self._num_epochs = num_epochs
        self._quiet = quiet
        self._warned = False
        hidden = quiet or not sys.stderr.isatty()
        self._bar = tqdm(total=total, initial=done, unit="step", dynamic_ncols=True, disable=hidden)
        self._total, self._done, self._at_start = total, done, done
        self._start = self._last_line = time.perf_counter()

    def advance(self, steps: int, epoch: int, means: Mapping[str, float], images_per_second: float) -> None:
        """Counts `steps` more, and shows the means of the epoch so far."""
        self._done += steps
        state = f"loss {means['loss']:.4g}, error {means['error']:.2f} %, {images_per_second:.0f} images/s"
        now = time.perf_counter()
        if not self._bar.disable:
            self._bar.set_description(f"epoch {epoch}/{self._num_epochs}", refresh=False)
            self._bar.set_postfix_str(state, refresh=False)
            self._bar.update(steps)
        elif now - self._last_line > self.SECONDS_BETWEEN_LINES:
            self._last_line = now
            left = (now - self._start) / (self._done - self._at_start) * (self._total - self._done)
            self.say(
                f"epoch {epoch}/{self._num_epochs}, step {self._done}/{self._total}: {state}, "
                f"{tqdm.format_interval(left)} left"
            )

    def end_epoch(self, train: Record, test: Record) -> None:
        """One line with the figures of an epoch."""
        branches = ", ".join(
            f"{name.removeprefix('error/')} {value:.2f} %"
            for name, value in test.items()
            if name.startswith("error/") and name != "error/main"
        )
        self._last_line = time.perf_counter()
        self.say(
            f"epoch {train['epoch']}/{self._num_epochs}: train loss {train['loss']:.4f}, error "
            f"{train['error']:.2f} %; test loss {test['loss']:.4f}, error {test['error']:.2f} %"
            + (f" ({branches})" if branches else "")
            + f"; {train['images_per_second']:.0f} images/s"
        )

    def warn_of_waiting(self, epoch: int, waited: float, working: float) -> None:
        """Says once where the device has stood still for want of input; seconds of an epoch."""
        share = waited / (waited + working) if waited else 0.0
        if not self._warned and share > self.WAITING_SHARE and waited > self.WAITING_SECONDS:
            self._warned = True
            self.say(
                f"warning: in epoch {epoch} the device waited for input {100 * share:.0f} % of the time: "
                "keep the images in memory (data.streamed=False), store smaller ones, or use more CPU cores"
            )

    def say(self, line: str) -> None:
        """Prints a line without disturbing the bar."""
        if self._quiet:
            return
        try:
            tqdm.write(line, file=sys.stdout)
            sys.stdout.flush()
        except BrokenPipeError:
            # Whoever was reading is gone; training goes on.
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115

    def close(self) -> None:
        """Leaves the bar as it is."""
        self._bar.close()
