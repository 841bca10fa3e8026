"""How the processes of a job agree, and the log on the terminal where nobody reads it."""

import os
import sys

import pytest

from dks_jax.reporting.progress import Progress
from dks_jax.runtime import hosts
from dks_jax.training import consensus
from dks_jax.training.consensus import StopConsensus


class Clock:
    """Time that passes as the tests say; every question to the other processes is noted with its time."""

    def __init__(self):
        self.now, self.asked = 0.0, []

    def perf_counter(self):
        return self.now

    def max_over_processes(self, *values):
        self.asked.append(self.now)
        return [float(value) for value in values]

    @property
    def longest_silence(self):
        return max(after - before for before, after in zip([0.0, *self.asked], self.asked, strict=False))


@pytest.fixture
def clock(monkeypatch):
    """A job of two processes that are alike."""
    clock = Clock()
    monkeypatch.setattr(consensus, "time", clock)
    monkeypatch.setattr(consensus.jax, "process_count", lambda: 2)
    monkeypatch.setattr(hosts, "max_over_processes", clock.max_over_processes)
    return clock


# (seconds of the calls of a pass, passes, longest silence). Unasked, a preempted job is not saved in time.
CALLS = {
    "quick": ([0.01] * 10_000, 1, 2),
    "slow and quick by turns": (None, 40, 3),
    # Four times the calls of before at most.
    "quick by chance": ([0.001 if i % 50 == 0 else 1.2 for i in range(200)], 1, 5 * 1.2),
}


@pytest.mark.parametrize("calls", CALLS)
def test_processes_are_asked_about_once_a_second(clock, calls):
    seconds, passes, longest = CALLS[calls]
    for i in range(passes):
        agreement = StopConsensus()
        for duration in seconds or ([0.01] * 300 if i % 2 else [1.2] * 50):
            clock.now += duration
            assert agreement.on(0, False) == (0, False)
    assert clock.longest_silence < longest
    if calls == "quick":
        assert 80 <= len(clock.asked) <= 120


def test_a_signal_and_a_due_save_reach_all(clock, monkeypatch):
    agreement = StopConsensus()
    clock.now += 5
    assert agreement.on(15, True) == (15, True)
    assert len(clock.asked) == 1
    # Alone nobody is asked.
    monkeypatch.setattr(consensus.jax, "process_count", lambda: 1)
    assert StopConsensus().on(15, True) == (15, True)
    assert len(clock.asked) == 1


def closed_pipe():
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def closed_terminal():
    master, slave = os.openpty()
    os.close(master)
    return slave


@pytest.mark.parametrize("reader", [closed_pipe, closed_terminal])
def test_training_goes_on_where_nobody_reads_its_log(reader, monkeypatch):
    with os.fdopen(reader(), "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        progress = Progress(1, 0, 1)
        for _ in range(3):
            progress.say("line" * 10000)
        # It has met the closed end, and writes elsewhere since.
        assert os.path.samestat(os.fstat(stdout.fileno()), os.stat(os.devnull))
