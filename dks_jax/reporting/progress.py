"""Shows the progress of a run on the terminal."""

import os
import sys
import time
from collections.abc import Mapping

from tqdm import tqdm

from dks_jax.reporting.metrics_log import Record


class Progress:
    """A progress bar with loss, error, images/s and time left, or lines with them if there is no terminal.

    Args:
      total: number of steps in the run, including those of earlier starts.
      done: number of steps that earlier starts have completed.
      num_epochs: number of epochs in the run.
      quiet: whether to show nothing.
    """

    SECONDS_BETWEEN_LINES = 30.0
    # Waiting for input is not worth a warning below this share of the time or these seconds per epoch.
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
        """Adds completed steps and shows the means of the epoch so far."""
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
        """Prints the metrics of an epoch in one line."""
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
        """Warns once if the device waited for input; `waited` and `working` are the seconds of an epoch."""
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
            # The reader of the output is gone, but training continues.
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115

    def close(self) -> None:
        """Ends the bar and leaves it on the screen."""
        self._bar.close()
