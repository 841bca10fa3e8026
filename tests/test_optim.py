"""SGD against PyTorch; schedules and the momentum reset by hand-computed values."""

import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest
import torch

from comparison import as_numpy, assert_agree
from dks_jax import optim
from dks_jax.errors import InputError


def test_a_drop_at_epoch_60_comes_after_59_whole_epochs():
    schedule = optim.step_schedule(0.1, (60, 120, 160), 0.2, steps_per_epoch=391)
    steps = [0, 59 * 391 - 1, 59 * 391, 119 * 391 - 1, 119 * 391, 159 * 391 - 1, 159 * 391, 200 * 391]
    expected = [0.1, 0.1, 0.02, 0.02, 0.004, 0.004, 0.0008, 0.0008]
    np.testing.assert_allclose([schedule(step) for step in steps], expected, rtol=1e-6)


def test_no_drop_keeps_the_learning_rate():
    schedule = optim.step_schedule(0.1, (), 0.2, steps_per_epoch=10)
    np.testing.assert_allclose([schedule(0), schedule(10**6)], [0.1, 0.1], rtol=1e-6)


def test_cosine_rises_linearly_and_falls_to_zero():
    schedule = optim.cosine_schedule(0.4, warmup_epochs=2, epochs=10, steps_per_epoch=5)
    # Warm-up: steps 0 to 10; the cosine's middle is at step 30, its end at 50.
    np.testing.assert_allclose(
        [schedule(s) for s in (0, 5, 10, 30, 50)], [0.0, 0.2, 0.4, 0.2, 0.0], atol=1e-6
    )


def moves(optimizer, num_steps):
    """How far each step moves a parameter whose gradient is always one."""
    params = {"w": jnp.zeros(1)}
    state = optimizer.init(params)
    result = []
    for _ in range(num_steps):
        updates, state = optimizer.update({"w": jnp.ones(1)}, state, params)
        result.append(-float(updates["w"][0]))
    return result


def test_momentum_is_forgotten_before_a_reset_step():
    optimizer = optim.sgd(lambda step: 1.0, momentum=0.5, reset_steps=[2])
    # 1; 0.5 + 1; forgotten: 1; 0.5 + 1.
    assert moves(optimizer, 4) == [1.0, 1.5, 1.0, 1.5]


def config(**changes):
    fields = {
        "schedule": "step",
        "learning_rate": 0.1,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "clip_norm": 0.0,
        "decay_norm_and_bias": True,
        "drop_epochs": (3, 5),
        "drop_factor": 0.2,
        "reset_momentum_at_drops": True,
        "warmup_epochs": 0.0,
    }
    return ml_collections.ConfigDict(fields | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule": "linear"}, "`optimizer.schedule` must be 'step' or 'cosine'; got 'linear'"),
        ({"drop_epochs": (5, 3)}, "`optimizer.drop_epochs` must be rising"),
        ({"warmup_epochs": 1.0}, "`optimizer.warmup_epochs` must be 0 where the schedule is step; got 1.0"),
        ({"schedule": "cosine"}, r"`optimizer.drop_epochs` must be \(\) where the schedule is cosine"),
        (
            {"schedule": "cosine", "drop_epochs": (), "warmup_epochs": 10.0},
            "`optimizer.warmup_epochs` must be below `epochs`, 10",
        ),
    ],
)
def test_a_wrong_field_is_named(changes, message):
    with pytest.raises(InputError, match=message):
        optim.check(config(**changes), epochs=10)


def test_a_warm_up_that_fills_all_but_the_last_steps_is_possible():
    schedule = optim.cosine_schedule(0.4, warmup_epochs=9.999, epochs=10, steps_per_epoch=5)
    assert schedule(49) == pytest.approx(0.4)


def test_a_drop_beyond_every_step_never_comes():
    schedule = optim.step_schedule(0.1, (10**6,), 0.2, steps_per_epoch=10**6)
    assert schedule(2**31 - 2) == pytest.approx(0.1)


def test_the_released_config_drops_and_forgets_the_momentum_together():
    optimizer, schedule = optim.from_config(config(learning_rate=1.0), epochs=6, steps_per_epoch=2)
    # Drops at epochs 3 and 5 of 2 steps: before steps 4 and 8, counted from 0, where the sum of
    # momentum 0.9 begins again: 1, 1.9, 2.71, 3.439.
    expected = np.array([1, 1.9, 2.71, 3.439, 0.2, 0.38, 0.542, 0.6878, 0.04, 0.076])
    np.testing.assert_allclose(moves(optimizer, 10), expected, rtol=1e-5)
    np.testing.assert_allclose([schedule(s) for s in (3, 4, 8)], [1.0, 0.2, 0.04], rtol=1e-6)


@pytest.mark.parametrize(
    ("momentum", "weight_decay", "decay_norm_and_bias"),
    [(0.9, 5e-4, True), (0.0, 0.0, True), (0.9, 5e-4, False)],
)
def test_sgd_is_that_of_torch(x64, momentum: float, weight_decay: float, decay_norm_and_bias: bool):
    rng = np.random.default_rng(0)
    shapes = {"conv.kernel": (3, 3, 2, 4), "fc.kernel": (4, 5), "fc.bias": (5,), "bn.scale": (4,)}
    params = {name: jnp.asarray(rng.normal(size=shape)) for name, shape in shapes.items()}
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
    )
    state = sgd.init(params)
    for _ in range(10):
        gradients = {name: rng.normal(size=shape) for name, shape in shapes.items()}
        updates, state = sgd.update({k: jnp.asarray(v) for k, v in gradients.items()}, state, params)
        params = optax.apply_updates(params, updates)
        for name, value in theirs.items():
            value.grad = torch.tensor(gradients[name])
        torch_sgd.step()
        assert_agree(as_numpy(params), {k: v.detach().numpy() for k, v in theirs.items()}, 1e-12)


@pytest.mark.parametrize("clip_norm", [0.0, 0.5, 1e6])
def test_clipping_is_that_of_pytorch(clip_norm):
    # torch adds 1e-6 to the norm before it divides, which does not matter where gradients are large.
    random = np.random.default_rng(0)
    start = {
        name: random.standard_normal(shape).astype(np.float32) for name, shape in (("a", (3, 4)), ("b", 5))
    }
    gradients = [{name: 10 * random.standard_normal(v.shape) for name, v in start.items()} for _ in range(4)]
    ours = {name: jnp.asarray(value) for name, value in start.items()}
    optimizer = optim.sgd(lambda step: 0.1, weight_decay=0.01, clip_norm=clip_norm)
    state = optimizer.init(ours)
    theirs = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in start.items()}
    reference = torch.optim.SGD(theirs.values(), lr=0.1, momentum=0.9, weight_decay=0.01)
    for gradient in gradients:
        updates, state = optimizer.update({n: jnp.float32(g) for n, g in gradient.items()}, state, ours)
        ours = optax.apply_updates(ours, updates)
        for name, parameter in theirs.items():
            parameter.grad = torch.tensor(gradient[name], dtype=torch.float32)
        if clip_norm:
            torch.nn.utils.clip_grad_norm_(theirs.values(), clip_norm)
        reference.step()
    for name, parameter in theirs.items():
        np.testing.assert_allclose(ours[name], parameter.detach().numpy(), rtol=1e-5, atol=1e-6)
