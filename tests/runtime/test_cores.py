"""The number of cores on systems with and without a limit for each process."""

import os

from dks_jax.runtime.cores import num_cores


def test_the_limit_of_the_process_counts(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3}, raising=False)
    assert num_cores() == 2


def test_without_such_a_limit_all_cores_count(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    assert num_cores() == 12
