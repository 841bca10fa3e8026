"""Optimizers against PyTorch and timm; the momentum reset and parts of LAMB by hand-computed values."""

from functools import partial

import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from dks_jax import models
from dks_jax.config import complete
from dks_jax.training import optimizers as optim
from support.comparison import as_numpy, assert_agree
from support.real_torchvision import torchvision


def config(**fields):
    """A `config.optimizer` with these fields."""
    return complete({f"optimizer.{k}": v for k, v in fields.items()}, {}, models.arguments).optimizer


def test_the_released_config_drops_and_forgets_the_momentum_together():
    fields = {
        "schedule": "step",
        "learning_rate": 1.0,
        "drop_epochs": (3, 5),
        "drop_factor": 0.2,
        "reset_momentum_at_drops": True,
    }
    warm = config(**fields, warmup_epochs=2.0)
    optim.check(warm, epochs=6)
    assert optim.from_config(warm, epochs=6, steps_per_epoch=2)[1](1) == 0.25
    optimizer, schedule = optim.from_config(config(**fields), epochs=6, steps_per_epoch=2)
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


def assert_ten_steps_agree(
    optimizer, make_theirs, *, weight_decay, decay_norm_and_bias, tolerance, clip_norm=0.0
):
    """Ten steps on random gradients; `make_theirs` makes an optimizer of torch from groups of parameters."""
    rng = np.random.default_rng(0)
    params = {name: jnp.asarray(rng.normal(size=shape)) for name, shape in SHAPES.items()}
    theirs = {name: torch.tensor(np.array(value)).requires_grad_() for name, value in params.items()}
    kernels = [value for name, value in theirs.items() if name.endswith("kernel")]
    others = [value for name, value in theirs.items() if not name.endswith("kernel")]
    torch_optimizer = make_theirs(
        [
            {"params": kernels, "weight_decay": weight_decay},
            {"params": others, "weight_decay": weight_decay if decay_norm_and_bias else 0.0},
        ]
    )
    state = optimizer.init(params)
    for _ in range(10):
        gradients = {name: 10 * rng.normal(size=shape) for name, shape in SHAPES.items()}
        updates, state = optimizer.update({k: jnp.asarray(v) for k, v in gradients.items()}, state, params)
        params = optax.apply_updates(params, updates)
        for name, value in theirs.items():
            value.grad = torch.tensor(gradients[name])
        if clip_norm:
            torch.nn.utils.clip_grad_norm_(theirs.values(), clip_norm)
        torch_optimizer.step()
        assert_agree(as_numpy(params), {k: v.detach().numpy() for k, v in theirs.items()}, tolerance)


@pytest.mark.parametrize(
    "case",
    [
        # (momentum, nesterov, weight_decay, decay_norm_and_bias, clip_norm, tolerance)
        (0.9, False, 5e-4, True, 0.0, 1e-12),
        (0.0, False, 0.0, True, 0.0, 1e-12),
        (0.9, False, 5e-4, False, 0.0, 1e-12),
        (0.9, True, 5e-4, True, 0.0, 1e-12),
        (0.7, True, 0.01, False, 0.0, 1e-12),
        # torch adds 1e-6 to the norm before it divides.
        (0.9, False, 0.01, True, 0.5, 1e-5),
        (0.9, False, 0.01, True, 1e6, 1e-12),
    ],
)
def test_sgd_is_that_of_torch(x64, case):
    momentum, nesterov, weight_decay, decay_norm_and_bias, clip_norm, tolerance = case
    sgd = optim.sgd(
        lambda step: 0.1,
        momentum=momentum,
        nesterov=nesterov,
        weight_decay=weight_decay,
        decay_norm_and_bias=decay_norm_and_bias,
        clip_norm=clip_norm,
    )
    theirs = partial(torch.optim.SGD, lr=0.1, momentum=momentum, nesterov=nesterov)
    assert_ten_steps_agree(
        sgd,
        theirs,
        weight_decay=weight_decay,
        decay_norm_and_bias=decay_norm_and_bias,
        clip_norm=clip_norm,
        tolerance=tolerance,
    )


@pytest.mark.parametrize(
    "case",
    [
        # (betas, eps, weight_decay, decay_norm_and_bias, clip_norm, tolerance)
        ((0.9, 0.999), 1e-8, 0.05, True, 0.0, 1e-12),
        ((0.8, 0.95), 1e-3, 0.1, False, 0.0, 1e-12),
        ((0.9, 0.999), 1e-8, 0.0, True, 0.0, 1e-12),
        # torch adds 1e-6 to the norm before it divides; only eps notices how long the gradient is.
        ((0.9, 0.999), 1e-8, 0.05, True, 0.5, 1e-6),
    ],
)
def test_adamw_is_that_of_torch(x64, case):
    betas, eps, weight_decay, decay_norm_and_bias, clip_norm, tolerance = case
    adamw = optim.adamw(
        lambda step: 0.1,
        betas=betas,
        eps=eps,
        weight_decay=weight_decay,
        decay_norm_and_bias=decay_norm_and_bias,
        clip_norm=clip_norm,
    )
    theirs = partial(torch.optim.AdamW, lr=0.1, betas=betas, eps=eps)
    assert_ten_steps_agree(
        adamw,
        theirs,
        weight_decay=weight_decay,
        decay_norm_and_bias=decay_norm_and_bias,
        clip_norm=clip_norm,
        tolerance=tolerance,
    )


