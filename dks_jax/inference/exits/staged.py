"""A network in segments, of which an image goes through no more than it needs."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import nnx

from dks_jax.data.feeds import Feed
from dks_jax.inference.exits.regrouping import Left, Pass
from dks_jax.inference.exits.rules import Rule
from dks_jax.nn import Functional, forms
from dks_jax.runtime.devices import Devices
from dks_jax.supervision import DeeplySupervised, Stage


class Segment(nnx.Module):
    """Stages and the classifier that forks behind them; from features to features and logits.

    Args:
      stages: modules from features to features; in the first segment of a network the stem comes first.
      classifier: a branch, or the main head.
    """

    def __init__(self, stages: Sequence[Stage], classifier: Stage):
        self.stages = nnx.List(stages)
        self.classifier = classifier

    def __call__(self, features: jax.Array) -> tuple[jax.Array, jax.Array]:
        for stage in self.stages:
            features = stage(features)
        return features, self.classifier(features)


def segments(network: DeeplySupervised, exits: Sequence[int]) -> list[Segment]:
    """The segments of a network, whose arrays they share, each up to one of the exits or the main head.

    Args:
      exits: indices of branches in depth order; the other branches belong to no segment.
    """
    made, stages, begin = [], [network.stem], 0
    for branch in (network.branches[index] for index in exits):
        made.append(Segment([*stages, *list(network.stages)[begin : branch.after + 1]], branch))
        stages, begin = [], branch.after + 1
    return [*made, Segment([*stages, *list(network.stages)[begin:]], network.head)]


class StagedNetwork:
    """A network that computes nothing behind the classifier at which an image leaves.

    Each segment is compiled once, for batches of the feed's size. After a segment the host decides which
    images leave. Those that go on wait before the next segment until they fill a batch; only the last batch
    of each segment is padded. A computation in float32 has full precision on accelerators too.

    Args:
      network: a network in evaluation mode.
      exits: the branches at which images can leave, by their indices in depth order.
      feed: the feed, whose chunks must hold one batch each.
      devices: the devices to compute on.
    """

    def __init__(self, network: DeeplySupervised, exits: Sequence[int], feed: Feed, devices: Devices):
        self._classifiers = (*exits, len(network.branches))
        self._feed = feed
        self._devices = devices
        self._programs = [
            self._compile(Functional(segment), first=index == 0, last=index == len(exits))
            for index, segment in enumerate(segments(network, exits))
        ]
        self._gather = jax.jit(
            lambda here, there, rows: devices.shard(jnp.take(jnp.concatenate([here, there]), rows, axis=0))
        )

    def run(self, rule: Rule, progress: Callable[[int], object] = lambda count: None) -> Left:
        """Takes all images of the feed through the network until each has left.

        Args:
          rule: a rule with the exits of this network.
          progress: takes the number of images that have left, whenever some have.
        """
        total = self._feed.num_examples
        own = Pass(self._programs, self._gather, self._classifiers, rule, total=total, progress=progress)
        for chunk in self._feed.chunks(0):
            own.add((chunk.arrays, chunk.first), chunk.first * chunk.batch_size, chunk.batch_size)
        return own.finish()

    def _compile(self, segment: Functional, *, first: bool, last: bool) -> Callable[..., Any]:
        """The compiled segment, from (input, batch size) to features and logits.

        The input of the first segment is (arrays of a chunk, index of the batch). Of the last one the
        features are None.
        """

        def images_of(given, batch_size):
            arrays, index = given
            return self._feed.batch(arrays, index, batch_size).images

        def apply(params, batch_stats, given, batch_size):
            # By default accelerators round the factors of a float32 product to 8 or 10 bits.
            with jax.default_matmul_precision("highest"), forms(self._devices.form):
                inputs = images_of(given, batch_size) if first else given
                features, logits = cast(Any, segment.eval(params, batch_stats, inputs))
            return None if last else features, logits.astype(jnp.float32)

        arrays = self._devices.replicate((segment.params, segment.batch_stats))
        program = jax.jit(apply, static_argnums=3, compiler_options=self._devices.compiler_options)
        return lambda given, batch_size: program(*arrays, given, batch_size)
