"""The fence leaves values and gradients as they are, in the forms for CPUs and for accelerators."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dks_jax.nn import forms, forward_mode
from dks_jax.nn.fence import fence
from dks_jax.runtime.forms import FORMS


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", [(2, 3, 3, 5), (4, 7), (1,)])
@pytest.mark.parametrize("sign", [1, -1])
def test_values_and_gradients_stay(form, shape, sign):
    random = np.random.default_rng(0)
    x = random.standard_normal(shape).astype(np.float32)
    # Its first value decides between the equal branches.
    g = sign * np.abs(random.standard_normal(shape).astype(np.float32))
    with forms(form):
        y, pullback = jax.vjp(fence, x)
        (gradient,) = pullback(jnp.asarray(g))
    np.testing.assert_array_equal(y, x)
    np.testing.assert_array_equal(gradient, g)


def test_forward_mode_is_there_where_it_is_asked_for():
    with forms("cpu"), forward_mode():
        _, tangent = jax.jvp(fence, (jnp.ones(3),), (jnp.arange(3.0),))
    np.testing.assert_array_equal(tangent, [0, 1, 2])


@pytest.mark.parametrize("form", FORMS)
def test_only_a_cpu_chooses_between_branches_and_only_for_a_gradient(form):
    shape = jax.ShapeDtypeStruct((4, 6), jnp.float32)
    with forms(form):
        value = jax.jit(fence).lower(shape).as_text()
        gradient = jax.jit(jax.grad(lambda x: jnp.sin(fence(x)).sum())).lower(shape).as_text()
    assert "stablehlo.case" not in value
    assert ("stablehlo.case" in gradient) == (form == "cpu")


def test_the_compiler_keeps_the_conditional_on_a_cpu():
    shape = jax.ShapeDtypeStruct((4, 6), jnp.float32)
    with forms("cpu"):
        step = jax.jit(jax.grad(lambda x: jnp.sin(fence(jnp.cos(x))).sum()))
        program = step.lower(shape).compile().as_text()
    assert " conditional(" in program
