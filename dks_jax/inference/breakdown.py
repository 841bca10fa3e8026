"""Where the errors of a classifier are: by class, by pair of classes, and against another classifier.

Labels and predictions are integers [example], places in the list of classes.
"""

from typing import NamedTuple

import numpy as np


def class_errors(
    labels: np.ndarray, predictions: np.ndarray, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """The number of images and of wrong predictions among them of each class, integers [class] each."""
    images = np.bincount(labels, minlength=num_classes)
    return images, np.bincount(labels[predictions != labels], minlength=num_classes)


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> np.ndarray:
    """The number of images by class and predicted class, integers [class, predicted class]."""
    pairs = np.bincount(labels * num_classes + predictions, minlength=num_classes**2)
    return pairs.reshape(num_classes, num_classes)


class Confusion(NamedTuple):
    """So many images of the class `label` are taken for the class `prediction`."""

    label: int
    prediction: int
    images: int


def largest_confusions(labels: np.ndarray, predictions: np.ndarray, most: int) -> list[Confusion]:
    """The pairs of a class and a wrong prediction with the most images, at most `most`, the largest first.

    Unlike a matrix it takes no room for pairs that do not occur, of which many classes have many.
    """
    wrong = predictions != labels
    pairs = np.stack([labels[wrong], predictions[wrong]], axis=1)
    found, images = np.unique(pairs, axis=0, return_counts=True)
    return [
        Confusion(int(found[i, 0]), int(found[i, 1]), int(images[i]))
        for i in np.argsort(-images, kind="stable")[:most]
    ]


class Agreement(NamedTuple):
    """Numbers of images by what two classifiers say of them.

    both_right: both are right.
    first_right, second_right: only one of them is.
    both_wrong: both are wrong, in the same class or in two.
    agreeing: both say the same class, right or wrong.
    """

    both_right: int
    first_right: int
    second_right: int
    both_wrong: int
    agreeing: int


def agreement(labels: np.ndarray, first: np.ndarray, second: np.ndarray) -> Agreement:
    """Compares the predictions of two classifiers, integers [example] each."""
    a, b = first == labels, second == labels
    counts = (a & b, a & ~b, ~a & b, ~a & ~b, first == second)
    return Agreement(*(int(np.count_nonzero(images)) for images in counts))
