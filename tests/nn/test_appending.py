"""Appended features and their gradients against concatenation, in the forms for CPUs and for accelerators."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dks_jax.nn import forms, forward_mode
from dks_jax.nn.appending import append
from dks_jax.runtime.forms import FORMS


def concatenate(x, new):
    return jnp.concatenate([x, new], axis=-1)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("sign", [1, -1])
def test_values_and_gradients_are_those_of_concatenation(form, sign):
    random = np.random.default_rng(0)
    x, new = (random.standard_normal((2, 3, 3, channels)).astype(np.float32) for channels in (5, 4))
    # Its first value decides between the equal branches.
    g = sign * np.abs(random.standard_normal((2, 3, 3, 9)).astype(np.float32))
    with forms(form):
        ours, pullback = jax.vjp(append, x, new)
        gradients = pullback(jnp.asarray(g))
    expected, theirs = jax.vjp(concatenate, x, new)
    np.testing.assert_array_equal(ours, expected)
    for own, other in zip(gradients, theirs(jnp.asarray(g)), strict=True):
        np.testing.assert_array_equal(own, other)


def test_forward_mode_is_there_where_it_is_asked_for():
    x, new = jnp.ones((1, 2, 2, 3)), jnp.ones((1, 2, 2, 1))
    with forms("cpu"), forward_mode():
        _, tangent = jax.jvp(append, (x, new), (2 * x, 3 * new))
    np.testing.assert_array_equal(tangent, concatenate(2 * x, 3 * new))


@pytest.mark.parametrize("form", FORMS)
def test_only_a_cpu_chooses_between_two_branches(form):
    def gradient(x, new):
        return jax.grad(lambda x: append(x, new).sum())(x)

    shapes = [jax.ShapeDtypeStruct((1, 4, 4, channels), jnp.float32) for channels in (6, 2)]
    with forms(form):
        program = jax.jit(gradient).lower(*shapes).as_text()
    assert ("stablehlo.case" in program) == (form == "cpu")
