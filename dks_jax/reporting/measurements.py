"""Combines the measurements of batches into the metrics of an epoch."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import numpy as np

from dks_jax.runtime.errors import InputError

T = TypeVar("T")
# One value per batch for each name: "examples" is the number of examples in the batch, "loss" and its terms
# are means over the examples, "errors/<classifier>" is the number of wrong top-1 predictions, "count/..." are
# the numbers of `training.steps.label_noise_counts`, and "gaps/<bin>" is the sum of correctness minus
# confidence of the main classifier; see `calibration_error`.
History = Mapping[str, np.ndarray]
# Number of equal bins of confidence for the expected calibration error.
ECE_BINS = 15


def calibration_error(gaps: Iterable[float], num_examples: int) -> float:
    """The expected calibration error, 0 to 1.

    Bin m of M holds the confidences above (m - 1) / M and up to m / M.

    Args:
      gaps: sum of correctness (0 or 1) minus confidence over the examples in each bin.
      num_examples: number of examples in all bins.

    Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017, equation 3.
    """
    return math.fsum(map(abs, gaps)) / num_examples


class EpochMeans:
    """Running means over the examples of an epoch, in float64.

    Args:
      state: result of `state` of another instance, to continue from; None to start with no batch.
    """

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        self.num_examples: int = state["num_examples"] if state else 0
        self._sums: dict[str, float] = defaultdict(float, state["sums"] if state else {})

    def state(self) -> dict[str, Any]:
        """The sums so far, in a form that JSON can hold."""
        return {"num_examples": self.num_examples, "sums": dict(self._sums)}

    def add(self, history: History) -> None:
        """Adds the measurements of batches; `history` has one value per batch for each name."""
        examples = history["examples"].astype(np.float64)
        self.num_examples += int(examples.sum())
        for name, values in history.items():
            if name.startswith("errors/"):
                self._sums[name.replace("errors/", "error/")] += 100.0 * float(values.sum())
            elif name.startswith("count/"):
                self._sums[name] += float(values.sum())
            elif name != "examples":
                # Added one by one, so that the sum does not depend on how the epoch is cut into chunks.
                for term in values if name.startswith("gaps/") else values * examples:
                    self._sums[name] += float(term)

    def result(self) -> dict[str, float]:
        """The means of "loss" and its terms, the top-1 errors in %, and "ece/main" where gaps were added.

        "error/<classifier>" is the error of a classifier; "error" is the error of the main one. Where labels
        are wrong, "label_noise/clean_error" and "label_noise/wrong_error" are its errors in the true classes
        of the images with right and with wrong labels, and "label_noise/memorised" is the share of the wrong
        labels that it predicts, in %.
        """
        apart = ("count/", "gaps/")
        sums = {name: total for name, total in self._sums.items() if not name.startswith(apart)}
        means = {name: total / self.num_examples for name, total in sums.items()}
        gaps = [total for name, total in self._sums.items() if name.startswith("gaps/")]
        if gaps:
            means["ece/main"] = calibration_error(gaps, self.num_examples)
        return {"loss": means["loss"], "error": means["error/main"], **means, **self._label_noise()}

    def _label_noise(self) -> dict[str, float]:
        counts = {name.removeprefix("count/"): own for name, own in self._sums.items() if "count/" in name}
        if not counts.get("wrong"):
            return {}
        clean = max(1, self.num_examples - counts["wrong"])
        return {
            "label_noise/clean_error": 100 * counts["clean_errors"] / clean,
            "label_noise/wrong_error": 100 * counts["wrong_errors"] / counts["wrong"],
            "label_noise/memorised": 100 * counts["memorised"] / counts["wrong"],
        }


class Stopwatch:
    """Measures the images per second of a compiled function, and the time that devices wait for input.

    Calls may be started before the previous one has ended; the devices work on one after the other.

    Attributes:
      waited: seconds since `reset` in which the devices were idle because their input was not ready.
    """

    def __init__(self) -> None:
        self._compiled: set[int] = set()
        self.reset()

    def reset(self) -> None:
        """Resets the times, but not the record of what has been compiled."""
        self._images = self._seconds = 0.0
        self._images_compiling = self._seconds_compiling = 0.0
        self._ended = 0.0
        self.waited = 0.0

    def add(self, batch_size: int, num_images: int, asked: float, started: float, ended: float) -> None:
        """Adds a call with batches of this size; the first call with a size compiles.

        Args:
          batch_size: number of images in a batch of the call.
          num_images: number of images that the call processed.
          asked: moment, by `time.perf_counter`, at which its input was asked for.
          started: moment at which the input was there and the call was started.
          ended: moment at which its result was there.
        """
        self.waited += max(0.0, started - max(asked, self._ended))
        seconds = ended - max(started, self._ended)
        self._ended = ended
        if batch_size in self._compiled:
            self._images += num_images
            self._seconds += seconds
        else:
            self._compiled.add(batch_size)
            self._images_compiling += num_images
            self._seconds_compiling += seconds

    @property
    def images_per_second(self) -> float:
        """Images per second since `reset`, 0 without a call.

        Calls that compile count only if there is no other call.
        """
        if self._seconds:
            return self._images / self._seconds
        return self._images_compiling / self._seconds_compiling if self._seconds_compiling else 0.0

    @property
    def working(self) -> float:
        """Seconds spent in calls since `reset`."""
        return self._seconds + self._seconds_compiling


class DivergedError(InputError):
    """The loss is no longer finite."""


def require_finite(history: History, first: int, where: str) -> None:
    """Raises DivergedError for the first batch with a NaN or infinite value; the message names all of these.

    Args:
      history: measurements of consecutive batches.
      first: number of the first of these batches, for the message.
      where: description of a batch for the message, with braces for its number, e.g. "step {} (epoch 2)".
    """
    finite = np.all([np.isfinite(values) for values in history.values()], axis=0)
    if not finite.all():
        i = int(np.argmin(finite))
        bad = [f"{name} = {values[i]}" for name, values in history.items() if not np.isfinite(values[i])]
        raise DivergedError(
            f"The training diverged at {where.format(first + i)}: {', '.join(bad)}; lower "
            "`optimizer.learning_rate` or check the data, and start again in a new workdir."
        )
