"""Temperatures and thresholds, fitted to logits and labels of held-out images in NumPy.

After temperature scaling a confidence means the same at every classifier, so that one threshold serves all
exits that are taken: an image that leaves is wrong with a probability of at most one minus the threshold, as
far as the calibration is right. Every choice of exits is tried, with thresholds between all confidences
and 0.

The loss of accuracy of a point is estimated twice, from the errors that are counted and from the calibrated
confidences, and a wish must be met by both: few images have few errors to count, and a calibration may be
off. An expected error that rises by less than a hundredth of itself counts as none.

Source of the temperatures: Guo et al., On Calibration of Modern Neural Networks, ICML 2017,
arXiv:1706.04599, section 4.2.
"""

import math
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from dks_jax.inference.exits.costs import Costs
from dks_jax.inference.exits.rules import Confidence, Rule, confidences
from dks_jax.inference.metrics import label_ranks
from dks_jax.runtime.errors import InputError

SEED = 0
# The thresholds that are tried for each choice of exits.
LEVELS = 100
# The share of an expected error up to which a rise is none: a calibration is hardly better than that, and a
# main classifier that is always a little surer than the branches would let nothing leave.
CALIBRATED = 0.01
# What rounding may do to an error or a cost.
TOLERANCE = 1e-9


class Halves(NamedTuple):
    """Two halves of the examples of a split.

    Attributes:
      fitted: indices of the examples to fit on, ascending.
      reported: indices of the examples to report on, ascending.
    """

    fitted: np.ndarray
    reported: np.ndarray


class Measures(NamedTuple):
    """What a rule does to images.

    Attributes:
      error: top-1 error, %.
      cost: mean cost in MACs, as a share of staying.
      shares: share of the images that leaves at each classifier, 0 to 1.
    """

    error: float
    cost: float
    shares: tuple[float, ...]


class Point(NamedTuple):
    """A rule on the half that it was fitted on.

    Attributes:
      rule: the rule.
      fitted: what it does to the images.
      expected: the error that the calibrated confidences let expect, %.
    """

    rule: Rule
    fitted: Measures
    expected: float


class Fit(NamedTuple):
    """The points that were tried.

    staying: the point at which every image goes to the main classifier and no branch is computed.
    leaving: the others, for each choice of exits in the order of falling thresholds.
    """

    staying: Point
    leaving: list[Point]

    @property
    def points(self) -> list[Point]:
        """All points."""
        return [self.staying, *self.leaving]

    def loss(self, point: Point) -> float:
        """The loss of accuracy of a point, in points of %: the larger of the two estimates."""
        counted = point.fitted.error - self.staying.fitted.error
        return max(counted, point.expected - (1 + CALIBRATED) * self.staying.expected)

    def for_loss(self, loss: float) -> Point:
        """The cheapest point that loses at most `loss`.

        Args:
          loss: wished loss of accuracy, in points of %.
        """
        met = [point for point in self.points if self.loss(point) <= loss + TOLERANCE]
        return min(met, key=lambda point: (point.fitted.cost, self.loss(point)))

    def for_cost(self, cost: float) -> Point:
        """The point that loses least among those with a mean cost of at most `cost`.

        Args:
          cost: wished mean cost as a share of the MACs of staying.

        Raises:
          InputError: no point is as cheap.
        """
        met = [point for point in self.points if point.fitted.cost <= cost + TOLERANCE]
        if not met:
            least = min(point.fitted.cost for point in self.points)
            raise InputError(
                f"`--cost` must be at least {math.ceil(1000 * least) / 1000:g}, the share of the MACs of "
                f"staying that leaving always at the cheapest exit takes; got {cost:g}."
            )
        return min(met, key=lambda point: (self.loss(point), point.fitted.cost))

    def frontier(self) -> list[Point]:
        """The points that lose less than all that are as cheap, by rising cost."""
        best: list[Point] = []
        for point in sorted(self.points, key=lambda point: (point.fitted.cost, self.loss(point))):
            if not best or self.loss(point) < self.loss(best[-1]):
                best.append(point)
        return best


