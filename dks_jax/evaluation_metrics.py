"""Top-k error, likelihood and calibration of logits, on the host in float64: pure functions."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from dks_jax.errors import InputError

ECE_BINS = 15


class Scores(NamedTuple):
    """What the figures need of every example; arrays [..., example].

    ranks: of the label among the classes, 0 where it is the answer.
    likelihoods: negative log-likelihood of the label, in nats.
    confidences: probability of the answer.
    """

    ranks: np.ndarray
    likelihoods: np.ndarray
    confidences: np.ndarray


class Figures(NamedTuple):
    """Of one classifier over all examples.

    top1_error, top5_error: how often the label is not the answer, or not among the five likeliest, in %.
    nll: mean negative log-likelihood of the labels, in nats.
    ece: expected calibration error, 0 to 1.
    """

    top1_error: float
    top5_error: float
    nll: float
    ece: float


def require_finite_logits(logits: np.ndarray, indices: Sequence[int], name: Callable[[int], str]) -> None:
    """Raises InputError where a logit of [classifier, example, class] is not finite; names the example.

    Args:
      indices: of the examples in their data.
      name: what the example of an index is called; may take long.
    """
    finite = np.all(np.isfinite(logits), axis=(0, 2))
    if not finite.all():
        raise InputError(
            f"The logits must be finite; those of {name(indices[int(np.argmin(finite))])} are not: the "
            "weights are of a training that diverged, or their network overflows; try "
            "--config.precision=float32."
        )


def scores(logits: np.ndarray, labels: np.ndarray) -> Scores:
    """The scores of finite logits [..., example, class] for labels [example]."""
    log_probabilities = log_softmax(logits)
    index = np.broadcast_to(labels, logits.shape[:-1])[..., None]
    return Scores(
        label_ranks(logits, labels),
        -np.take_along_axis(log_probabilities, index, axis=-1)[..., 0],
        np.exp(np.max(log_probabilities, axis=-1)),
    )


def figures(scores: Scores) -> Figures:
    """The figures of one classifier, from arrays [example] with one example or more."""
    return Figures(
        top1_error=100 * float(np.mean(scores.ranks >= 1)),
        top5_error=100 * float(np.mean(scores.ranks >= 5)),
        nll=float(np.mean(scores.likelihoods)),
        ece=expected_calibration_error(scores.confidences, scores.ranks == 0),
    )


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Logarithms of the probabilities [..., class], float64."""
    shifted = logits.astype(np.float64) - np.max(logits, axis=-1, keepdims=True)
    return shifted - np.log(np.sum(np.exp(shifted), axis=-1, keepdims=True))


def label_ranks(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How many classes come before the label, [..., example], by logits [..., example, class].

    Of equal logits the one with the lower index comes first, as in `argmax`.
    """
    labels = labels[:, None]
    own = np.take_along_axis(logits, np.broadcast_to(labels, (*logits.shape[:-1], 1)), axis=-1)
    tied_before = (logits == own) & (np.arange(logits.shape[-1]) < labels)
    return np.sum((logits > own) | tied_before, axis=-1)


def expected_calibration_error(confidences: np.ndarray, correct: np.ndarray, bins: int = ECE_BINS) -> float:
    """Mean gap between confidence and accuracy over bins of equal width, weighted by their examples; 0 to 1.

    Bin m of M holds the confidences above (m - 1) / M and up to m / M. Both arrays are [example].

    Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017, equation 3.
    """
    inner_edges = np.arange(1, bins) / bins
    index = np.digitize(confidences, inner_edges, right=True)
    gaps = np.bincount(index, weights=correct - confidences, minlength=bins)
    return float(np.sum(np.abs(gaps)) / len(confidences))
