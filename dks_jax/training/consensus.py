"""Agreement of the processes of a job on the steps at which they stop and save."""

import time

import jax

from dks_jax.runtime import hosts

# The approximate time between two exchanges of the processes.
SECONDS_BETWEEN_EXCHANGES = 1.0


class StopConsensus:
    """Makes all processes of a job stop and save at the same step, by an exchange about once a second.

    Each pass over a split has its own instance, because the calls of a pass take about the same time.
    """

    def __init__(self) -> None:
        self._calls = 0
        self._interval = 1
        self._asked = time.perf_counter()

    def on(self, stop: int, save: bool) -> tuple[int, bool]:
        """Combines the wishes of all processes, which must call this method at the same steps.

        Args:
          stop: number of the signal that asked this process to stop; 0 for none.
          save: whether this process finds a checkpoint due.

        Returns:
          (stop, save), the same on all processes.
        """
        if jax.process_count() == 1:
            return stop, save
        self._calls += 1
        if self._calls < self._interval:
            return 0, False
        now = time.perf_counter()
        per_call = (now - self._asked) / self._calls
        stop_all, save_all, slowest = hosts.max_over_processes(stop, save, per_call)
        self._calls, self._asked = 0, now
        # It grows at most fourfold, because the next calls may be slower.
        self._interval = max(1, min(4 * self._interval, int(SECONDS_BETWEEN_EXCHANGES / slowest)))
        return int(stop_all), bool(save_all)
