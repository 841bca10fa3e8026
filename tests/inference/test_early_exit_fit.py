"""Early exits on arrays: rules, temperatures, thresholds and costs, against values by hand."""

import math
from itertools import groupby

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from dks_jax import DeeplySupervised, models
from dks_jax.inference.exits import (
    Confidence,
    Costs,
    Measures,
    Patience,
    Point,
    costs_of,
    fit,
    halves,
    where_left,
)
from dks_jax.inference.exits.fitting import Fit, first_reached, fit_temperature, levels, measures
from dks_jax.inference.metrics import example_scores
from dks_jax.nn import count_macs
from dks_jax.runtime.errors import InputError
from support.tiny_network import tiny_network

# Staying costs 100.
COSTS = Costs(trunk=(20, 60, 90), own=(10, 20, 10))
NEVER = math.inf


def logits_of(*probabilities):
    """Logits [classifier, example, class] of probabilities."""
    return np.log(np.array(probabilities, np.float64)).astype(np.float32)


# Two branches and the main classifier on four images.
LOGITS = logits_of(
    [[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.55, 0.45]],
    [[0.8, 0.2], [0.05, 0.95], [0.35, 0.65], [0.4, 0.6]],
    [[0.7, 0.3], [0.2, 0.8], [0.9, 0.1], [0.1, 0.9]],
)
LABELS = np.array([0, 1, 0, 1])


def random_logits(seed, classifiers=3, examples=24, classes=4):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, examples)
    logits = rng.normal(size=(classifiers, examples, classes)) + 2 * np.eye(classes)[labels]
    return logits.astype(np.float32), labels


@pytest.mark.parametrize(
    ("exits", "expected"),
    [((), [0.3, 0.8, 1.0]), ((0,), [0.3, 0.9, 1.1]), ((1,), [0.3, 0.8, 1.2]), ((0, 1), [0.3, 0.9, 1.3])],
)
def test_leaving_costs_the_trunk_and_the_branches_on_the_way(exits, expected):
    np.testing.assert_allclose(COSTS.of_leaving(exits), expected, rtol=1e-12)


def test_the_costs_of_a_network_are_the_products_that_it_computes():
    network = tiny_network(10)
    network.eval()
    image = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    costs = costs_of(network, (8, 8, 3))
    assert costs.staying == count_macs(network.drop_branches(), image)
    assert costs.of_leaving((0, 1))[-1] * costs.staying == pytest.approx(count_macs(network, image))
    # Leaving at the first branch: the network that ends there.
    early = DeeplySupervised(network.stem, list(network.stages)[:1], network.branches[0])
    assert costs.of_leaving(())[0] * costs.staying == pytest.approx(count_macs(early, image))


@pytest.mark.slow
def test_the_published_branches_are_no_cheap_exits():
    model, found = {"name": "wide_resnet", "depth": 28, "width": 10}, []

    def trace(image):
        network = models.build(model, num_classes=100, channels=3, seed=0)
        network.eval()
        found.append(costs_of(network, image.shape))
        return image

    jax.eval_shape(trace, jax.ShapeDtypeStruct((32, 32, 3), jnp.float32))
    # Calculated by hand from the layers.
    np.testing.assert_allclose(found[0].of_leaving(()), [0.82, 1.97, 1], atol=0.005)


@pytest.mark.parametrize(
    ("thresholds", "left"),
    [
        ((0.8, 0.9), [0, 1, 2, 2]),
        ((0.65, 0.6), [0, 1, 0, 1]),
        ((NEVER, 0.62), [1, 1, 1, 2]),
        ((0.58, NEVER), [0, 0, 0, 2]),
        ((0.0, 0.0), [0, 0, 0, 0]),
        ((NEVER, NEVER), [2, 2, 2, 2]),
    ],
)
def test_an_image_leaves_at_the_first_threshold_that_it_reaches(thresholds, left):
    rule = Confidence((1.0, 1.0), thresholds)
    assert where_left(rule, LOGITS).tolist() == left
    sure = np.array([[0.9, 0.6, 0.7, 0.55], [0.8, 0.95, 0.65, 0.6]])
    assert first_reached(sure, np.array(thresholds)).tolist() == left


def test_a_temperature_above_one_makes_less_sure():
    # p^(1/2) over its sum: 0.9 and 0.1 become 0.75 and 0.25.
    assert where_left(Confidence((2.0, 1.0), (0.76, NEVER)), LOGITS).tolist() == [2, 2, 2, 2]
    assert where_left(Confidence((2.0, 1.0), (0.74, NEVER)), LOGITS).tolist() == [0, 2, 2, 2]


@pytest.mark.parametrize(("patience", "left"), [(1, [0, 0, 0, 0]), (2, [1, 2, 1, 2])])
def test_patience_waits_for_classifiers_that_agree(patience, left):
    assert where_left(Patience(patience, 2), LOGITS).tolist() == left


