"""Top-k error, likelihood and calibration of logits, as pure functions of NumPy arrays in float64."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from dks_jax.reporting.measurements import ECE_BINS, calibration_error
from dks_jax.runtime.errors import InputError


class ExampleScores(NamedTuple):
    """The quantities of each example from which the metrics are computed; arrays [..., example].

    ranks: rank of the label among the classes, 0 where it is the predicted class.
    likelihoods: negative log-likelihood of the label, in nats.
    confidences: probability of the predicted class.
    """

    ranks: np.ndarray
    likelihoods: np.ndarray
    confidences: np.ndarray


class Metrics(NamedTuple):
    """The metrics of one classifier over all examples.

    Attributes:
      top1_error: share of examples whose label is not the likeliest class, in %.
      top5_error: share of examples whose label is not among the five likeliest classes, in %; None where
        there are no more than five.
      nll: mean negative log-likelihood of the labels, in nats.
      ece: expected calibration error, 0 to 1.
    """

    top1_error: float
    top5_error: float | None
    nll: float
    ece: float


def require_finite_logits(logits: np.ndarray, indices: Sequence[int], name: Callable[[int], str]) -> None:
    """Checks that all logits are finite.

    Args:
      logits: [classifier, example, class].
      indices: indices of the examples in their data set.
      name: function from an index to the name of the example, which is called only for the error.

    Raises:
      InputError: a logit is not finite.
    """
    finite = np.all(np.isfinite(logits), axis=(0, 2))
    if not finite.all():
        raise InputError(
            f"The logits must be finite; those of {name(indices[int(np.argmin(finite))])} are not: the "
            "weights are from a training that diverged, or the network overflows; try "
            "--config.precision=float32."
        )


def example_scores(logits: np.ndarray, labels: np.ndarray) -> ExampleScores:
    """The scores of each example from finite logits [..., example, class] and labels [example]."""
    log_probabilities = log_softmax(logits)
    index = np.broadcast_to(labels, logits.shape[:-1])[..., None]
    return ExampleScores(
        label_ranks(logits, labels),
        -np.take_along_axis(log_probabilities, index, axis=-1)[..., 0],
        np.exp(np.max(log_probabilities, axis=-1)),
    )


def metrics(scores: ExampleScores, num_classes: int) -> Metrics:
    """The metrics of one classifier, from scores of shape [example] with at least one example."""
    return Metrics(
        top1_error=100 * float(np.mean(scores.ranks >= 1)),
        top5_error=100 * float(np.mean(scores.ranks >= 5)) if num_classes > 5 else None,
        nll=float(np.mean(scores.likelihoods)),
        ece=expected_calibration_error(scores.confidences, scores.ranks == 0),
    )


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """The logarithms of the class probabilities, float64 [..., class], of logits [..., class]."""
    shifted = logits.astype(np.float64) - np.max(logits, axis=-1, keepdims=True)
    return shifted - np.log(np.sum(np.exp(shifted), axis=-1, keepdims=True))


def label_ranks(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The ranks of labels [example] among the classes by logits [..., example, class]; 0 is the likeliest.

    Equal logits are ranked by class index, as `argmax` does. The result is [..., example].
    """
    labels = labels[:, None]
    own = np.take_along_axis(logits, np.broadcast_to(labels, (*logits.shape[:-1], 1)), axis=-1)
    tied_before = (logits == own) & (np.arange(logits.shape[-1]) < labels)
    return np.sum((logits > own) | tied_before, axis=-1)


def expected_calibration_error(confidences: np.ndarray, correct: np.ndarray, bins: int = ECE_BINS) -> float:
    """The mean gap between confidence and accuracy over bins of confidence; see `calibration_error`.

    Args:
      confidences: probabilities of the predicted classes, [example].
      correct: whether each prediction is right, [example].
      bins: number of bins.
    """
    gaps = np.bincount(_bins(confidences, bins), weights=correct - confidences, minlength=bins)
    return calibration_error(gaps, len(confidences))


class Reliability(NamedTuple):
    """Confidence and accuracy in equal bins of confidence, of which 0 is the lowest; arrays [bin].

    counts: number of examples.
    confidences: mean confidence, 0 to 1; NaN where there is no example.
    accuracies: share of right predictions, 0 to 1; NaN where there is no example.
    """

    counts: np.ndarray
    confidences: np.ndarray
    accuracies: np.ndarray


def reliability(confidences: np.ndarray, correct: np.ndarray, bins: int = ECE_BINS) -> Reliability:
    """The points of a reliability diagram, in the bins of `expected_calibration_error`.

    That error is the mean over the examples of |accuracy - confidence| of their bins. Arguments as there.
    """
    index = _bins(confidences, bins)
    counts = np.bincount(index, minlength=bins)
    sums = (np.bincount(index, weights=values, minlength=bins) for values in (confidences, correct))
    with np.errstate(invalid="ignore"):
        return Reliability(counts, *(total / counts for total in sums))


def _bins(confidences: np.ndarray, bins: int) -> np.ndarray:
    """The bin of each confidence, of equal ones from 0 to 1; an edge belongs to the bin below."""
    return np.digitize(confidences, np.arange(1, bins) / bins, right=True)
