"""What a run says on the terminal: the cross-entropy first, in 100 columns, and an honest time left."""

import pytest

from dks_jax.reporting import progress as module
from dks_jax.reporting.progress import Progress

MEANS = {"loss": 5.25, "cross_entropy/main": 2.302585, "error": 90.0, "error/main": 90.0}


class Clock:
    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def record(split, **errors):
    named = {f"error/{name}": value for name, value in errors.items()}
    return {"split": split, "epoch": 100, "images_per_second": 12345.6, **MEANS, **named}


@pytest.mark.parametrize("branches", [{}, {"branch1": 100.0, "branch2": 100.0}])
def test_an_epoch_fits_100_columns_and_leads_with_the_cross_entropy(branches, capsys):
    progress = Progress(10, 0, 100)
    progress.end_epoch(record("train", **branches), record("test", **branches))
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(
        "epoch 100/100: train cross-entropy 2.3026, error 90.00 %; test cross-entropy 2.3026"
    )
    assert "sum of losses 5.25" in second
    assert all(name in second for name in branches)
    assert max(len(first), len(second)) <= 100


def test_the_time_left_does_not_count_compiling(clock, capsys):
    progress = Progress(1000, 100, 10)
    # A minute of compiling, then a second for every step.
    clock.now = 60
    progress.advance(10, 2, MEANS, 50.0)
    assert "left" not in capsys.readouterr().out
    clock.now += 40
    progress.advance(40, 2, MEANS, 50.0)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("epoch 2/10, step 150/1000: cross-entropy 2.3026")
    assert "sum of losses 5.25" in first
    # 850 steps.
    assert second.endswith("14:10 left")


def test_the_bar_shows_the_same(clock, monkeypatch, capsys):
    monkeypatch.setattr(module.sys.stderr, "isatty", lambda: True)
    progress = Progress(1000, 100, 10)
    clock.now = 60
    progress.advance(10, 2, MEANS, 50.0)
    clock.now += 40
    progress.advance(40, 2, MEANS, 50.0)
    progress._bar.refresh()
    progress.close()
    shown = capsys.readouterr().err.split("\r")[-1]
    assert "150/1000" in shown
    assert "cross-entropy 2.3026" in shown
    assert "14:10 left" in shown
