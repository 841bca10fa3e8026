"""The measured time of leaving early beside that of staying, taken in turns in one process."""

import statistics
import time
from collections.abc import Sequence
from typing import NamedTuple

from dks_jax.data import Feed
from dks_jax.inference.exits.rules import Rule
from dks_jax.inference.exits.staged import StagedNetwork
from dks_jax.runtime.devices import Devices
from dks_jax.supervision import DeeplySupervised

BATCH_SIZES = (1, 32)
# Further rounds up to the most are taken for as long as the time is not spent: short ones vary more.
ROUNDS, MOST_ROUNDS, SPENT = 5, 30, 5.0
# More images would show the shares that leave no better than their spread over the rounds.
MOST_IMAGES = 256


class Seconds(NamedTuple):
    """Time per image in seconds, over the rounds: from images on the devices to logits on the host."""

    median: float
    least: float
    most: float
    rounds: int


def measure(network: DeeplySupervised, rules: Sequence[Rule], feed: Feed, devices: Devices) -> list[Seconds]:
    """The time per image of each of several rules, which take turns in every round.

    Args:
      network: a network in evaluation mode.
      rules: the rules; one without exits stays, in the plain backbone.
      feed: the images, which are on the devices, with one batch in each chunk.
      devices: the devices to compute on.
    """
    # Rules with the same exits share the compiled segments.
    staged = {rule.exits: StagedNetwork(network, rule.exits, feed, devices) for rule in rules}
    for rule in rules:
        staged[rule.exits].run(rule)
    times: list[list[float]] = [[] for _ in rules]
    start = time.perf_counter()
    while (rounds := len(times[-1])) < ROUNDS or (
        rounds < MOST_ROUNDS and time.perf_counter() - start < SPENT
    ):
        for rule, own in zip(rules, times, strict=True):
            begin = time.perf_counter()
            staged[rule.exits].run(rule)
            own.append((time.perf_counter() - begin) / feed.num_examples)
    return [Seconds(statistics.median(own), min(own), max(own), len(own)) for own in times]
