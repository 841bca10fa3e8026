"""SGD against PyTorch; schedules and the momentum reset by hand-computed values."""

import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest
import torch

from dks_jax.training import optimizers as optim
from support.comparison import as_numpy, assert_agree


def test_a_drop_at_epoch_60_comes_after_59_whole_epochs():
    schedule = optim.step_schedule(0.1, (60, 120, 160), 0.2, steps_per_epoch=391)
    steps = [0, 59 * 391 - 1, 59 * 391, 119 * 391 - 1, 119 * 391, 159 * 391 - 1, 159 * 391, 200 * 391]
    expected = [0.1, 0.1, 0.02, 0.02, 0.004, 0.004, 0.0008, 0.0008]
    np.testing.assert_allclose([schedule(step) for step in steps], expected, rtol=1e-6)


@pytest.mark.parametrize("drops", [(), (10**6,)])
def test_without_a_drop_or_before_it_the_learning_rate_stays(drops):
    schedule = optim.step_schedule(0.1, drops, 0.2, steps_per_epoch=10**6)
    np.testing.assert_allclose([schedule(0), schedule(2**31 - 2)], [0.1, 0.1], rtol=1e-6)


def test_a_step_schedule_rises_linearly_and_drops_as_it_does_without_a_warm_up():
    plain = optim.step_schedule(0.4, (3, 6), 0.1, steps_per_epoch=5)
    warm = optim.step_schedule(0.4, (3, 6), 0.1, steps_per_epoch=5, warmup_epochs=1.5)
    np.testing.assert_allclose([warm(step) for step in (0, 3, 6)], [0, 0.4 * 3 / 7, 0.4 * 6 / 7], rtol=1e-6)
    for step in (7, 9, 10, 24, 25, 10**6):
        assert warm(step) == plain(step)
    # A drop within the warm-up counts too.
    warm = optim.step_schedule(0.4, (3,), 0.1, steps_per_epoch=5, warmup_epochs=4)
    np.testing.assert_allclose([warm(9), warm(10), warm(30)], [0.18, 0.02, 0.04], rtol=1e-6)


def test_cosine_rises_linearly_and_falls_to_zero():
    schedule = optim.cosine_schedule(0.4, warmup_epochs=2, epochs=10, steps_per_epoch=5)
    # Warm-up: steps 0 to 10; the cosine's middle is at step 30, its end at 50.
    rates = [schedule(step) for step in (0, 5, 10, 30, 50)]
    np.testing.assert_allclose(rates, [0.0, 0.2, 0.4, 0.2, 0.0], atol=1e-6)
    # A warm-up that fills all but the last steps.
    schedule = optim.cosine_schedule(0.4, warmup_epochs=9.999, epochs=10, steps_per_epoch=5)
    assert schedule(49) == pytest.approx(0.4)


def test_the_released_config_drops_and_forgets_the_momentum_together():
    fields = {
        "schedule": "step",
        "learning_rate": 1.0,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "clip_norm": 0.0,
        "decay_norm_and_bias": True,
        "drop_epochs": (3, 5),
        "drop_factor": 0.2,
        "reset_momentum_at_drops": True,
        "warmup_epochs": 0.0,
    }
    warm = ml_collections.ConfigDict(fields | {"warmup_epochs": 2.0})
    optim.check(warm, epochs=6)
    assert optim.from_config(warm, epochs=6, steps_per_epoch=2)[1](1) == 0.25
    optimizer, schedule = optim.from_config(ml_collections.ConfigDict(fields), epochs=6, steps_per_epoch=2)
    np.testing.assert_allclose([schedule(step) for step in (3, 4, 8)], [1.0, 0.2, 0.04], rtol=1e-6)
    # How far each step moves a parameter at zero whose gradient is always one.
    params = {"w": jnp.zeros(1)}
    state = optimizer.init(params)
    moves = []
    for _ in range(10):
        updates, state = optimizer.update({"w": jnp.ones(1)}, state, params)
        moves.append(-float(updates["w"][0]))
    # Drops at epochs 3 and 5 of 2 steps: before steps 4 and 8, counted from 0, where the sum of
    # momentum 0.9 begins again: 1, 1.9, 2.71, 3.439.
    expected = [1, 1.9, 2.71, 3.439, 0.2, 0.38, 0.542, 0.6878, 0.04, 0.076]
    np.testing.assert_allclose(moves, expected, rtol=1e-5)


SHAPES = {"conv.kernel": (3, 3, 2, 4), "fc.kernel": (4, 5), "fc.bias": (5,), "bn.scale": (4,)}


@pytest.mark.parametrize(
    "case",
    [
        # (momentum, weight_decay, decay_norm_and_bias, clip_norm, tolerance)
        (0.9, 5e-4, True, 0.0, 1e-12),
        (0.0, 0.0, True, 0.0, 1e-12),
        (0.9, 5e-4, False, 0.0, 1e-12),
        # torch adds 1e-6 to the norm before it divides.
        (0.9, 0.01, True, 0.5, 1e-5),
        (0.9, 0.01, True, 1e6, 1e-12),
    ],
)
def test_sgd_is_that_of_torch(x64, case):
    momentum, weight_decay, decay_norm_and_bias, clip_norm, tolerance = case
    rng = np.random.default_rng(0)
    params = {name: jnp.asarray(rng.normal(size=shape)) for name, shape in SHAPES.items()}
    theirs = {name: torch.tensor(np.array(value)).requires_grad_() for name, value in params.items()}
    kernels = [value for name, value in theirs.items() if name.endswith("kernel")]
    others = [value for name, value in theirs.items() if not name.endswith("kernel")]
    groups = [
        {"params": kernels, "weight_decay": weight_decay},
        {"params": others, "weight_decay": weight_decay if decay_norm_and_bias else 0.0},
    ]
    torch_sgd = torch.optim.SGD(groups, lr=0.1, momentum=momentum)
    sgd = optim.sgd(
        lambda step: 0.1,
        momentum=momentum,
        weight_decay=weight_decay,
        decay_norm_and_bias=decay_norm_and_bias,
        clip_norm=clip_norm,
    )
    state = sgd.init(params)
    for _ in range(10):
        gradients = {name: 10 * rng.normal(size=shape) for name, shape in SHAPES.items()}
        updates, state = sgd.update({k: jnp.asarray(v) for k, v in gradients.items()}, state, params)
        params = optax.apply_updates(params, updates)
        for name, value in theirs.items():
            value.grad = torch.tensor(gradients[name])
        if clip_norm:
            torch.nn.utils.clip_grad_norm_(theirs.values(), clip_norm)
        torch_sgd.step()
        assert_agree(as_numpy(params), {k: v.detach().numpy() for k, v in theirs.items()}, tolerance)
