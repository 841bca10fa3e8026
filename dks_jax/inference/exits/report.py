"""The report of a study of early exits, as text and as JSON."""

import math
from typing import Any

from dks_jax.inference.evaluation import Evaluation
from dks_jax.inference.exits import operating_point
from dks_jax.inference.exits.latency import Seconds
from dks_jax.inference.exits.rules import Confidence
from dks_jax.inference.exits.study import Reported, Study, Wish
from dks_jax.reporting.tables import markdown_table


def show(evaluation: Evaluation, study: Study) -> str:
    """Formats a study: the classifiers, the operating point, the measured times, and remarks."""
    fitted, reported = (len(half) for half in study.halves)
    chosen, staying = study.chosen.measures, study.staying.measures
    lines = [
        f"fitted on {fitted:,} of the held-out images; everything below is of the other {reported:,}",
        "",
        markdown_table(_classifiers(evaluation, study)),
        "",
        f"operating point: error {chosen.error:.2f} %, the main classifier's {staying.error:.2f} % "
        f"({chosen.error - staying.error:+.2f} points, standard error {study.standard_error:.2f}); "
        f"mean cost {_percent(chosen.cost)} of the MACs of staying",
        "",
        markdown_table(_times(study)),
        f"(per image, {study.timed_images:,} images, median of the rounds and their range, in turns)",
    ]
    if found := remarks(evaluation, study):
        lines += ["", *found]
    return "\n".join(lines)


def remarks(evaluation: Evaluation, study: Study) -> list[str]:
    """Sentences on branches at which leaving does not pay."""
    names, exits = evaluation.network.names, study.chosen.rule.exits
    alone = {names[i]: study.costs.of_leaving(())[i] for i in range(len(names) - 1)}
    dear = [f"{name} ({_percent(cost)})" for name, cost in alone.items() if cost >= 1]
    found = []
    if dear:
        found.append(
            f"leaving costs more than staying at {', '.join(dear)}: train with slim branches, "
            "e.g. of one block a stage (docs/configuration.md; docs/performance.md lists what they cost)"
        )
    if not exits:
        found.append(
            "no exit pays: no threshold that meets the wish costs less than staying, so every image goes to "
            "the main classifier; wish a larger --loss, or train with slimmer branches"
        )
    elif study.chosen.measures.cost >= 1:
        found.append(
            "the operating point costs more than staying: too few images leave to pay for the branches"
        )
    return found


def as_json(evaluation: Evaluation, wish: Wish, study: Study) -> dict[str, Any]:
    """A study in types that JSON can hold, from which `operating_point.read` takes the rule."""
    names = evaluation.network.names
    fields = evaluation.config.data
    return {
        **operating_point.as_json(study.chosen.rule, evaluation.network),
        "weights": evaluation.weights,
        "wish": {name: value for name, value in wish._asdict().items() if value is not None},
        "data": {name: fields[name] for name in ("source", "name", "root", "held_out")},
        "fitted": {"num_examples": len(study.halves.fitted), **_measures(names, study.fitted)},
        "reported": {
            "num_examples": len(study.halves.reported),
            **_point(names, study.chosen),
            "standard_error": study.standard_error,
        },
        "staying": _point(names, study.staying),
        "errors": dict(zip(names, study.errors, strict=True)),
        "cost_of_leaving": dict(zip(names, _costs(study), strict=True)),
        "remarks": remarks(evaluation, study),
        "timed_images": study.timed_images,
        "curve": [_point(names, point) for point in study.curve],
        "patience_curve": [_point(names, point) for point in study.patient],
    }


def _costs(study: Study) -> list[float]:
    """The cost of leaving at each classifier: alone for a branch that is left out, else on the way."""
    alone, way = (study.costs.of_leaving(exits).tolist() for exits in ((), study.chosen.rule.exits))
    main, exits = len(alone) - 1, study.chosen.rule.exits
    return [way[index] if index in exits or index == main else alone[index] for index in range(len(alone))]


def _classifiers(evaluation: Evaluation, study: Study) -> list[list[str]]:
    names, rule = evaluation.network.names, study.chosen.rule
    rows = [["classifier", "error alone", "cost of leaving", "threshold", "temperature", "images that leave"]]
    for index, (name, error, cost) in enumerate(zip(names, study.errors, _costs(study), strict=True)):
        threshold = temperature = ""
        if isinstance(rule, Confidence) and index < len(names) - 1:
            own = rule.thresholds[index]
            threshold = f"{own:.4f}" if math.isfinite(own) else "left out"
            temperature = f"{rule.temperatures[index]:.3f}"
        share = study.chosen.measures.shares[index]
        rows.append([name, f"{error:.2f} %", _percent(cost), threshold, temperature, _percent(share)])
    return rows


def _times(study: Study) -> list[list[str]]:
    rows = [["batch", "rounds", "leaving early", "staying", "ratio"]]
    for size, early in study.chosen.seconds.items():
        staying = study.staying.seconds[size]
        ratio = f"{early.median / staying.median:.2f}"
        rows.append([str(size), str(early.rounds), _time(early), _time(staying), ratio])
    return rows


def _time(seconds: Seconds) -> str:
    median, least, most = (f"{1000 * value:.3g}" for value in seconds[:3])
    return f"{median} ms ({least}-{most})"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _measures(names: tuple[str, ...], measures: Any) -> dict[str, Any]:
    return {**measures._asdict(), "shares": dict(zip(names, measures.shares, strict=True))}


def _point(names: tuple[str, ...], point: Reported) -> dict[str, Any]:
    seconds = {str(size): own._asdict() for size, own in point.seconds.items()}
    return {
        **operating_point.describe(point.rule, names),
        **_measures(names, point.measures),
        "seconds_per_image": seconds,
    }
