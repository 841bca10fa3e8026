"""Augmentation policies, which draw the operations for an image and their magnitudes.

A policy draws what torchvision's class of its name draws, in the same order. Drawing and `operations.apply`
are separate, so that the result for given draws can be compared.

The policy follows the random resized crop, as in torchvision's reference training, where the flip stands
between the two. Here the flip, and the crop of `data.padding`, run on the device and therefore come after the
policy, as they do in the released code of AutoAugment on CIFAR. The order of flip and policy hardly matters:
a flip commutes with operations on colours and with TranslateY, and turns the sign, which is drawn with equal
chances, of TranslateX, ShearX and Rotate. Only ShearY differs. It leaves the left column in its place, which
the flip makes the right one in half of the images.
"""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

from dks_jax.data.operations import Step

# The weakest and the strongest magnitude of each operation that has one.
Range: TypeAlias = Mapping[str, tuple[float, float]]
# Number of levels from the weakest to the strongest magnitude.
AUTOAUGMENT_LEVELS = 10
LEVELS = 31
# Operations whose direction, up or down, is drawn too.
SIGNED = (
    *("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"),
    *("Brightness", "Color", "Contrast", "Sharpness"),
)
# The operations that RandAugment and TrivialAugment draw from, in torchvision's order.
DRAWN = ("Identity", *SIGNED, "Posterize", "Solarize", "AutoContrast", "Equalize")

