"""From measurements per batch to the figures of an epoch."""

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np

from dks_jax.errors import InputError

T = TypeVar("T")
# By name, one value per batch: "examples", the number of examples in the batch; "loss" and its terms, means
# over them; "errors/<classifier>", how many top-1 answers are wrong.
History = Mapping[str, np.ndarray]


class EpochMeans:
    """Running means over the examples of an epoch, in float64.

    Args:
      state: what `state` of another one gave, to go on from there.
    """

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        self.num_examples: int = state["num_examples"] if state else 0
        self._sums: dict[str, float] = defaultdict(float, state["sums"] if state else {})

    def state(self) -> dict[str, Any]:
        """What there is so far, as JSON can hold it."""
        return {"num_examples": self.num_examples, "sums": dict(self._sums)}

    def add(self, history: History) -> None:
        """Takes in some batches."""
        examples = history["examples"].astype(np.float64)
        self.num_examples += int(examples.sum())
        for name, values in history.items():
            if name.startswith("errors/"):
                self._sums[name.replace("errors/", "error/")] += 100.0 * float(values.sum())
            elif name != "examples":
                # One by one, so that the sum does not depend on how the epoch came in chunks.
                for term in values * examples:
                    self._sums[name] += float(term)

    def result(self) -> dict[str, float]:
        """The mean "loss" and its terms; the top-1 error in % of every classifier as "error/<classifier>",
        that of the main one as "error" too."""
        means = {name: total / self.num_examples for name, total in self._sums.items()}
        return {"loss": means["loss"], "error": means["error/main"], **means}


class Stopwatch:
    """Images per second, over the calls of a compiled function that do not compile it; time spent waiting.

    waited: seconds since `reset` in which the device had nothing to do because its input was not there.
    """

    def __init__(self) -> None:
        self._compiled: set[int] = set()
        self.reset()

    def reset(self) -> None:
        """Forgets the times, but not what has been compiled."""
        self._images = self._seconds = 0.0
        self._images_compiling = self._seconds_compiling = 0.0
        self.waited = 0.0

    def waiting(self, chunks: Iterable[T]) -> Iterator[T]:
        """The chunks; the time that each takes to come counts as waited."""
        iterator = iter(chunks)
        while True:
            begin = time.perf_counter()
            try:
                chunk = next(iterator)
            except StopIteration:
                return
            finally:
                self.waited += time.perf_counter() - begin
            yield chunk

    def add(self, batch_size: int, num_images: int, seconds: float) -> None:
        """Takes in a call with batches of this size; the first call with a size compiles."""
        if batch_size in self._compiled:
            self._images += num_images
            self._seconds += seconds
        else:
            self._compiled.add(batch_size)
            self._images_compiling += num_images
            self._seconds_compiling += seconds

    @property
    def images_per_second(self) -> float:
        """Since `reset`; compilation counts only where there is no other call to go by; 0 without a call."""
        if self._seconds:
            return self._images / self._seconds
        return self._images_compiling / self._seconds_compiling if self._seconds_compiling else 0.0

    @property
    def working(self) -> float:
        """Seconds spent in calls since `reset`."""
        return self._seconds + self._seconds_compiling


class DivergedError(InputError):
    """A loss that is no longer finite."""


def require_finite(history: History, first: int, where: str) -> None:
    """Raises DivergedError for the first batch with a value that is NaN or infinite, and names the values.

    Args:
      first: number of the history's first batch, for the message.
      where: what the batches are, for the message, e.g. "step {} (epoch 2)", the number in the braces.
    """
    finite = np.all([np.isfinite(values) for values in history.values()], axis=0)
    if not finite.all():
        i = int(np.argmin(finite))
        bad = [f"{name} = {values[i]}" for name, values in history.items() if not np.isfinite(values[i])]
        raise DivergedError(
            f"The training diverged at {where.format(first + i)}: {', '.join(bad)}; lower "
            "`optimizer.learning_rate` or check the data, and start again in a new workdir."
        )