def test_measures_by_hand():
    correct = LOGITS.argmax(axis=-1) == LABELS
    own = measures(np.array([0, 1, 0, 2]), correct, (0, 1), COSTS)
    # The third image is wrong; the costs are 0.3, 0.9, 0.3 and 1.3.
    assert own == Measures(25.0, pytest.approx(0.7), (0.5, 0.25, 0.25))


def test_levels_lie_between_the_confidences_and_end_at_none():
    np.testing.assert_allclose(levels(np.array([[0.5, 0.9], [0.9, 0.7]])), [0.8, 0.6, 0.0])
    many = levels(np.random.default_rng(0).random((2, 1000)))
    assert len(many) == 100
    assert np.all(np.diff(many) < 0)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("scale", [0.2, 1.0, 5.0])
def test_the_temperature_has_the_least_negative_log_likelihood(seed, scale):
    (logits,), labels = random_logits(seed, classifiers=1, examples=40)
    logits = scale * logits
    best = minimize_scalar(
        lambda log: example_scores(logits.astype(np.float64) / np.exp(log), labels).likelihoods.mean(),
        bounds=(-5, 5),
        method="bounded",
        options={"xatol": 1e-9},
    )
    assert fit_temperature(logits, labels) == pytest.approx(np.exp(best.x), rel=1e-5)


def test_without_a_best_temperature_it_is_one():
    right, labels = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]], np.array([0, 1, 2, 0])
    assert fit_temperature(right, labels) == 1
    assert fit_temperature(-right, labels) == 1


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(2, 4), st.sampled_from([0.0, 5.0, 30.0]))
def test_a_fit_meets_its_wish_and_costs_fall_with_the_threshold(seed, classifiers, loss):
    logits, labels = random_logits(seed, classifiers)
    costs = Costs(tuple(range(20, 20 * classifiers + 1, 20)), (5,) * classifiers)
    found = fit(logits, labels, costs)
    assert found.staying.fitted.cost == 1
    assert found.staying.rule.exits == ()
    by_exits = groupby(found.leaving, key=lambda point: point.rule.exits)
    paths = [list(points) for _, points in by_exits]
    assert len(paths) == 2 ** (classifiers - 1) - 1
    for path in paths:
        assert np.all(np.diff([point.fitted.cost for point in path]) <= 1e-12)
        # At threshold 0 all leave at the first exit.
        assert path[-1].fitted.shares[path[0].rule.exits[0]] == 1
    chosen = found.for_loss(loss)
    assert chosen.fitted.error <= found.staying.fitted.error + loss + 1e-9
    assert chosen.expected <= 1.01 * found.staying.expected + loss + 1e-9
    assert chosen.fitted.cost <= 1
    # What was fitted is what the rule does.
    correct = logits.argmax(axis=-1) == labels
    left = where_left(chosen.rule, logits)
    assert measures(left, correct, chosen.rule.exits, costs) == chosen.fitted
    losses = [found.loss(point) for point in found.frontier()]
    assert losses == sorted(losses, reverse=True)


def points(*measured):
    rule = Confidence((1.0,), (0.5,))
    return [Point(rule, Measures(error, cost, ()), expected) for error, expected, cost in measured]


def test_a_loss_is_the_cheapest_by_both_estimates_and_a_cost_the_best_below():
    staying, *leaving = points(
        *((10, 10, 1.0), (10, 10.1, 0.8), (11, 10, 0.7), (10, 10.6, 0.6), (12, 9, 0.5), (9, 9.6, 1.1))
    )
    found = Fit(staying, leaving)
    # An expected error of 10 % may rise by a hundredth of itself.
    np.testing.assert_allclose([found.loss(point) for point in leaving], [0, 1, 0.5, 2, -0.5], atol=1e-12)
    assert found.for_loss(0.0).fitted.cost == 0.8
    assert found.for_loss(0.5).fitted.cost == 0.6
    assert found.for_loss(2.0).fitted.cost == 0.5
    assert found.for_cost(1.0).fitted.cost == 0.8
    assert found.for_cost(0.79).fitted.cost == 0.6
    assert found.for_cost(0.5).fitted.cost == 0.5
    assert [point.fitted.cost for point in found.frontier()] == [0.5, 0.6, 0.8, 1.1]
    with pytest.raises(InputError, match=r"--cost.*0\.5"):
        found.for_cost(0.4)


def test_the_expected_error_is_what_the_confidences_lack():
    logits, labels = random_logits(0)
    found = fit(logits, labels, COSTS)
    temperature = fit_temperature(logits[-1], labels)
    lacking = 1 - example_scores(logits[-1] / temperature, labels).confidences
    assert found.staying.expected == pytest.approx(100 * lacking.mean())


@given(st.lists(st.integers(0, 5), min_size=2, max_size=60))
def test_halves_are_whole_apart_and_of_all_classes(labels):
    labels = np.array(labels)
    first, second = halves(labels)
    assert sorted([*first, *second]) == list(range(len(labels)))
    assert 0 <= len(first) - len(second) <= 1
    counts = [np.bincount(labels[half], minlength=6) for half in (first, second)]
    assert np.abs(np.subtract(*counts)).max() <= 1
