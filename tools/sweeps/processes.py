"""The trainings of a sweep as processes, several at a time."""

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from dks_jax.runtime import output
from dks_jax.runtime.signals import Interrupted, handling
from dks_jax.training import workdir
from sweeps.plan import PlannedRun

# What Python runs to train.
PROGRAM = ("-m", "dks_jax.train")
SECONDS_BETWEEN_LOOKS = 0.1


class Training:
    """A run that has a place among those that train at the same time.

    Args:
      run: the run.
      gpu: value of CUDA_VISIBLE_DEVICES for it; None to leave all devices to it.
    """

    def __init__(self, run: PlannedRun, gpu: str | None):
        self.run = run
        self.log = log_file(run)
        self._environment = os.environ | ({} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu})
        self._process: subprocess.Popen[bytes] | None = None

    def poll(self) -> int | None:
        """The exit status once the run has ended; None while it trains or waits for its workdir.

        A sweep that was killed leaves its trainings, which go on. They are waited for, also where one of them
        has taken the workdir just before the process of this sweep came to it.
        """
        if self._process:
            status = self._process.poll()
            if not status or not workdir.in_use(self.run.folder):
                return status
            self._process = None
        if workdir.in_use(self.run.folder):
            return None
        if self.run.is_finished:
            return 0
        self._start()
        return None

    def _start(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log:
            # In a session of its own, since a terminal sends Ctrl-C to all processes of one, and a training
            # that gets the signal twice does not save.
            self._process = subprocess.Popen(
                [sys.executable, *PROGRAM, *self.run.arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
            )

    @property
    def is_started(self) -> bool:
        """Whether there is a process, which has not been seen to end."""
        return self._process is not None

    def send(self, number: int) -> None:
        """Sends a signal to the process, if there is one."""
        if self._process:
            self._process.send_signal(number)

    def reason(self, status: int) -> str:
        """Why the process has failed: its last line, or the signal that ended it."""
        lines = self.log.read_text(errors="replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "it printed nothing")
        what = f"ended by signal {-status}" if status < 0 else last.removeprefix("error: ").rstrip(".")
        return f"{what} (status {status}, {self.log})"


def log_file(run: PlannedRun) -> Path:
    """The file with what the training of a run prints, beside its workdir."""
    return run.folder.with_name(f"{run.folder.name}.log")


def run_all(runs: Sequence[PlannedRun], parallel: int) -> dict[str, str]:
    """Trains runs in processes, so many at the same time; returns why some failed, by name of the workdir.

    Where several run at the same time and there are GPUs, each has one of them, in turn.

    Raises:
      Interrupted: a signal has come, was passed on to all trainings, and they have ended.
    """
    gpus = visible_gpus() if parallel > 1 else []
    waiting, active = deque(runs), dict[int, Training]()
    failures: dict[str, str] = {}
    received: list[int] = []
    passed_on = 0
    with handling(lambda number, frame: received.append(number)):
        try:
            while active or (waiting and not received):
                for place in range(parallel):
                    if place not in active and waiting and not received:
                        gpu = gpus[place % len(gpus)] if gpus else None
                        active[place] = Training(waiting.popleft(), gpu)
                        name = active[place].run.folder.name
                        output.complain(f"{name}: starts, {len(waiting)} more are waiting")
                for number in received[passed_on:]:
                    passed_on += 1
                    for training in active.values():
                        training.send(number)
                if received:
                    active = {place: own for place, own in active.items() if own.is_started}
                for place, training in list(active.items()):
                    status = training.poll()
                    if status is None:
                        continue
                    del active[place]
                    name = training.run.folder.name
                    if status:
                        failures[name] = training.reason(status)
                    output.complain(f"{name}: {failures.get(name, 'finished')}")
                time.sleep(SECONDS_BETWEEN_LOOKS)
        finally:
            # After an error of the sweep itself, e.g. a full disk.
            for training in active.values():
                training.send(signal.SIGTERM)
    if received:
        raise Interrupted(received[0], "stopped: the same command starts again, and unfinished runs go on")
    return failures


def visible_gpus() -> list[str]:
    """The values of CUDA_VISIBLE_DEVICES that show a process one GPU each; none where JAX has no GPU."""
    # Asked in a process that ends, since JAX reserves the memory of the GPUs that it finds.
    code = "import jax; print(sum(device.platform == 'gpu' for device in jax.local_devices()))"
    result = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    return gpu_names(int(result.stdout), os.environ.get("CUDA_VISIBLE_DEVICES"))


def gpu_names(count: int, visible: str | None) -> list[str]:
    """The names of the GPUs that JAX counts, of which `visible` is the CUDA_VISIBLE_DEVICES of all."""
    return visible.split(",")[:count] if visible else [str(i) for i in range(count)]
