"""The rules by which an image leaves at a classifier, on logits in NumPy."""

import math
from typing import NamedTuple, Protocol

import numpy as np

from dks_jax.inference.metrics import log_softmax


class Rule(Protocol):
    """Decides after each of some classifiers which images leave there; the others go on to the main one."""

    @property
    def exits(self) -> tuple[int, ...]:
        """The branches that are computed, by their indices in depth order; the others are left out."""
        ...

    def leaves(self, seen: np.ndarray) -> np.ndarray:
        """Which images leave, bool [example].

        Args:
          seen: logits [exit, example, class] of the first of `exits`, up to that at which the images are.
        """
        ...


class Confidence(NamedTuple):
    """An image leaves at the first classifier whose confidence reaches the threshold of this classifier.

    The confidence is the largest probability, calibrated by temperature scaling: that of
    softmax(logits / temperature).

    Attributes:
      temperatures: temperature of each branch.
      thresholds: smallest confidence, 0 to 1, at which an image leaves, of each branch; infinity leaves the
        branch out.

    Source: Teerapittayanon et al., BranchyNet, ICPR 2016, arXiv:1709.01686, algorithm 1, with confidence in
    the place of entropy as in Huang et al., Multi-Scale Dense Networks, ICLR 2018, arXiv:1703.09844.
    """

    temperatures: tuple[float, ...]
    thresholds: tuple[float, ...]

    @property
    def exits(self) -> tuple[int, ...]:
        """See `Rule`."""
        return tuple(i for i, threshold in enumerate(self.thresholds) if math.isfinite(threshold))

    def leaves(self, seen: np.ndarray) -> np.ndarray:
        """See `Rule`; `seen` is [exit, example, class]."""
        index = self.exits[len(seen) - 1]
        return confidences(seen[-1], self.temperatures[index]) >= self.thresholds[index]


class Patience(NamedTuple):
    """An image leaves as soon as so many consecutive classifiers predict the same class.

    Attributes:
      patience: the number of classifiers that agree, 1 or more; with 1 every image leaves at the first.
      branches: number of branches, all of which are computed.

    Source: Zhou et al., BERT Loses Patience, NeurIPS 2020, arXiv:2006.04152, section 3.2. It counts
    agreements with the classifier before, which is one less.
    """

    patience: int
    branches: int

    @property
    def exits(self) -> tuple[int, ...]:
        """See `Rule`."""
        return tuple(range(self.branches))

    def leaves(self, seen: np.ndarray) -> np.ndarray:
        """See `Rule`; `seen` is [exit, example, class]."""
        last = np.argmax(seen[-self.patience :], axis=-1)
        return np.all(last == last[0], axis=0) & (len(seen) >= self.patience)


def confidences(logits: np.ndarray, temperature: float) -> np.ndarray:
    """The largest probability of each example, float64 [...], of logits [..., class] over a temperature."""
    return np.exp(np.max(log_softmax(logits.astype(np.float64) / temperature), axis=-1))


def where_left(rule: Rule, logits: np.ndarray) -> np.ndarray:
    """The index of the classifier at which each image leaves, [example], from the logits of all classifiers.

    Args:
      rule: the rule.
      logits: [classifier, example, class], main classifier last.
    """
    left = np.full(logits.shape[1], len(logits) - 1)
    stays = np.ones(logits.shape[1], bool)
    for count, index in enumerate(rule.exits, start=1):
        leaves = stays & rule.leaves(logits[list(rule.exits[:count])])
        left[leaves] = index
        stays &= ~leaves
    return left
