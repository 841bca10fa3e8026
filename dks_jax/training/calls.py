"""Calls of a compiled step, of which the devices have the next one before the host looks at the last."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from dks_jax.data.feeds import Chunk
from dks_jax.reporting.measurements import History, Stopwatch
from dks_jax.training.steps import Fetch


class Call(NamedTuple):
    """A call that has been started.

    asked, started: moments at which its chunk was asked for and was there.
    result: the measurements and the moment at which they were there.
    """

    chunk: Chunk
    asked: float
    started: float
    result: Future[tuple[History, float]]


class Calls:
    """The calls of one pass over a split, whose measurements come in order.

    The measurements of a call of one batch are taken after the next call has been started, so that the
    devices do not wait for the host. A call of several batches takes so long that it is waited for.

    Args:
      chunks: chunks of the pass.
      watch: stopwatch that every call is added to.
      take: what to do with a chunk and its measurements.
    """

    def __init__(self, chunks: Iterable[Chunk], watch: Stopwatch, take: Callable[[Chunk, History], None]):
        self._chunks = chunks
        self._watch = watch
        self._take = take
        self._in_flight: deque[Call] = deque()
        self._asked = self._started = 0.0
        # Only a thread that waits notices the moment at which a call ends.
        self._fetcher = ThreadPoolExecutor(1)

    def __iter__(self) -> Iterator[Chunk]:
        """Yields each chunk, for which the caller then calls `add`; at the end all calls are finished."""
        chunks = iter(self._chunks)
        try:
            while True:
                self._asked = time.perf_counter()
                if (chunk := next(chunks, None)) is None:
                    break
                self._started = time.perf_counter()
                yield chunk
            self.finish()
        finally:
            self._fetcher.shutdown(wait=False)

    def add(self, chunk: Chunk, fetch: Fetch) -> None:
        """Adds the call that has been started for the last chunk, and takes the measurements that are due."""

        def timed() -> tuple[History, float]:
            return fetch(), time.perf_counter()

        self._in_flight.append(Call(chunk, self._asked, self._started, self._fetcher.submit(timed)))
        self._finish(left=1 if chunk.num_batches == 1 else 0)

    def finish(self) -> None:
        """Waits for the calls that have been started, and takes their measurements."""
        self._finish(left=0)

    def _finish(self, left: int) -> None:
        while len(self._in_flight) > left:
            chunk, asked, started, result = self._in_flight.popleft()
            history, ended = result.result()
            self._watch.add(chunk.batch_size, int(history["examples"].sum()), asked, started, ended)
            self._take(chunk, history)
