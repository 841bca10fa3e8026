"""Max pooling and its gradient against PyTorch, in the forms for CPUs and for accelerators."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from dks_jax.nn import forms, max_pool
from dks_jax.runtime.forms import FORMS


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 9), (2, 3), (1, 1)])
@pytest.mark.parametrize("levels", [1, 3, 1000])
def test_values_and_gradients_are_those_of_torch_with_many_ties(form, height, width, levels):
    random = np.random.default_rng(0)
    x = random.integers(0, levels, (4, height, width, 5)).astype(np.float32)
    theirs = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    expected = torch.nn.functional.max_pool2d(theirs, 3, 2, 1)
    # Whole numbers, whose sums do not depend on the order.
    g = random.integers(-8, 8, (4, -(-height // 2), -(-width // 2), 5)).astype(np.float32)
    expected.backward(torch.tensor(g.transpose(0, 3, 1, 2)))
    with forms(form):
        ours, pullback = jax.vjp(max_pool, jnp.asarray(x))
        (gradient,) = pullback(jnp.asarray(g))
    np.testing.assert_array_equal(ours, expected.detach().numpy().transpose(0, 2, 3, 1))
    assert theirs.grad is not None
    np.testing.assert_array_equal(gradient, theirs.grad.numpy().transpose(0, 2, 3, 1))


@pytest.mark.parametrize("form", FORMS)
def test_a_value_that_is_not_a_number_stays_visible(form):
    x = jnp.zeros((1, 4, 4, 1)).at[0, 3, 3, 0].set(jnp.nan)
    with forms(form):
        pooled = max_pool(x)
    np.testing.assert_array_equal(jnp.isnan(pooled[0, :, :, 0]), [[False, False], [False, True]])


def test_gpus_neither_scatter_nor_reduce_windows():
    def step(x):
        return jax.grad(lambda x: max_pool(x).sum())(x)

    image = jax.ShapeDtypeStruct((1, 8, 8, 4), jnp.float32)
    with forms("accelerator"):
        program = jax.jit(step).lower(image).as_text()
    assert "scatter" not in program
    assert "reduce_window" not in program


def test_gpus_take_eight_maxima_where_no_derivative_is_taken():
    with forms("accelerator"):
        program = jax.jit(max_pool).lower(jax.ShapeDtypeStruct((1, 8, 8, 4), jnp.float32)).as_text()
    assert program.count("stablehlo.maximum") == 8
    assert "reduce_window" not in program
    assert "select" not in program