def halves(labels: np.ndarray) -> Halves:
    """Divides examples into two random halves, always the same, in which each class is halved too.

    Args:
      labels: integers [example].
    """
    shuffled = np.random.default_rng(SEED).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    return Halves(np.sort(by_class[::2]), np.sort(by_class[1::2]))


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature T at which softmax(logits / T) has the least negative log-likelihood of the labels.

    It is 1 where the likelihood has no such maximum: where no prediction is wrong, or where the label's logit
    is below the mean of all on average.

    Args:
      logits: [example, class].
      labels: integers [example].
    """
    logits = logits.astype(np.float64)
    own = logits[np.arange(len(labels)), labels]

    def slope(inverse: float) -> float:
        """The derivative of the mean loss with respect to 1 / T, which rises with 1 / T."""
        shifted = np.exp(inverse * (logits - logits.max(axis=-1, keepdims=True)))
        expected = (shifted * logits).sum(axis=-1) / shifted.sum(axis=-1)
        return float(np.mean(expected - own))

    if not slope(0.0) < 0 < np.mean(logits.max(axis=-1) - own):
        return 1.0
    low, high = 0.0, 1.0
    while slope(high) < 0:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return 2 / (low + high)


def fit(logits: np.ndarray, labels: np.ndarray, costs: Costs) -> Fit:
    """Fits temperatures, and tries thresholds.

    Args:
      logits: [classifier, example, class], main classifier last.
      labels: integers [example].
      costs: costs of the network.
    """
    branches = len(logits) - 1
    temperatures = [fit_temperature(own, labels) for own in logits]
    sure = np.stack([confidences(*pair) for pair in zip(logits, temperatures, strict=True)])
    correct = label_ranks(logits, labels) == 0

    def point(thresholds: np.ndarray) -> Point:
        rule = Confidence(tuple(temperatures[:-1]), tuple(thresholds.tolist()))
        left = first_reached(sure[:-1], thresholds)
        expected = 100 * float(np.mean(1 - sure[left, np.arange(len(left))]))
        return Point(rule, measures(left, correct, rule.exits, costs), expected)

    nowhere = np.full(branches, math.inf)
    leaving = []
    for count in range(1, branches + 1):
        for exits in combinations(range(branches), count):
            taken = np.isin(np.arange(branches), exits)
            leaving += [point(np.where(taken, level, nowhere)) for level in levels(sure[:-1][taken])]
    return Fit(point(nowhere), leaving)


def levels(sure: np.ndarray) -> np.ndarray:
    """Falling thresholds for confidences of any shape, at most LEVELS of them, the last of which is 0.

    They lie midway between neighbouring confidences, so that rounding changes no decision of the fit.
    """
    different = np.unique(sure)[::-1]
    between = np.append((different[:-1] + different[1:]) / 2, 0.0)
    return between[np.unique(np.linspace(0, len(between) - 1, LEVELS).round().astype(int))]


def first_reached(sure: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """The index of the classifier at which each example leaves, [example].

    Args:
      sure: confidences [branch, example].
      thresholds: [branch].
    """
    reached = sure >= thresholds[:, None]
    return np.argmax(np.concatenate([reached, np.ones_like(reached[:1])]), axis=0)


def measures(left: np.ndarray, correct: np.ndarray, exits: Sequence[int], costs: Costs) -> Measures:
    """The measures of images that have left.

    Args:
      left: index of the classifier at which each example left, [example].
      correct: whether each classifier is right, [classifier, example].
      exits: the branches that were computed; see `Rule`.
      costs: costs of the network.
    """
    right = correct[left, np.arange(len(left))]
    shares = np.bincount(left, minlength=len(correct)) / len(left)
    return Measures(
        100 * float(np.mean(~right)), float(shares @ costs.of_leaving(exits)), tuple(shares.tolist())
    )
