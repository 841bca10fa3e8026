"""How the processes of a job agree, and the log on the terminal where nobody reads it."""

import os
import subprocess
import sys

import pytest

from dks_jax import hosts, loop
from dks_jax.loop import Agreement


class Clock:
    """Time that passes when it is told to."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    """A job of two processes that are alike; every question is noted with its time."""
    clock = Clock()
    monkeypatch.setattr(loop, "time", clock)
    monkeypatch.setattr(loop.jax, "process_count", lambda: 2)
    clock.asked = []

    def largest(*values):
        clock.asked.append(clock.now)
        return [float(value) for value in values]

    monkeypatch.setattr(hosts, "largest", largest)
    return clock


def longest_silence(clock):
    return max(after - before for before, after in zip([0.0, *clock.asked], clock.asked, strict=False))


def test_quick_calls_are_asked_about_once_a_second(clock):
    agreement = Agreement()
    for _ in range(10_000):
        clock.now += 0.01
        assert agreement.on(0, False) == (0, False)
    assert 80 <= len(clock.asked) <= 120
    assert longest_silence(clock) < 2


def test_slow_calls_after_quick_ones_do_not_silence_the_processes(clock):
    for _ in range(20):
        for seconds, calls in ((1.2, 50), (0.01, 300)):
            agreement = Agreement()
            for _ in range(calls):
                clock.now += seconds
                agreement.on(0, False)
    # Unasked, a preempted job would not be saved in time.
    assert longest_silence(clock) < 3


def test_a_call_that_was_quick_by_chance_silences_nobody_for_long(clock):
    agreement = Agreement()
    for i in range(200):
        clock.now += 0.001 if i % 50 == 0 else 1.2
        agreement.on(0, False)
    # Four times the calls of before at most.
    assert longest_silence(clock) < 5 * 1.2


def test_a_signal_and_a_due_save_reach_all(clock):
    agreement = Agreement()
    clock.now += 5
    assert agreement.on(15, True) == (15, True)


def test_alone_nobody_is_asked(clock, monkeypatch):
    monkeypatch.setattr(loop.jax, "process_count", lambda: 1)
    assert Agreement().on(15, True) == (15, True)
    assert clock.asked == []


def test_training_goes_on_where_nobody_reads_its_log():
    program = """
import sys
from dks_jax.logs import Progress
progress = Progress(1, 0, 1)
for i in range(3):
    progress.say("line" * 10000)
print("still here", file=sys.stderr)
"""
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.run(
        [sys.executable, "-c", program], stdout=writing, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writing)
    assert process.returncode == 0
    assert process.stderr == "still here\n"
