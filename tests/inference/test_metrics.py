"""Ranks, likelihood and calibration by hand, against scikit-learn and PyTorch, and their properties."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss, top_k_accuracy_score

from dks_jax.inference.metrics import (
    ExampleScores,
    example_scores,
    expected_calibration_error,
    label_ranks,
    log_softmax,
    metrics,
)

RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.normal(0, 3, (2, 500, 12)).astype(np.float32)
LABELS = RANDOM.integers(0, 12, 500)


def of(logits, labels):
    logits = np.asarray(logits, np.float32)
    return metrics(example_scores(logits, np.asarray(labels)), max(logits.shape[-1], 6))


def test_figures_of_two_examples_by_hand():
    # Probabilities 3/4 and 1/4: the first is right with 3/4, the second wrong with 3/4.
    result = of([[math.log(3), 0], [math.log(3), 0]], [0, 1])
    assert result.top1_error == 50
    assert result.top5_error == 0
    assert result.nll == pytest.approx((math.log(4 / 3) + math.log(4)) / 2, rel=1e-6)
    # One bin holds both: accuracy 1/2, confidence 3/4.
    assert result.ece == pytest.approx(0.25, rel=1e-6)
    # An edge belongs to the bin below: in one bin the gaps 0.5 and 0.4 would partly cancel.
    confidences, correct = np.array([0.5, 0.6]), np.array([False, True])
    assert expected_calibration_error(confidences, correct, bins=2) == pytest.approx((0.5 + 0.4) / 2)


def test_calibration_equals_the_loop_of_the_paper_s_code():
    # github.com/gpleiss/temperature_scaling, ECELoss.forward, in float64.
    softmaxes = torch.softmax(torch.tensor(LOGITS[0], dtype=torch.float64), dim=1)
    confidences, predictions = torch.max(softmaxes, 1)
    accuracies = predictions.eq(torch.tensor(LABELS))
    boundaries = torch.linspace(0, 1, 16, dtype=torch.float64)
    expected = 0.0
    for lower, upper in pairwise(boundaries):
        inside = confidences.gt(lower) & confidences.le(upper)
        if inside.any():
            gap = confidences[inside].mean() - accuracies[inside].double().mean()
            expected += float(gap.abs() * inside.double().mean())
    assert of(LOGITS[0], LABELS).ece == pytest.approx(expected, rel=1e-12)


def test_errors_and_likelihood_equal_those_of_scikit_learn_and_pytorch():
    result = of(LOGITS[0], LABELS)
    for k, error in ((1, result.top1_error), (5, result.top5_error)):
        accuracy = top_k_accuracy_score(LABELS, LOGITS[0], k=k, labels=np.arange(12))
        assert error == pytest.approx(100 * (1 - accuracy), rel=1e-12)
    expected = torch.nn.functional.cross_entropy(
        torch.tensor(LOGITS[0], dtype=torch.float64), torch.tensor(LABELS)
    )
    assert result.nll == pytest.approx(float(expected), rel=1e-12)
    probabilities = np.exp(log_softmax(LOGITS[0]))
    assert result.nll == pytest.approx(log_loss(LABELS, probabilities, labels=np.arange(12)), rel=1e-12)


def test_logits_of_any_size_are_fine():
    result = of([[3e38, -3e38, 0], [-3e38, 0, 3e38]], [0, 1])
    assert result.top1_error == 50
    assert result.nll == pytest.approx(1.5e38, rel=1e-6)
    assert result.ece == pytest.approx(0.5)


few_logits = st.integers(1, 9).flatmap(
    lambda classes: st.lists(
        st.tuples(
            st.lists(st.integers(-2, 2), min_size=classes, max_size=classes), st.integers(0, classes - 1)
        ),
        min_size=1,
        max_size=30,
    )
)


@given(few_logits)
def test_ranks_are_places_in_a_stable_sort_and_top_1_is_argmax(examples):
    logits, labels = np.array([row for row, _ in examples]), np.array([label for _, label in examples])
    ranks = label_ranks(logits, labels)
    for row, label, rank in zip(logits, labels, ranks, strict=True):
        assert sorted(range(len(row)), key=lambda i: -row[i]).index(label) == rank
    np.testing.assert_array_equal(ranks == 0, np.argmax(logits, axis=-1) == labels)


@given(few_logits, st.randoms(use_true_random=False))
def test_ranges_and_the_order_of_examples(examples, random):
    result = of([row for row, _ in examples], [label for _, label in examples])
    assert 0 <= result.ece <= 1
    assert 0 <= result.top5_error <= result.top1_error <= 100
    assert result.nll >= 0
    if len(examples[0][0]) <= 5:
        assert result.top5_error == 0
    random.shuffle(examples)
    shuffled = of([row for row, _ in examples], [label for _, label in examples])
    assert shuffled == pytest.approx(result, rel=1e-12, abs=1e-12)


def test_scores_may_come_in_parts_and_for_several_classifiers_at_once():
    parts = [example_scores(LOGITS[:, part], LABELS[part]) for part in (slice(0, 7), slice(7, 500))]
    together = ExampleScores(*(np.concatenate(arrays, axis=1) for arrays in zip(*parts, strict=True)))
    for i in range(2):
        assert metrics(ExampleScores(*(array[i] for array in together)), 6) == of(LOGITS[i], LABELS)
