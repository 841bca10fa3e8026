"""Shows the progress of a run on the terminal."""

import sys
import time
from collections.abc import Mapping

from tqdm import tqdm

from dks_jax.reporting.metrics_log import Record
from dks_jax.runtime import output

# In place of the time left by tqdm, which counts compiling.
BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"


class Progress:
    """A progress bar with losses, error, images/s and time left, or lines with them if there is no terminal.

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
        self._bar = tqdm(total=total, initial=done, bar_format=BAR, dynamic_ncols=True, disable=hidden)
        self._total, self._done = total, done
        self._last_line = time.perf_counter()
        # Time and steps of the first call, which compiles; None before it.
        self._first: tuple[float, int] | None = None

    def advance(self, steps: int, epoch: int, means: Mapping[str, float], images_per_second: float) -> None:
        """Adds completed steps and shows the means of the epoch so far.

        Args:
          steps: number of steps of one call of the compiled program.
          epoch: number of the epoch, from 1.
          means: means of its metrics so far.
          images_per_second: speed.
        """
        self._done += steps
        now = time.perf_counter()
        metrics = (
            f"cross-entropy {means['cross_entropy/main']:.4f}, error {means['error']:.2f} %, "
            f"sum of losses {means['loss']:.4g}"
        )
        speed = f"{images_per_second:.0f} images/s"
        if self._first is None:
            self._first = now, self._done
        else:
            begin, at_begin = self._first
            left = (now - begin) / (self._done - at_begin) * (self._total - self._done)
            speed += f", {tqdm.format_interval(left)} left"
        if not self._bar.disable:
            self._bar.set_description(f"epoch {epoch}/{self._num_epochs}", refresh=False)
            # A narrow terminal cuts off the end.
            self._bar.set_postfix_str(f"{speed}, {metrics}", refresh=False)
            self._bar.update(steps)
        elif now - self._last_line > self.SECONDS_BETWEEN_LINES:
            self._last_line = now
            self.say(
                f"epoch {epoch}/{self._num_epochs}, step {self._done}/{self._total}: {metrics}\n  {speed}"
            )

    def end_epoch(self, train: Record, test: Record) -> None:
        """Prints the metrics of an epoch, its records `train` and `test`, in two lines."""
        branches = [
            f"{name.removeprefix('error/')} {value:.2f} %"
            for name, value in test.items()
            if name.startswith("error/") and name != "error/main"
        ]
        parts = [
            *([f"test error of {', '.join(branches)}"] if branches else []),
            f"sum of losses {train['loss']:.3f}, test {test['loss']:.3f}",
            f"{train['images_per_second']:.0f} images/s",
        ]
        first = "; ".join(
            f"{split} cross-entropy {record['cross_entropy/main']:.4f}, error {record['error']:.2f} %"
            for split, record in (("train", train), ("test", test))
        )
        self._last_line = time.perf_counter()
        self.say(f"epoch {train['epoch']}/{self._num_epochs}: {first}\n  {'; '.join(parts)}")

    def warn_of_waiting(self, epoch: int, waited: float, working: float) -> None:
        """Warns once if the device waited for input; `waited` and `working` are the seconds of an epoch."""
        share = waited / (waited + working) if waited else 0.0
        if not self._warned and share > self.WAITING_SHARE and waited > self.WAITING_SECONDS:
            self._warned = True
            self.say(
                f"warning: input took {100 * share:.0f} % of epoch {epoch}: use data.streamed=False, smaller "
                "images or more CPU cores"
            )

    def say(self, line: str) -> None:
        """Prints a line without disturbing the bar."""
        if self._quiet:
            return
        with output.unread():
            tqdm.write(line, file=sys.stdout)

    def close(self) -> None:
        """Ends the bar and leaves it on the screen."""
        self._bar.close()