@pytest.mark.parametrize(
    "case",
    [
        # (betas, eps, weight_decay, decay_norm_and_bias, clip_norm)
        ((0.9, 0.999), 1e-6, 0.02, True, 1.0),
        ((0.9, 0.999), 1e-6, 0.02, False, 1.0),
        ((0.8, 0.95), 1e-3, 0.1, False, 0.0),
        ((0.9, 0.999), 1e-6, 0.0, True, 1.0),
        ((0.9, 0.999), 1e-6, 0.02, False, 1e6),
    ],
)
def test_lamb_is_that_of_timm(x64, case):
    # timm imports torchvision.
    assert torchvision
    timm = pytest.importorskip("timm.optim")
    betas, eps, weight_decay, decay_norm_and_bias, clip_norm = case
    lamb = optim.lamb(
        lambda step: 0.1,
        betas=betas,
        eps=eps,
        weight_decay=weight_decay,
        decay_norm_and_bias=decay_norm_and_bias,
        clip_norm=clip_norm,
    )
    theirs = partial(timm.Lamb, lr=0.1, betas=betas, eps=eps, max_grad_norm=clip_norm or None)
    assert_ten_steps_agree(
        lamb, theirs, weight_decay=weight_decay, decay_norm_and_bias=decay_norm_and_bias, tolerance=1e-12
    )


def test_the_first_step_of_lamb_has_the_length_of_the_parameter_times_the_rate(x64):
    """Values by hand; without the bias of their start both means are of the first gradient alone."""
    params = {
        "fc.kernel": jnp.array([[3.0, 4.0]]),
        "fc.bias": jnp.array([2.0]),
        "zero.kernel": jnp.zeros((1, 1)),
    }
    gradients = {"fc.kernel": jnp.array([[1.0, -1.0]]), "fc.bias": jnp.array([-5.0])}
    gradients["zero.kernel"] = jnp.ones((1, 1))
    lamb = optim.lamb(lambda step: 0.1, eps=1e-12, weight_decay=0.5, decay_norm_and_bias=False)
    updates, _ = lamb.update(gradients, lamb.init(params), params)
    # Direction (1, -1) + 0.5 * (3, 4) = (2.5, 1), as long as the parameter, 5; the bias steps as of Adam.
    expected = -0.1 * 5 * np.array([[2.5, 1.0]]) / np.sqrt(2.5**2 + 1)
    np.testing.assert_allclose(updates["fc.kernel"], expected, rtol=1e-9)
    np.testing.assert_allclose(updates["fc.bias"], [0.1], rtol=1e-9)
    np.testing.assert_allclose(updates["zero.kernel"], [[-0.1]], rtol=1e-9)
    clipped = optim.lamb(lambda step: 0.1, eps=1.0, weight_decay=0.0, clip_norm=1.0)
    updates, _ = clipped.update({"w": jnp.array([3.0, 4.0])}, clipped.init({"w": jnp.zeros(2)}), params)
    np.testing.assert_allclose(updates["w"], -0.1 * np.array([0.6 / 1.6, 0.8 / 1.8]), rtol=1e-9)


def test_the_name_chooses_the_optimizer_and_its_eps():
    """By the first step of a parameter at zero, whose length is the rate times g / (g + eps)."""
    for name, eps, expected in (
        ("adamw", "auto", 1e-8),
        ("lamb", "auto", 1e-6),
        ("adamw", 1e-3, 1e-3),
        ("lamb", 1e-3, 1e-3),
    ):
        fields = config(name=name, eps=eps, learning_rate=1.0, schedule="step", weight_decay=0.0)
        optimizer, _ = optim.from_config(fields, epochs=1, steps_per_epoch=1)
        params = {"w": jnp.zeros(1)}
        updates, _ = optimizer.update({"w": jnp.full(1, 1e-6)}, optimizer.init(params), params)
        np.testing.assert_allclose(updates["w"], [-1e-6 / (1e-6 + expected)], rtol=1e-4)


@pytest.mark.parametrize("name", ["sgd", "adamw", "lamb"])
def test_layer_decay_multiplies_the_step_of_every_part_by_its_distance(x64, name):
    names = ("stem.kernel", "stages.0.kernel", "head.fc.kernel")
    rng = np.random.default_rng(0)
    params = {key: jnp.asarray(rng.normal(size=(2, 2))) for key in names}
    fields = {"name": name, "schedule": "step", "learning_rate": 0.5, "weight_decay": 0.1}
    steps = []
    for decay in (1.0, 0.5):
        optimizer, _ = optim.from_config(
            config(**fields, layer_decay=decay), 1, 1, dict(zip(names, (2, 1, 0), strict=True))
        )
        state = optimizer.init(params)
        for _ in range(2):
            updates, state = optimizer.update(params, state, params)
        steps.append(updates)
    for key, factor in zip(names, (0.25, 0.5, 1.0), strict=True):
        np.testing.assert_allclose(steps[1][key], factor * steps[0][key], rtol=1e-12)
