"""The objective against values computed by hand, a loop over pairs in float64, and its properties."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

import dks_jax
from dks_jax import synergy
from dks_jax.runtime.errors import InputError

# Few shapes, because JAX compiles every operation for each: [classifier, batch, class].
SHAPES = [(1, 2, 3), (2, 1, 2), (3, 4, 5), (4, 3, 7)]
few = settings(max_examples=25)


def stacks(least=1, most=4):
    """Logits of sizes and scales such as training meets."""
    shapes = st.sampled_from([shape for shape in SHAPES if least <= shape[0] <= most])
    return shapes.flatmap(
        lambda shape: st_numpy.arrays(np.float32, shape, elements=st.floats(-8, 8, width=32))
    )


def softmax(logits):
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def loop_over_pairs(logits, teaches, epsilon=0.0, temperature=1.0):
    """The definition, term by term, in float64."""
    p = softmax(np.asarray(logits, np.float64) / temperature)
    p = (p + epsilon) / (1 + p.shape[-1] * epsilon)
    total = 0.0
    for t, s in itertools.permutations(range(len(p)), 2):
        total += teaches[t, s] * np.mean(np.sum(p[t] * np.log(p[t] / p[s]), axis=-1))
    return total


def test_two_classifiers_by_hand():
    # p_0 = (1/2, 1/2), p_1 = (3/4, 1/4).
    # KL(p_0 || p_1) = ln(2/3)/2 + ln(2)/2 = 0.143841; KL(p_1 || p_0) = 3/4 ln(3/2) + 1/4 ln(1/2) = 0.130812.
    logits = jnp.log(jnp.array([[[0.5, 0.5]], [[0.75, 0.25]]]))
    total, terms = dks_jax.objective(logits, jnp.array([0]), dks_jax.all_pairs(2), names=("early", "main"))
    assert terms["kl/early->main"] == pytest.approx(0.143841, abs=1e-6)
    assert terms["kl/main->early"] == pytest.approx(0.130812, abs=1e-6)
    assert terms["cross_entropy/early"] == pytest.approx(0.693147, abs=1e-6)  # ln 2
    assert terms["cross_entropy/main"] == pytest.approx(0.287682, abs=1e-6)  # ln 4/3
    assert total == pytest.approx(0.143841 + 0.130812 + 0.693147 + 0.287682, abs=2e-6)


@pytest.mark.parametrize("epsilon", [0.0, 1e-8, 1e-3])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
@given(logits=stacks())
@few
def test_stacked_equals_the_loop_over_pairs(logits, epsilon, temperature):
    teaches = np.random.default_rng(0).random((len(logits), len(logits)))
    with jax.enable_x64(True):
        stacked = dks_jax.synergy_loss(
            jnp.asarray(logits, jnp.float64), teaches, epsilon=epsilon, temperature=temperature, alpha=0.5
        )
    expected = 0.5 * temperature**2 * loop_over_pairs(logits, teaches, epsilon, temperature)
    np.testing.assert_allclose(stacked, expected, rtol=1e-10, atol=1e-12)


@given(logits=stacks())
@few
def test_float32_is_close_to_float64(logits):
    teaches = dks_jax.all_pairs(len(logits))
    expected = loop_over_pairs(logits, teaches, epsilon=1e-8)
    # The two sums whose difference is the divergence are at most the largest |log p|, here below 20.
    np.testing.assert_allclose(
        dks_jax.synergy_loss(logits, teaches, epsilon=1e-8), expected, rtol=1e-5, atol=2e-5
    )


@pytest.mark.parametrize("epsilon", [0.0, 1e-8])
@given(logits=stacks(least=2))
@few
def test_gradient_reaches_only_the_student(logits, epsilon):
    gradient_of = jax.jit(jax.grad(partial(dks_jax.synergy_loss, epsilon=epsilon)))
    for teacher, student in itertools.permutations(range(len(logits)), 2):
        teaches = np.zeros((len(logits), len(logits)))
        teaches[teacher, student] = 1.0
        gradient = gradient_of(logits, teaches)
        others = np.delete(gradient, student, axis=0)
        np.testing.assert_array_equal(others, np.zeros_like(others))


def test_top_down_is_deep_to_shallow():
    # Depth order: index 2 is the main classifier and teaches; index 0 is the shallowest and is taught.
    np.testing.assert_array_equal(dks_jax.top_down(3), [[0, 0, 0], [1, 0, 0], [1, 1, 0]])
    np.testing.assert_array_equal(dks_jax.bottom_up(3), [[0, 1, 1], [0, 0, 1], [0, 0, 0]])
    np.testing.assert_array_equal(dks_jax.top_down(3) + dks_jax.bottom_up(3), dks_jax.all_pairs(3))


@given(logits=stacks(), data=st.data())
@few
def test_zero_matrix_equals_deep_supervision(logits, data):
    labels = np.array(data.draw(st.lists(st.integers(0, logits.shape[2] - 1), min_size=5, max_size=5)))
    labels = labels[: logits.shape[1]]
    total, terms = dks_jax.objective(logits, labels, dks_jax.no_pairs(len(logits)))
    p = softmax(logits.astype(np.float64))
    expected = [-np.mean(np.log(p[i, np.arange(len(labels)), labels])) for i in range(len(logits))]
    np.testing.assert_allclose(total, sum(expected), rtol=1e-5, atol=1e-6)
    names = synergy.classifier_names(len(logits))
    np.testing.assert_allclose([terms[f"cross_entropy/{n}"] for n in names], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("epsilon", [0.0, 1e-8])
@given(logits=stacks(most=1), copies=st.integers(2, 4))
@few
def test_sum_is_zero_where_all_classifiers_agree(logits, copies, epsilon):
    agreeing = np.repeat(logits, copies, axis=0)
    loss = dks_jax.synergy_loss(agreeing, dks_jax.all_pairs(copies), epsilon=epsilon)
    assert abs(loss) < 1e-5  # up to 12 pairs of entropies below 2, in float32


def test_soft_targets_of_one_class_are_labels_and_weights_of_zero_leave_examples_out():
    logits = np.random.default_rng(2).normal(size=(3, 4, 5)).astype(np.float32)
    labels, teaches = np.array([0, 4, 2, 2]), dks_jax.all_pairs(3)
    hard, _ = dks_jax.objective(logits, labels, teaches)
    soft, _ = dks_jax.objective(logits, np.eye(5)[labels], teaches)
    np.testing.assert_allclose(hard, soft, rtol=1e-6)
    padded, _ = dks_jax.objective(logits, labels, teaches, weights=np.array([1, 1, 1, 0]))
    alone, _ = dks_jax.objective(logits[:, :3], labels[:3], teaches)
    np.testing.assert_allclose(padded, alone, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "uint32"])
def test_a_label_that_is_no_class_makes_the_loss_nan(dtype):
    logits, bounds = np.zeros((3, 2, 5), np.float32), np.iinfo(dtype)
    for label in (-1, -5, -6, 0, 4, 5, bounds.min, bounds.max):
        if not bounds.min <= label <= bounds.max:
            continue
        total, terms = dks_jax.objective(logits, np.array([2, label], dtype), dks_jax.all_pairs(3))
        assert np.isfinite(total) == np.isfinite(terms["cross_entropy/main"]) == (0 <= label < 5)


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_more_classes_than_the_type_of_a_label_counts_are_no_mistake(dtype):
    logits = np.random.default_rng(0).normal(size=(1, 2, 1000)).astype(np.float32)
    small, wide = (
        dks_jax.objective(logits, np.array([3, 100], kind), dks_jax.no_pairs(1))[0]
        for kind in (dtype, "int32")
    )
    assert small == wide


def test_bfloat16_logits_are_computed_in_float32():
    logits = jnp.asarray(np.random.default_rng(4).normal(size=(3, 8, 10)), jnp.bfloat16)
    loss = dks_jax.synergy_loss(logits, dks_jax.all_pairs(3))
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, loop_over_pairs(logits, dks_jax.all_pairs(3)), rtol=1e-4)


def test_large_logits_stay_finite():
    logits = np.array([[[1000.0, -1000.0]], [[-1000.0, 1000.0]]], np.float32)
    (total, _), gradient = jax.value_and_grad(dks_jax.objective, has_aux=True)(
        logits, np.array([0]), dks_jax.all_pairs(2), epsilon=1e-8
    )
    assert np.isfinite(total)
    assert np.isfinite(gradient).all()


def test_a_random_mask_can_be_traced():
    logits = np.random.default_rng(5).normal(size=(3, 4, 5)).astype(np.float32)
    mask = (np.random.default_rng(6).random((3, 3)) < 0.5).astype(np.float32)
    np.testing.assert_allclose(
        jax.jit(dks_jax.synergy_loss)(logits, mask), dks_jax.synergy_loss(logits, mask), rtol=1e-5
    )


@pytest.mark.parametrize(
    ("logits", "labels", "teaches", "named"),
    [
        ((4, 5), np.zeros(4, int), (3, 3), r"`logits` .*\(4, 5\)"),
        ((3, 4, 5), np.zeros(4, int), (2, 2), r"`teaches` .*\(3, 3\); got \(2, 2\)"),
        ((3, 4, 5), np.zeros(3, int), (3, 3), r"`labels` .*\(4,\)"),
        ((3, 4, 5), np.zeros(4, np.float32), (3, 3), "`labels` .*float32"),
    ],
)
def test_wrong_shapes_and_types_are_named(logits, labels, teaches, named):
    with pytest.raises(InputError, match=named):
        dks_jax.objective(np.zeros(logits), labels, np.zeros(teaches))
