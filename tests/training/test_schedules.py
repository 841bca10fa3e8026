"""Schedules of the learning rate by hand-computed values and against PyTorch."""

import numpy as np
import pytest
import torch

from dks_jax.training import schedules


def test_a_drop_at_epoch_60_comes_after_59_whole_epochs():
    schedule = schedules.step_schedule(0.1, (60, 120, 160), 0.2, steps_per_epoch=391)
    steps = [0, 59 * 391 - 1, 59 * 391, 119 * 391 - 1, 119 * 391, 159 * 391 - 1, 159 * 391, 200 * 391]
    expected = [0.1, 0.1, 0.02, 0.02, 0.004, 0.004, 0.0008, 0.0008]
    np.testing.assert_allclose([schedule(step) for step in steps], expected, rtol=1e-6)


@pytest.mark.parametrize("drops", [(), (10**6,)])
def test_without_a_drop_or_before_it_the_learning_rate_stays(drops):
    schedule = schedules.step_schedule(0.1, drops, 0.2, steps_per_epoch=10**6)
    np.testing.assert_allclose([schedule(0), schedule(2**31 - 2)], [0.1, 0.1], rtol=1e-6)


def test_a_step_schedule_rises_linearly_and_drops_as_it_does_without_a_warm_up():
    plain = schedules.step_schedule(0.4, (3, 6), 0.1, steps_per_epoch=5)
    warm = schedules.step_schedule(0.4, (3, 6), 0.1, steps_per_epoch=5, warmup_epochs=1.5)
    np.testing.assert_allclose([warm(step) for step in (0, 3, 6)], [0, 0.4 * 3 / 7, 0.4 * 6 / 7], rtol=1e-6)
    for step in (7, 9, 10, 24, 25, 10**6):
        assert warm(step) == plain(step)
    # A drop within the warm-up counts too.
    warm = schedules.step_schedule(0.4, (3,), 0.1, steps_per_epoch=5, warmup_epochs=4)
    np.testing.assert_allclose([warm(9), warm(10), warm(30)], [0.18, 0.02, 0.04], rtol=1e-6)


def test_cosine_rises_linearly_and_falls_to_zero():
    schedule = schedules.cosine_schedule(0.4, warmup_epochs=2, epochs=10, steps_per_epoch=5)
    # Warm-up: steps 0 to 10; the cosine's middle is at step 30, its end at 50.
    rates = [schedule(step) for step in (0, 5, 10, 30, 50)]
    np.testing.assert_allclose(rates, [0.0, 0.2, 0.4, 0.2, 0.0], atol=1e-6)
    # A warm-up that fills all but the last steps.
    schedule = schedules.cosine_schedule(0.4, warmup_epochs=9.999, epochs=10, steps_per_epoch=5)
    assert schedule(49) == pytest.approx(0.4)


@pytest.mark.parametrize(("epochs", "steps_per_epoch"), [(1, 3), (2, 5), (7, 13), (1, 100)])
def test_one_cycle_is_that_of_torch_step_by_step(x64, epochs, steps_per_epoch):
    ours = schedules.one_cycle_schedule(0.4, epochs, steps_per_epoch)
    sgd = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        sgd, 0.4, epochs=epochs, steps_per_epoch=steps_per_epoch, cycle_momentum=False
    )
    expected = []
    for step in range(epochs * steps_per_epoch):
        expected += theirs.get_last_lr()
        sgd.step()
        if step + 1 < epochs * steps_per_epoch:
            theirs.step()
    np.testing.assert_allclose([ours(step) for step in range(len(expected))], expected, rtol=1e-10)


def test_one_cycle_begins_at_a_25th_peaks_after_three_tenths_and_stays_at_its_end():
    schedule = schedules.one_cycle_schedule(0.5, epochs=10, steps_per_epoch=10)
    # 100 steps: the peak is at step 29, and half of the rise, 0.26, at step 14.5.
    rates = [float(schedule(step)) for step in (0, 14.5, 29, 99, 200)]
    np.testing.assert_allclose(rates, [0.02, 0.26, 0.5, 2e-6, 2e-6], rtol=1e-3)
