"""Batch normalisation against PyTorch."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from dks_jax.nn import forms
from dks_jax.nn.batch_norm import normalise_batch
from dks_jax.nn.functional import Functional
from dks_jax.nn.layers import BatchNorm
from support import torch_reference as reference
from support.comparison import Named, as_numpy, assert_agree


class NormCase(NamedTuple):
    """What a batch norm is given.

    x, output_gradient: [batch, height, width, channel].
    """

    x: np.ndarray
    output_gradient: np.ndarray
    params: Named
    batch_stats: Named


@pytest.fixture
def norm_case() -> NormCase:
    rng = np.random.default_rng(0)
    shape, channels = (6, 4, 5, 3), 3
    return NormCase(
        rng.normal(1.0, 2.0, shape),
        rng.normal(size=shape),
        {"scale": rng.uniform(0.5, 1.5, channels), "bias": rng.normal(size=channels)},
        {"mean": rng.normal(size=channels), "var": rng.uniform(0.5, 2.0, channels)},
    )


def norm_ours(case: NormCase, norm_groups: int, statistics: str = "two_pass") -> Named:
    """Output, new running statistics and gradients of the library's batch norm in training mode."""
    layer = BatchNorm(case.x.shape[-1], norm_groups=norm_groups, rngs=nnx.Rngs(0))
    functional = Functional(layer, statistics=statistics)

    def loss(params, x):
        output, batch_stats = functional.train(params, case.batch_stats, x, jax.random.key(0))
        return jnp.sum(output * case.output_gradient), (output, batch_stats)

    case = jax.tree.map(jnp.asarray, case)
    gradient = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
    (of_params, of_x), (output, batch_stats) = gradient(case.params, case.x)
    of_params = {f"{name} gradient": value for name, value in of_params.items()}
    return as_numpy({"output": output, "input gradient": of_x, **of_params, **batch_stats})


def norm_torch(case: NormCase) -> Named:
    """The same by torch.nn.BatchNorm2d."""
    layer = torch.nn.BatchNorm2d(case.x.shape[-1]).double().train()
    arrays = {reference.ARRAYS[k]: torch.tensor(v) for k, v in (case.params | case.batch_stats).items()}
    layer.load_state_dict(reference.counters_of(layer) | arrays)
    x = torch.tensor(case.x).permute(0, 3, 1, 2).requires_grad_()
    output = layer(x)
    output.backward(torch.tensor(case.output_gradient).permute(0, 3, 1, 2))
    results = {
        "output": output.permute(0, 2, 3, 1),
        "input gradient": x.grad.permute(0, 2, 3, 1),
        "scale gradient": layer.weight.grad,
        "bias gradient": layer.bias.grad,
        "mean": layer.running_mean,
        "var": layer.running_var,
    }
    return {name: value.detach().numpy() for name, value in results.items()}


@pytest.mark.parametrize("statistics", ["two_pass", "one_pass"])
@pytest.mark.parametrize("norm_groups", [1, 2])
def test_norm_groups_are_separate_batch_norms_of_torch(x64, norm_case, norm_groups, statistics):
    groups = [
        norm_torch(norm_case._replace(x=x, output_gradient=output_gradient))
        for x, output_gradient in zip(
            np.split(norm_case.x, norm_groups), np.split(norm_case.output_gradient, norm_groups), strict=True
        )
    ]
    expected = {
        "output": np.concatenate,
        "input gradient": np.concatenate,
        "scale gradient": sum,
        "bias gradient": sum,
        "mean": partial(np.mean, axis=0),
        "var": partial(np.mean, axis=0),
    }
    expected = {name: combine([results[name] for results in groups]) for name, combine in expected.items()}
    assert_agree(norm_ours(norm_case, norm_groups, statistics), expected, 1e-12)


def test_variance_in_float32_keeps_its_digits_far_from_zero():
    x = np.random.default_rng(0).normal(1000.0, 1.0, (16, 8, 8, 4)).astype(np.float32)
    exact = (x - x.mean(axis=(0, 1, 2), dtype=np.float64)) / np.sqrt(
        x.var(axis=(0, 1, 2), dtype=np.float64) + 1e-5
    )
    case = NormCase(
        x,
        np.zeros_like(x),
        {"scale": np.ones(4, np.float32), "bias": np.zeros(4, np.float32)},
        {"mean": np.zeros(4, np.float32), "var": np.ones(4, np.float32)},
    )
    assert_agree({"output": norm_ours(case, norm_groups=1)["output"]}, {"output": exact}, 1e-3)


# Deviations between the mean and the shift, and the error of the variance in float32 that each may cause.
@pytest.mark.parametrize(("distance", "error"), [(0, 1e-6), (1, 1e-6), (10, 2e-5), (100, 2e-3)])
def test_one_pass_in_float32_is_as_exact_as_its_shift_is_near(distance, error):
    x = np.random.default_rng(0).normal(3.0 + distance, 1.0, (1, 4096, 8)).astype(np.float32)
    ones = jnp.ones(8)
    _, mean, var = normalise_batch(jnp.asarray(x), ones, ones, 1e-5, 3 * ones)
    np.testing.assert_allclose(mean[0, 0], x.mean(axis=(0, 1), dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(var[0, 0], x.var(axis=(0, 1), dtype=np.float64), rtol=error)


def test_one_pass_finds_no_variance_below_zero():
    constant = jnp.full((1, 1000, 4), 1234.567)
    ones = jnp.ones(4)
    y, _, var = normalise_batch(constant, ones, ones, 1e-5, 0 * ones)
    assert (var >= 0).all()
    assert jnp.isfinite(y).all()


def test_the_platform_chooses_the_passes_unless_they_are_given():
    # Far from the running mean, which is 0, so that the bits differ.
    x = 50 + jax.random.normal(jax.random.key(0), (8, 4, 4, 16))

    def var(statistics, form):
        functional = Functional(BatchNorm(16, rngs=nnx.Rngs(0)), statistics=statistics)
        with forms(form):
            return functional.train(functional.params, functional.batch_stats, x, jax.random.key(0))[1]["var"]

    one, two = var("one_pass", "cpu"), var("two_pass", "accelerator")
    assert not np.array_equal(one, two)
    np.testing.assert_array_equal(var("auto", "cpu"), two)
    np.testing.assert_array_equal(var("auto", "accelerator"), one)
