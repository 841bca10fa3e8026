"""The parts of one run's section: where its errors are, how sure it is, and how its classifiers differ."""

import numpy as np

from dks_jax.inference.breakdown import agreement, class_errors, confusion_matrix, largest_confusions
from dks_jax.inference.metrics import reliability
from report_page.figures import FEW, classifier_colour, reliability_diagram
from report_page.gathering import MISTAKES, Mistake, Outcome
from report_page.markup import Markup, chip, element, joined, scrolling, table

# More classes than this are not listed each.
LISTED = 20


def per_class(outcome: Outcome) -> Markup:
    """The errors of every classifier in each class, the worst first."""
    own, count = outcome.examples, len(outcome.class_names)
    of_each = [class_errors(own.labels, predicted, count) for predicted in own.predictions]
    images = of_each[0][0]
    present = np.flatnonzero(images)
    errors = np.array([100 * wrong[present] / images[present] for _, wrong in of_each])
    order = np.lexsort((-images[present], -errors[-1]))
    *branches, main = outcome.classifiers
    lines: list[list[str]] = [["class", "images", main, *branches]]
    for place in order[:LISTED]:
        shown = [f"{error:.2f}" for error in errors[:-1, place]]
        label = present[place]
        worst = errors[-1, place]
        bar = element("span", f"{worst:.2f}", class_="share", style=f"--share: {worst:.1f}%")
        lines.append([outcome.class_names[label], f"{images[label]:,}", bar, *shown])
    more = f", the {LISTED} worst of {len(present):,} classes" if len(present) > LISTED else ""
    return _part("Errors by class", table(f"Error in % of each classifier{more}", lines))


def confusion(outcome: Outcome) -> Markup:
    """Which classes the main classifier takes for which: all of them, or the most frequent pairs of many."""
    own, names = outcome.examples, outcome.class_names
    pairs = largest_confusions(own.labels, own.predictions[-1], LISTED)
    if not pairs:
        return _part("Confusion", element("p", "The main classifier takes no image for another class."))
    if len(names) <= LISTED:
        return _part("Confusion", _heat_map(outcome, most=pairs[0].images))
    images = np.bincount(own.labels)
    lines = [["class", "is taken for", "images", "share, %"]]
    for pair in pairs:
        share = 100 * pair.images / images[pair.label]
        lines.append([names[pair.label], names[pair.prediction], f"{pair.images:,}", f"{share:.1f}"])
    return _part("Confusion", table("The most frequent confusions of the main classifier", lines, texts=2))


def _heat_map(outcome: Outcome, most: int) -> Markup:
    """The confusion matrix, the confusions coloured by their number of images; `most` is the largest."""
    own, names = outcome.examples, outcome.class_names
    matrix = confusion_matrix(own.labels, own.predictions[-1], len(names)).tolist()
    long = "long" if max(map(len, names)) > 3 else None
    head = [element("th", element("span", name), scope="col", class_=long) for name in names]
    rows = [
        element(
            "tr",
            element("th", names[label], scope="row", class_="text"),
            *(
                element(
                    "td",
                    f"{count:,}",
                    class_="right" if predicted == label else "wrong",
                    style=f"--share: {count / most:.2f}",
                )
                if count
                else element("td")
                for predicted, count in enumerate(counts)
            ),
        )
        for label, counts in enumerate(matrix)
    ]
    caption = "Number of images by class (rows) and prediction of the main classifier (columns)"
    corner = element("td")
    own_table = element(
        "table",
        element("caption", caption),
        element("thead", element("tr", corner, *head)),
        element("tbody", *rows),
        class_="heat",
    )
    return scrolling(own_table, caption)


def calibration(outcome: Outcome) -> Markup:
    """A reliability diagram of each classifier."""
    own, count = outcome.examples, len(outcome.classifiers)
    figures = []
    for place, (name, metrics) in enumerate(outcome.classifiers.items()):
        correct = own.predictions[place] == own.labels
        bins = reliability(own.confidences[place], correct)
        colour = classifier_colour(place, count)
        sure, right = (100 * float(np.mean(values)) for values in (own.confidences[place], correct))
        said = f"ECE {metrics.ece:.4f}, mean confidence {sure:.1f}\u00a0%, right {right:.1f}\u00a0%"
        caption = element("figcaption", chip(name, colour), element("span", said, class_="note"))
        figures.append(element("figure", caption, reliability_diagram(bins, f"{name}: {said}", colour)))
    note = (
        "Share of right predictions over confidence, in 15 bins; on the dashed line confidence is right. "
        f"Orange: the gap between the two. Pale: fewer than {FEW} images. Below: how many images there are."
    )
    return _part(
        "Calibration", element("p", note, class_="note"), element("div", *figures, class_="diagrams")
    )


def mistakes(outcome: Outcome) -> Markup:
    """The images that the main classifier gets wrong with the highest confidence."""
    wrong = int(np.count_nonzero(outcome.examples.predictions[-1] != outcome.examples.labels))
    total = len(outcome.examples.labels)
    said = f"{wrong:,} of {total:,} images are wrong" + (
        f"; the {MISTAKES} most confident ones" if wrong > MISTAKES else ""
    )
    cards = element("ol", *(_card(outcome, mistake) for mistake in outcome.mistakes), class_="mistakes")
    return _part("Most confident mistakes", element("p", f"{said}.", class_="note"), cards if wrong else "")


def _card(outcome: Outcome, mistake: Mistake) -> Markup:
    label, predicted = (outcome.class_names[place] for place in (mistake.label, mistake.predictions[-1]))
    *branches, _ = outcome.classifiers
    others = [
        element("li", f"{name}: {outcome.class_names[own]}", class_="right" if own == mistake.label else None)
        for name, own in zip(branches, mistake.predictions[:-1], strict=True)
    ]
    return element(
        "li",
        element(
            "img", src=mistake.picture, alt=f"{mistake.name}: {label}, taken for {predicted}", loading="lazy"
        ),
        element("p", "is ", element("strong", label)),
        element("p", "taken for ", element("strong", predicted), f", {100 * mistake.confidence:.1f}\u00a0%"),
        element("ul", *others) if others else "",
        element("p", mistake.name, class_="name"),
    )


def disagreement(outcome: Outcome) -> Markup:
    """How often each branch agrees with the main classifier, and which of the two is right where not."""
    own = outcome.examples
    *branches, _ = outcome.classifiers
    if not branches:
        return joined([])
    header = ["agrees, %", "both right", "only main right", "only it right", "both wrong"]
    lines = [["branch", *header, "main's error if agreed, %", "if not, %"]]
    for name, predicted in zip(branches, own.predictions[:-1], strict=True):
        found = agreement(own.labels, own.predictions[-1], predicted)
        apart = len(own.labels) - found.agreeing
        wrong_agreed = found.agreeing - found.both_right
        wrong_apart = found.second_right + found.both_wrong - wrong_agreed
        lines.append(
            [
                name,
                _percent(found.agreeing, len(own.labels)),
                *(f"{images:,}" for images in found[:4]),
                _percent(wrong_agreed, found.agreeing),
                _percent(wrong_apart, apart),
            ]
        )
    return _part(
        "Where the branches disagree", table("Each branch beside the main classifier, images", lines)
    )


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2f}" if whole else "-"


def _part(title: str, *content: str) -> Markup:
    return element("section", element("h3", title), *content)
