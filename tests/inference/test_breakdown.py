"""Where the errors are, by hand, and the bins of confidence against the calibration error."""

import numpy as np
import pytest

from dks_jax.inference.breakdown import agreement, class_errors, confusion_matrix, largest_confusions
from dks_jax.inference.metrics import expected_calibration_error, reliability

# Four classes, of which the last has no image.
LABELS = np.array([0, 0, 0, 1, 1, 2, 2, 2])
PREDICTED = np.array([0, 1, 1, 1, 3, 2, 1, 0])


def test_errors_by_class_by_hand():
    images, wrong = class_errors(LABELS, PREDICTED, 4)
    assert images.tolist() == [3, 2, 3, 0]
    assert wrong.tolist() == [2, 1, 2, 0]


def test_confusions_by_hand():
    matrix = confusion_matrix(LABELS, PREDICTED, 4)
    assert matrix.tolist() == [[1, 2, 0, 0], [0, 1, 0, 1], [1, 1, 1, 0], [0, 0, 0, 0]]
    assert largest_confusions(LABELS, PREDICTED, 3) == [(0, 1, 2), (1, 3, 1), (2, 0, 1)]
    assert len(largest_confusions(LABELS, PREDICTED, 9)) == 4
    assert largest_confusions(LABELS, LABELS, 9) == []


def test_two_classifiers_are_compared_by_hand():
    other = np.array([0, 1, 0, 0, 2, 2, 2, 3])
    own = agreement(LABELS, PREDICTED, other)
    assert own._asdict() == {
        "both_right": 2,
        "first_right": 1,
        "second_right": 2,
        "both_wrong": 3,
        "agreeing": 3,
    }
    assert agreement(LABELS, PREDICTED, PREDICTED)[1:3] == (0, 0)


def test_bins_by_hand():
    # An edge belongs to the bin below.
    own = reliability(np.array([0.5, 0.4, 0.9, 1.0]), np.array([True, False, True, True]), bins=4)
    assert own.counts.tolist() == [0, 2, 0, 2]
    np.testing.assert_allclose(own.confidences, [np.nan, 0.45, np.nan, 0.95])
    np.testing.assert_allclose(own.accuracies, [np.nan, 0.5, np.nan, 1.0])


def test_the_gaps_of_the_bins_sum_to_the_calibration_error():
    random = np.random.default_rng(0)
    confidences = random.uniform(0.1, 1, 500)
    correct = random.uniform(size=500) < confidences**2
    own = reliability(confidences, correct)
    assert own.counts.sum() == 500
    gaps = np.nansum(own.counts * np.abs(own.accuracies - own.confidences)) / 500
    assert gaps == pytest.approx(expected_calibration_error(confidences, correct), rel=1e-12)
