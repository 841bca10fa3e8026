"""Calls that are started before the measurements of the last one are taken."""

import numpy as np
import pytest

from dks_jax.data.feeds import Chunk
from dks_jax.reporting import Stopwatch
from dks_jax.training.calls import Calls


def chunks(*counts):
    first = 0
    for count in counts:
        yield Chunk(None, first, count, 4)
        first += count


def events_of(*counts, finish_after=()):
    """What happens in order: ("start" or "take", number of the chunk's first batch)."""
    events = []

    def fetch(chunk):
        return {"examples": np.full(chunk.num_batches, 4.0), "first": np.full(1, chunk.first)}

    def take(chunk, history):
        assert history["first"] == chunk.first
        events.append(("take", chunk.first))

    calls = Calls(chunks(*counts), Stopwatch(), take)
    for chunk in calls:
        events.append(("start", chunk.first))
        calls.add(chunk, lambda chunk=chunk: fetch(chunk))
        if chunk.first in finish_after:
            calls.finish()
    return events


def test_measurements_are_taken_one_call_late():
    expected = [("start", 0), ("start", 1), ("take", 0), ("start", 2), ("take", 1), ("take", 2)]
    assert events_of(1, 1, 1) == expected


def test_calls_of_several_batches_are_waited_for():
    expected = [("start", 0), ("start", 1), ("take", 0), ("take", 1), ("start", 5), ("take", 5)]
    assert events_of(1, 4, 4) == expected


def test_all_calls_can_be_finished_in_between():
    expected = [("start", 0), ("start", 1), ("take", 0), ("take", 1), ("start", 2), ("take", 2)]
    assert events_of(1, 1, 1, finish_after=[1]) == expected


def test_an_error_of_a_call_comes_with_its_measurements():
    def fail():
        raise RuntimeError("the device failed")

    calls = Calls(chunks(1, 1, 1), Stopwatch(), lambda *_: None)
    started = iter(calls)
    calls.add(next(started), fail)
    second = next(started)
    with pytest.raises(RuntimeError, match="the device failed"):
        calls.add(second, fail)