# Pairs of (operation, probability, level), one of which is drawn for an image. The tables are those of Cubuk
# et al., AutoAugment: Learning Augmentation Strategies from Data (2018), https://arxiv.org/abs/1805.09501
AUTOAUGMENT = {
    "autoaugment_cifar10": (
        (("Invert", 0.1, 0), ("Contrast", 0.2, 6)),
        (("Rotate", 0.7, 2), ("TranslateX", 0.3, 9)),
        (("Sharpness", 0.8, 1), ("Sharpness", 0.9, 3)),
        (("ShearY", 0.5, 8), ("TranslateY", 0.7, 9)),
        (("AutoContrast", 0.5, 0), ("Equalize", 0.9, 0)),
        (("ShearY", 0.2, 7), ("Posterize", 0.3, 7)),
        (("Color", 0.4, 3), ("Brightness", 0.6, 7)),
        (("Sharpness", 0.3, 9), ("Brightness", 0.7, 9)),
        (("Equalize", 0.6, 0), ("Equalize", 0.5, 0)),
        (("Contrast", 0.6, 7), ("Sharpness", 0.6, 5)),
        (("Color", 0.7, 7), ("TranslateX", 0.5, 8)),
        (("Equalize", 0.3, 0), ("AutoContrast", 0.4, 0)),
        (("TranslateY", 0.4, 3), ("Sharpness", 0.2, 6)),
        (("Brightness", 0.9, 6), ("Color", 0.2, 8)),
        (("Solarize", 0.5, 2), ("Invert", 0.0, 0)),
        (("Equalize", 0.2, 0), ("AutoContrast", 0.6, 0)),
        (("Equalize", 0.2, 0), ("Equalize", 0.6, 0)),
        (("Color", 0.9, 9), ("Equalize", 0.6, 0)),
        (("AutoContrast", 0.8, 0), ("Solarize", 0.2, 8)),
        (("Brightness", 0.1, 3), ("Color", 0.7, 0)),
        (("Solarize", 0.4, 5), ("AutoContrast", 0.9, 0)),
        (("TranslateY", 0.9, 9), ("TranslateY", 0.7, 9)),
        (("AutoContrast", 0.9, 0), ("Solarize", 0.8, 3)),
        (("Equalize", 0.8, 0), ("Invert", 0.1, 0)),
        (("TranslateY", 0.7, 9), ("AutoContrast", 0.9, 0)),
    ),
    "autoaugment_imagenet": (
        (("Posterize", 0.4, 8), ("Rotate", 0.6, 9)),
        (("Solarize", 0.6, 5), ("AutoContrast", 0.6, 0)),
        (("Equalize", 0.8, 0), ("Equalize", 0.6, 0)),
        (("Posterize", 0.6, 7), ("Posterize", 0.6, 6)),
        (("Equalize", 0.4, 0), ("Solarize", 0.2, 4)),
        (("Equalize", 0.4, 0), ("Rotate", 0.8, 8)),
        (("Solarize", 0.6, 3), ("Equalize", 0.6, 0)),
        (("Posterize", 0.8, 5), ("Equalize", 1.0, 0)),
        (("Rotate", 0.2, 3), ("Solarize", 0.6, 8)),
        (("Equalize", 0.6, 0), ("Posterize", 0.4, 6)),
        (("Rotate", 0.8, 8), ("Color", 0.4, 0)),
        (("Rotate", 0.4, 9), ("Equalize", 0.6, 0)),
        (("Equalize", 0.0, 0), ("Equalize", 0.8, 0)),
        (("Invert", 0.6, 0), ("Equalize", 1.0, 0)),
        (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
        (("Rotate", 0.8, 8), ("Color", 1.0, 2)),
        (("Color", 0.8, 8), ("Solarize", 0.8, 7)),
        (("Sharpness", 0.4, 7), ("Invert", 0.6, 0)),
        (("ShearX", 0.6, 5), ("Equalize", 1.0, 0)),
        (("Color", 0.4, 0), ("Equalize", 0.6, 0)),
        (("Equalize", 0.4, 0), ("Solarize", 0.2, 4)),
        (("Solarize", 0.6, 5), ("AutoContrast", 0.6, 0)),
        (("Invert", 0.6, 0), ("Equalize", 1.0, 0)),
        (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
        (("Equalize", 0.8, 0), ("Equalize", 0.6, 0)),
    ),
}


def _range(*, shear: float, translate: tuple[float, float], rotate: float, change: float, bits: int) -> Range:
    strongest = shear, shear, *translate, rotate, *4 * (change,)
    signed = {name: (0, value) for name, value in zip(SIGNED, strongest, strict=True)}
    return {**signed, "Posterize": (8, bits), "Solarize": (255, 0)}


WIDE = _range(shear=0.99, translate=(32, 32), rotate=135, change=0.99, bits=2)


def usual(size: tuple[int, int]) -> Range:
    """The magnitudes of AutoAugment and RandAugment, whose translations go by the size of the image."""
    width, height = (150 / 331 * side for side in size)
    return _range(shear=0.3, translate=(width, height), rotate=30, change=0.9, bits=4)


def magnitude(operation: str, magnitudes: Range, level: int, levels: int) -> float:
    """The magnitude of an operation by its level, 0 to `levels` - 1; 0 where it has none.

    torchvision computes it in float32, which turns the 16 pixels of TrivialAugment into 15.999999, and so
    15, on some processors; this is exact.
    """
    weakest, strongest = magnitudes.get(operation, (0, 0))
    value = weakest + (strongest - weakest) * level / (levels - 1)
    return round(value) if operation == "Posterize" else value


def draw(
    policy: str, rng: np.random.Generator, size: tuple[int, int], randaugment: tuple[int, int]
) -> list[Step]:
    """Draws the operations for one image.

    Args:
      policy: a name in AUTOAUGMENT, "randaugment" or "trivialaugment".
      size: width and height of the image in pixels.
      randaugment: number of operations of RandAugment, and their level, 0 to 30.
    """
    if policy == "randaugment":
        return _draw_randaugment(rng, size, *randaugment)
    if policy == "trivialaugment":
        return _draw_trivialaugment(rng)
    return _draw_autoaugment(AUTOAUGMENT[policy], rng, size)


def _draw_autoaugment(
    pairs: Sequence[Sequence[tuple[str, float, int]]], rng: np.random.Generator, size: tuple[int, int]
) -> list[Step]:
    """Draws a pair of operations, and then whether each of its two is applied."""
    pair = pairs[int(rng.integers(len(pairs)))]
    chances, upward = rng.random(2), rng.integers(0, 2, 2)
    steps = []
    for (operation, probability, level), chance, up in zip(pair, chances, upward, strict=True):
        if chance <= probability:
            strength = magnitude(operation, usual(size), level, AUTOAUGMENT_LEVELS)
            steps.append(Step(operation, -strength if operation in SIGNED and not up else strength))
    return steps


def _draw_randaugment(rng: np.random.Generator, size: tuple[int, int], count: int, level: int) -> list[Step]:
    """Draws `count` operations of one level.

    Source: Cubuk et al., RandAugment: Practical Automated Data Augmentation with a Reduced Search Space
      (2019), https://arxiv.org/abs/1909.13719
    """
    return [_directed(_drawn(rng), usual(size), level, rng) for _ in range(count)]


def _draw_trivialaugment(rng: np.random.Generator) -> list[Step]:
    """Draws one operation and its level, from the wide range of magnitudes.

    Source: Mueller and Hutter, TrivialAugment: Tuning-free Yet State-of-the-Art Data Augmentation (2021),
      https://arxiv.org/abs/2103.10158
    """
    operation = _drawn(rng)
    level = int(rng.integers(LEVELS)) if operation in WIDE else 0
    return [_directed(operation, WIDE, level, rng)]


def _drawn(rng: np.random.Generator) -> str:
    return DRAWN[rng.integers(len(DRAWN))]


def _directed(operation: str, magnitudes: Range, level: int, rng: np.random.Generator) -> Step:
    strength = magnitude(operation, magnitudes, level, LEVELS)
    return Step(operation, -strength if operation in SIGNED and rng.integers(0, 2) else strength)
