"""The way of images through the segments of a network, regrouped where some have left."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from dks_jax.inference.exits.rules import Rule


class Left(NamedTuple):
    """The images of a feed after each has left, in the order of the feed, on the host.

    Attributes:
      logits: of the classifier at which each left, float32 [example, class].
      classifier: index of this classifier, [example].
    """

    logits: np.ndarray
    classifier: np.ndarray


class Group(NamedTuple):
    """Images that lie in the first rows of a batch of features.

    features: [batch, ...] on the devices.
    ids: index of each image in the feed, [image].
    seen: logits of the classifiers that the images have passed, [exit, image, class].
    """

    features: Any
    ids: np.ndarray
    seen: np.ndarray


class Pass:
    """One pass of images through the segments of a network.

    Args:
      programs: the segments, functions from (input, batch size) to features and logits.
      gather: function from features, further features and rows of the two, one behind the other, to the
        features of these rows.
      classifiers: index of the classifier at the end of each segment.
      rule: which images leave where.
      total: number of images.
      progress: takes the number of images that have left, whenever some have.
    """

    def __init__(
        self,
        programs: Sequence[Callable[..., Any]],
        gather: Callable[..., Any],
        classifiers: Sequence[int],
        rule: Rule,
        *,
        total: int,
        progress: Callable[[int], object],
    ):
        self._programs = programs
        self._gather = gather
        self._classifiers = classifiers
        self._rule = rule
        self._progress = progress
        self._waiting: list[Group | None] = [None] * len(programs)
        self._ahead: tuple[Any, np.ndarray] | None = None
        self._size = 0
        self._logits: np.ndarray | None = None
        self._left = np.full(total, -1)

    def add(self, batch: Any, first: int, size: int) -> None:
        """Takes a batch through the first segment, and what fills a batch through further ones.

        Which images of a batch leave is decided when the next batch is on its way, so that the devices have
        work meanwhile.

        Args:
          batch: input of the first segment.
          first: index of the first image of the batch; those beyond the total are padding.
          size: number of images in every batch.
        """
        self._size = size
        ids = np.arange(first, min(first + size, len(self._left)))
        ahead, self._ahead = self._ahead, (self._programs[0](batch, size), ids)
        if ahead:
            self._settle(0, *ahead, None)

    def finish(self) -> Left:
        """Takes the images that still wait through the segments, in batches that are padded."""
        if self._ahead:
            self._settle(0, *self._ahead, None)
        # An earlier segment may add to the group of a later one.
        for index in range(len(self._programs)):
            if group := self._waiting[index]:
                self._waiting[index] = None
                self._advance(index, *group)
        assert self._logits is not None
        return Left(self._logits, self._left)

    def _advance(self, index: int, features: Any, ids: np.ndarray, seen: np.ndarray | None) -> None:
        """Takes images through a segment; those that do not leave behind it join the next one."""
        self._settle(index, self._programs[index](features, self._size), ids, seen)

    def _settle(self, index: int, outputs: Any, ids: np.ndarray, seen: np.ndarray | None) -> None:
        """Lets those of the images leave that do so behind a segment with these outputs."""
        features, logits = outputs
        own = np.asarray(logits)[: len(ids)]
        if index == len(self._programs) - 1:
            self._leave(index, ids, own)
            return
        seen = own[None] if seen is None else np.concatenate([seen, own[None]])
        leaves = self._rule.leaves(seen)
        self._leave(index, ids[leaves], own[leaves])
        rows = np.flatnonzero(~leaves)
        if len(rows):
            self._join(index + 1, Group(features, ids[rows], seen[:, rows]), rows)

    def _join(self, index: int, group: Group, rows: np.ndarray) -> None:
        """Adds images to those that wait before a segment, and takes them on once they fill a batch.

        Args:
          rows: the rows of the images in their features, where there are others too.
        """
        size, waiting = self._size, self._waiting[index]
        if waiting is None and len(rows) == size:
            self._advance(index, *group)
            return
        here, ids, seen = waiting or Group(group.features, group.ids[:0], group.seen[:, :0])
        rows = np.concatenate([np.arange(len(ids)), size + rows])
        ids, seen = np.concatenate([ids, group.ids]), np.concatenate([seen, group.seen], axis=1)

        def pack(begin: int) -> Group | None:
            own = slice(begin, begin + size)
            count = len(ids[own])
            if not count:
                return None
            # The program has one size; the rows behind the images are padding.
            chosen = np.zeros(size, np.int32)
            chosen[:count] = rows[own]
            return Group(self._gather(here, group.features, chosen), ids[own], seen[:, own])

        full = pack(0) if len(ids) >= size else None
        self._waiting[index] = pack(size if full else 0)
        if full:
            self._advance(index, *full)

    def _leave(self, index: int, ids: np.ndarray, logits: np.ndarray) -> None:
        if self._logits is None:
            self._logits = np.empty((len(self._left), logits.shape[-1]), np.float32)
        self._logits[ids] = logits
        self._left[ids] = self._classifiers[index]
        self._progress(len(ids))
