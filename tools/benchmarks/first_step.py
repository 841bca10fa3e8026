"""What `python -m dks_jax.train` does up to its first finished step, and the seconds that its parts take.

Run as a program with the time of its start, by time.monotonic(), and the flags of the training. The last line
that it prints is a JSON object of the parts in order: imports, config, data, network, state, tracing,
compiling, step.
"""

import json
import sys
import time
from typing import Any, NoReturn

TRACED = "/jax/core/compile/jaxpr_trace_duration"
LOWERED = "/jax/core/compile/jaxpr_to_mlir_module_duration"
COMPILED = "/jax/core/compile/backend_compile_duration"
NUM_TRAIN, NUM_HELD_OUT = 1437, 360


class FinishedError(Exception):
    """The first step is finished."""


class Parts:
    """The seconds that one part after another has taken, the first one since `started`."""

    def __init__(self, started: float):
        self.seconds: dict[str, float] = {}
        self._last = started

    def end(self, part: str) -> float:
        """Ends a part; returns its seconds."""
        now = time.monotonic()
        self.seconds[part] = now - self._last
        self._last = now
        return self.seconds[part]


def main(started: float, arguments: list[str]) -> int:
    """Trains until the first step is finished; returns the exit status."""
    parts = Parts(started)
    # In this order: the stand-ins for absent packages come before dks_jax.
    import benchmarks  # noqa: F401, I001
    import jax
    from dks_jax import data, logs, loop, train
    from dks_jax.steps import Steps

    parts.end("imports")
    logs.tqdm = _NoBar
    load, prepare, first_step = data.load, loop.prepare, Steps.train

    def timed_load(config: Any) -> Any:
        parts.end("config")
        try:
            return load(config)
        except ModuleNotFoundError:
            return _random_data(config)
        finally:
            parts.end("data")

    def timed_prepare(*arguments: Any, **keywords: Any) -> Any:
        try:
            return prepare(*arguments, **keywords)
        finally:
            parts.end("network")

    def timed_step(*arguments: Any) -> NoReturn:
        parts.end("state")
        durations: dict[str, list[float]] = {TRACED: [0.0], LOWERED: [], COMPILED: []}

        def note(event: str, duration_secs: float, **_: Any) -> None:
            if event in durations:
                durations[event].append(duration_secs)

        jax.monitoring.register_event_duration_secs_listener(note)
        first_step(*arguments)
        whole = parts.end("step")
        # The time to trace a function holds that of the functions inside of it.
        tracing = max(durations[TRACED]) + sum(durations[LOWERED])
        compiling = sum(durations[COMPILED])
        parts.seconds |= {
            "tracing": tracing,
            "compiling": compiling,
            "step": whole - tracing - compiling,
        }
        raise FinishedError

    # Around what the training itself calls, so that no part of it is left out here.
    data.load, loop.prepare = timed_load, timed_prepare
    setattr(Steps, "train", timed_step)  # noqa: B010
    try:
        return train.main(arguments)
    except FinishedError:
        order = ("imports", "config", "data", "network", "state", "tracing", "compiling", "step")
        print(json.dumps({part: parts.seconds[part] for part in order}))
        return 0


class _NoBar:
    """In the place of tqdm, which may be absent: a bar that is hidden."""

    disable = True

    def __init__(self, **_: Any):
        pass

    @staticmethod
    def write(line: str, file: Any = None) -> None:
        """Says nothing."""

    def close(self) -> None:
        """Nothing to close."""


def _random_data(config: Any) -> Any:
    """As many images as there are digits, for where the package that holds those is absent."""
    import numpy as np

    from dks_jax.data.images import ImageData, Split

    random = np.random.default_rng(0)
    shape = config.image_size, config.image_size, len(config.mean)
    train, test = (
        Split(random.integers(0, 256, (n, *shape), np.uint8), random.integers(0, 10, n, np.int32))
        for n in (NUM_TRAIN, NUM_HELD_OUT)
    )
    return ImageData(train, test, tuple("0123456789"))


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
