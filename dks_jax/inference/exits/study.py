"""The fit of early exits on one half of the held-out images, and what it comes to on the other half."""

from typing import NamedTuple

import numpy as np

from dks_jax.data import Feed, Preparation, Split, StoredSplit, held_out_feed
from dks_jax.inference.evaluation import Evaluation, evaluate
from dks_jax.inference.exits import latency
from dks_jax.inference.exits.costs import Costs, costs_of
from dks_jax.inference.exits.fitting import Fit, Halves, Measures, fit, halves, measures
from dks_jax.inference.exits.latency import Seconds
from dks_jax.inference.exits.rules import Patience, Rule, where_left
from dks_jax.inference.exits.staged import StagedNetwork
from dks_jax.inference.metrics import label_ranks
from dks_jax.runtime.devices import Devices
from dks_jax.runtime.errors import InputError
from dks_jax.supervision import DeeplySupervised

# Points of the curve whose time is measured.
TIMED = 6


class Wish(NamedTuple):
    """What is wished of an operating point; exactly one of the three is not None.

    cost: mean cost, as a share of the MACs of staying.
    loss: loss of accuracy against staying, in points of %.
    patience: number of consecutive classifiers that agree; see `Patience`.
    """

    cost: float | None = None
    loss: float | None = None
    patience: int | None = None


class Reported(NamedTuple):
    """A rule on the half that it was not fitted on.

    rule: the rule.
    measures: what it does to the images.
    seconds: measured times per image by batch size; empty where none were measured.
    """

    rule: Rule
    measures: Measures
    seconds: dict[int, Seconds]


class Study(NamedTuple):
    """The operating point of a network and its surroundings.

    costs: costs of the network.
    halves: the two halves of the held-out images.
    fitted: measures of the operating point on the half that it was fitted on.
    chosen: the operating point on the other half, from a pass in which the images really leave.
    staying: the main classifier on the other half, without any branch.
    standard_error: standard error of the difference of the two errors, in points of %.
    errors: top-1 error of each classifier alone on the other half, %.
    curve: the points that lose less than all that are as cheap on the fitting half, by rising cost.
    patient: what patience does, for every number of classifiers, fewest first.
    timed_images: number of images that were timed.
    """

    costs: Costs
    halves: Halves
    fitted: Measures
    chosen: Reported
    staying: Reported
    standard_error: float
    errors: tuple[float, ...]
    curve: list[Reported]
    patient: list[Reported]
    timed_images: int


def study(evaluation: Evaluation, wish: Wish, *, time_curve: bool) -> Study:
    """Fits the exits of a network and reports on the images that were not fitted on.

    Args:
      evaluation: weights and images, from `evaluation.prepare` with a config in float32.
      wish: what is wished.
      time_curve: whether to measure the time of points of the curve too.

    Raises:
      InputError: the network has no branches, the wish cannot be met, there is only one image, images cannot
        be decoded, or a logit is not finite.
    """
    require(evaluation, wish)
    network, split, fields = evaluation.network, evaluation.held_out.split, evaluation.config.data
    devices = Devices(batches_per_call=1, deterministic=evaluation.config.deterministic)
    preparation = Preparation(tuple(fields.mean), tuple(fields.std))

    def feed(of: Split | StoredSplit, batch_size: int = fields.batch_size) -> Feed:
        return held_out_feed(of, preparation, batch_size=batch_size, devices=devices)

    result = evaluate(evaluation, keep_logits=True)
    logits, labels = result.logits, result.examples.labels
    assert logits is not None
    costs, own = costs_of(network, split.image_shape), halves(labels)
    fitted = fit(logits[:, own.fitted], labels[own.fitted], costs)
    rule = _choose(wish, fitted, len(network.branches))
    right = label_ranks(logits, labels) == 0

    def simulate(rule: Rule, half: np.ndarray) -> Measures:
        return measures(where_left(rule, logits[:, half]), right[:, half], rule.exits, costs)

    # What is said of the operating point comes from images that really leave.
    left = StagedNetwork(network, rule.exits, feed(split.take(own.reported)), devices).run(rule)
    correct = label_ranks(left.logits, labels[own.reported]) == 0
    really = measures(
        left.classifier, np.broadcast_to(correct, (len(logits), len(correct))), rule.exits, costs
    )
    differences = right[-1, own.reported].astype(int) - correct

    curve = [each.rule for each in fitted.frontier()]
    timed = {fitted.staying.rule: None, rule: None} | dict.fromkeys(_some(curve) if time_curve else ())
    few = split.take(own.reported[: latency.MOST_IMAGES])
    few = few if isinstance(few, Split) else few.in_memory()
    times = {
        size: dict(zip(timed, latency.measure(network, list(timed), feed(few, size), devices), strict=True))
        for size in latency.BATCH_SIZES
    }

    def report(rule: Rule) -> Reported:
        seconds = {size: of[rule] for size, of in times.items() if rule in of}
        return Reported(rule, simulate(rule, own.reported), seconds)

    return Study(
        costs=costs,
        halves=own,
        fitted=simulate(rule, own.fitted),
        chosen=report(rule)._replace(measures=really),
        staying=report(fitted.staying.rule),
        standard_error=100 * float(np.std(differences) / np.sqrt(len(differences))),
        errors=tuple((100 * np.mean(~right[:, own.reported], axis=1)).tolist()),
        curve=[report(rule) for rule in curve],
        patient=[report(patience) for patience in _patiences(network)],
        timed_images=few.num_examples,
    )


def require(evaluation: Evaluation, wish: Wish) -> None:
    """Raises InputError unless there are branches, images for both halves, and a wish in its range."""
    branches, images = len(evaluation.network.branches), evaluation.held_out.split.num_examples
    if not branches:
        raise InputError(
            "`--weights` must be of a network with branches, at which images can leave; that of "
            f"{evaluation.weights} has none: train it by a method with branches, e.g. dks."
        )
    if images < 2:
        raise InputError(
            f"The held-out images must be at least 2, one to fit on and one to report on; got {images}."
        )
    if wish.cost is not None and not 0 < wish.cost <= 1:
        raise InputError(
            f"`--cost` must be a share of the MACs of staying, above 0 and at most 1; got {wish.cost:g}."
        )
    if wish.loss is not None and not 0 <= wish.loss <= 100:
        raise InputError(f"`--loss` must be a loss of accuracy in points of %, 0 to 100; got {wish.loss:g}.")
    if wish.patience is not None and not 1 <= wish.patience <= branches:
        raise InputError(
            "`--patience` must be a number of classifiers that agree, from 1 to that of the branches, "
            f"{branches}; got {wish.patience}."
        )


def _choose(wish: Wish, fitted: Fit, branches: int) -> Rule:
    if wish.patience is not None:
        return Patience(wish.patience, branches)
    if wish.cost is not None:
        return fitted.for_cost(wish.cost).rule
    assert wish.loss is not None
    return fitted.for_loss(wish.loss).rule


def _patiences(network: DeeplySupervised) -> list[Patience]:
    branches = len(network.branches)
    return [Patience(count, branches) for count in range(1, branches + 1)]


def _some(rules: list[Rule]) -> list[Rule]:
    """At most TIMED of the rules, evenly spaced, the first and the last among them."""
    return [rules[index] for index in np.unique(np.linspace(0, len(rules) - 1, TIMED).round().astype(int))]
