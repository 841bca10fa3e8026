"""Means over an epoch by hand, speed, and the report of a divergence."""

import json
import time

import numpy as np
import pytest

from dks_jax import metrics
from dks_jax.logs import Progress
from dks_jax.metrics import EpochMeans, Stopwatch


def history(examples, loss, main, branch1):
    return {
        "examples": np.array(examples, np.float32),
        "loss": np.array(loss, np.float32),
        "errors/main": np.array(main, np.float32),
        "errors/branch1": np.array(branch1, np.float32),
    }


def test_a_smaller_last_batch_weighs_less():
    means = metrics.EpochMeans()
    means.add(history([8, 8], [1.0, 2.0], [4, 0], [8, 8]))
    means.add(history([4], [3.0], [1], [0]))
    # Loss (8 * 1 + 8 * 2 + 4 * 3) / 20 = 1.8; errors 5 and 16 of 20.
    assert means.num_examples == 20
    assert means.result() == pytest.approx(
        {"loss": 1.8, "error": 25.0, "error/main": 25.0, "error/branch1": 80.0}
    )


def test_the_means_do_not_depend_on_the_chunks():
    losses = np.random.default_rng(0).normal(size=12).tolist()
    whole, parts = metrics.EpochMeans(), metrics.EpochMeans()
    whole.add(history([3] * 12, losses, [1] * 12, [0] * 12))
    for loss in losses:
        parts.add(history([3], [loss], [1], [0]))
    assert whole.result() == parts.result()


def test_compilation_does_not_count_as_speed():
    watch = metrics.Stopwatch()
    watch.add(batch_size=8, num_images=8, seconds=10.0)  # with compilation
    assert watch.images_per_second == pytest.approx(0.8)
    watch.add(batch_size=8, num_images=32, seconds=2.0)
    assert watch.images_per_second == pytest.approx(16.0)
    watch.reset()
    watch.add(batch_size=8, num_images=8, seconds=1.0)  # compiled before the reset
    assert watch.images_per_second == pytest.approx(8.0)


def test_a_divergence_names_the_first_bad_batch_and_its_values():
    bad = history([8, 8, 8], [1.0, np.nan, 2.0], [4, 0, 0], [8, 8, 8])
    with pytest.raises(metrics.DivergedError, match=r"diverged at step 7 \(epoch 2\): loss = nan; lower"):
        metrics.require_finite(bad, 6, "step {} (epoch 2)")
    metrics.require_finite(history([8], [1.0], [4], [8]), 1, "step {}")


def test_means_go_on_from_a_saved_state_as_if_they_had_not_stopped():
    random = np.random.default_rng(0)
    history = {name: random.random(10).astype(np.float32) for name in ("loss", "cross_entropy/main")}
    history |= {"examples": np.full(10, 8.0, np.float32), "errors/main": random.integers(0, 8, 10)}

    def part(begin, end):
        return {name: values[begin:end] for name, values in history.items()}

    whole, first = EpochMeans(), EpochMeans()
    whole.add(history)
    first.add(part(0, 3))
    second = EpochMeans(json.loads(json.dumps(first.state())))
    second.add(part(3, 10))
    assert second.result() == whole.result()
    assert second.state() == whole.state()


def test_waiting_counts_the_time_until_input_comes():
    watch = Stopwatch()

    def slow():
        for i in range(3):
            time.sleep(0.05)
            yield i

    begin = time.perf_counter()
    for _ in watch.waiting(slow()):
        time.sleep(0.1)
    assert 0.15 <= watch.waited < time.perf_counter() - begin - 0.3 + 0.01
    watch.reset()
    assert watch.waited == 0


@pytest.mark.parametrize(
    ("waited", "working", "warns"), [(2, 10, True), (1.5, 20, False), (0.5, 0.5, False), (0, 0, False)]
)
def test_waiting_for_more_than_a_tenth_of_the_time_is_said_once(waited, working, warns, capsys):
    progress = Progress(10, 0, 1)
    progress.warn_of_waiting(3, waited, working)
    progress.warn_of_waiting(4, waited, working)
    output = capsys.readouterr().out
    assert output.count("warning: in epoch 3 the device waited for input 17 % of the time") == warns
    assert output.count("\n") == warns
