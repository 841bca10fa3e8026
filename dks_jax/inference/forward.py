"""The forward pass in evaluation mode, compiled once over a mesh of all devices."""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dks_jax.data.feeds import Chunk, Feed
from dks_jax.nn import Functional, forms
from dks_jax.runtime.devices import Devices
from dks_jax.supervision import DeeplySupervised


class Output(NamedTuple):
    """Logits and labels of the examples of a batch, on the host.

    Attributes:
      logits: float32 [classifier, example, class].
      labels: integers [example].
    """

    logits: np.ndarray
    labels: np.ndarray


class Forward:
    """The compiled forward pass of a network on the batches of a feed.

    A computation in float32 has full precision on accelerators too.

    Args:
      network: a network in evaluation mode that returns logits [classifier, batch, class].
      feed: the feed, whose chunks must hold one batch each.
      devices: the devices to compute on.
    """

    def __init__(self, network: DeeplySupervised, feed: Feed, devices: Devices):
        self._network = Functional(network)
        self._feed = feed
        self._form = devices.form
        self._arrays = devices.replicate((self._network.params, self._network.batch_stats))
        self._apply = jax.jit(
            self._apply_batch, static_argnames="batch_size", compiler_options=devices.compiler_options
        )

    def batches(self) -> Iterator[Output]:
        """Yields the outputs of the feed's batches in order, without padding.

        The devices compute the next batch while the caller processes one.
        """
        in_flight = None
        for chunk in self._feed.chunks(0):
            dispatched = self._apply(*self._arrays, chunk.arrays, chunk.first, batch_size=chunk.batch_size)
            if in_flight:
                yield self._fetch(in_flight)
            in_flight = dispatched
        if in_flight:
            yield self._fetch(in_flight)

    def lower(self, chunk: Chunk) -> jax.stages.Lowered:
        """The lowered forward pass of a chunk, for inspection or to be compiled for other devices."""
        return self._apply.lower(*self._arrays, chunk.arrays, chunk.first, batch_size=chunk.batch_size)

    def _apply_batch(self, params, batch_stats, arrays, index, *, batch_size):
        # By default accelerators round the factors of a float32 product to 8 or 10 bits.
        with jax.default_matmul_precision("highest"), forms(self._form):
            batch = self._feed.batch(arrays, index, batch_size)
            logits = self._network.eval(params, batch_stats, batch.images)
        return logits.astype(jnp.float32), batch.targets, batch.weights

    @staticmethod
    def _fetch(dispatched) -> Output:
        logits, labels, weights = jax.device_get(dispatched)
        return Output(logits[:, weights == 1], labels[weights == 1])
