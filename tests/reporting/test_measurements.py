"""Means over an epoch by hand, speed, and the report of a divergence."""

import json

import numpy as np
import pytest

from dks_jax.reporting import measurements as metrics
from dks_jax.reporting.progress import Progress


def history(examples, loss, main, branch1):
    values = {"examples": examples, "loss": loss, "errors/main": main, "errors/branch1": branch1}
    return {name: np.array(value, np.float32) for name, value in values.items()}


def test_a_smaller_last_batch_weighs_less():
    means = metrics.EpochMeans()
    means.add(history([8, 8], [1.0, 2.0], [4, 0], [8, 8]))
    means.add(history([4], [3.0], [1], [0]))
    # Loss (8 * 1 + 8 * 2 + 4 * 3) / 20 = 1.8; errors 5 and 16 of 20.
    assert means.num_examples == 20
    assert means.result() == pytest.approx(
        {"loss": 1.8, "error": 25.0, "error/main": 25.0, "error/branch1": 80.0}
    )


def test_calibration_adds_up_the_gaps_of_a_bin_before_it_takes_their_size():
    means = metrics.EpochMeans()
    for first, second in ((0.5, -0.25), (-1.5, -0.5)):
        gaps = {"gaps/0": np.array([first]), "gaps/1": np.array([second])}
        means.add(history([4], [1.0], [1], [0]) | gaps)
    # (|0.5 - 1.5| + |-0.25 - 0.5|) / 8.
    assert means.result()["ece/main"] == pytest.approx(1.75 / 8)
    assert not [name for name in means.result() if name.startswith("gaps")]


def test_means_do_not_depend_on_chunks_and_go_on_from_a_saved_state():
    losses = np.random.default_rng(0).normal(size=12).tolist()
    whole, parts = metrics.EpochMeans(), metrics.EpochMeans()
    whole.add(history([3] * 12, losses, [1] * 12, [0] * 12))
    for loss in losses:
        parts = metrics.EpochMeans(json.loads(json.dumps(parts.state())))
        parts.add(history([3], [loss], [1], [0]))
    assert whole.result() == parts.result()
    assert whole.state() == parts.state()


def add(watch, asked, started, ended, num_images=8):
    watch.add(8, num_images, asked, started, ended)


def test_compilation_does_not_count_as_speed():
    watch = metrics.Stopwatch()
    add(watch, 1, 1, 11)  # with compilation
    assert watch.images_per_second == pytest.approx(0.8)
    add(watch, 11, 11, 13, num_images=32)
    assert watch.images_per_second == pytest.approx(16.0)
    watch.reset()
    add(watch, 20, 20, 21)  # compiled before the reset
    assert watch.images_per_second == pytest.approx(8.0)


def test_a_call_begins_when_the_one_before_has_ended():
    watch = metrics.Stopwatch()
    add(watch, 0, 0, 4)  # with compilation
    add(watch, 1, 2, 6)
    add(watch, 5, 5, 8)
    assert watch.images_per_second == pytest.approx(16 / (2 + 2))
    assert watch.working == 8
    assert watch.waited == 0


def test_waiting_is_the_time_for_which_devices_without_work_wait_for_input():
    watch = metrics.Stopwatch()
    add(watch, 10, 11, 12)  # for the first input
    assert watch.waited == pytest.approx(1)
    add(watch, 11, 14, 15)  # asked for before the call had ended, there 2 later
    assert watch.waited == pytest.approx(3)
    add(watch, 18, 18.5, 19)  # something else kept the host until 18
    assert watch.waited == pytest.approx(3.5)
    watch.reset()
    assert watch.waited == 0


def test_a_divergence_names_the_first_bad_batch_and_its_values():
    bad = history([8, 8, 8], [1.0, np.nan, 2.0], [4, 0, 0], [8, 8, 8])
    with pytest.raises(metrics.DivergedError, match=r"step 7 \(epoch 2\): loss = nan"):
        metrics.require_finite(bad, 6, "step {} (epoch 2)")
    metrics.require_finite(history([8], [1.0], [4], [8]), 1, "step {}")


@pytest.mark.parametrize(
    ("waited", "working", "warns"), [(2, 10, True), (1.5, 20, False), (0.5, 0.5, False), (0, 0, False)]
)
def test_waiting_for_more_than_a_tenth_of_the_time_is_said_once(waited, working, warns, capsys):
    progress = Progress(10, 0, 1)
    progress.warn_of_waiting(3, waited, working)
    progress.warn_of_waiting(4, waited, working)
    output = capsys.readouterr().out
    assert output.count("\n") == warns
    assert ("epoch 3" in output and "17 %" in output) == warns
