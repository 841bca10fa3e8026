"""The operations of augmentation policies on Pillow images, pixel for pixel as torchvision computes them.

Pixels that move into the image from beyond its border are black, and places between pixels take the nearest.
Each operation takes grey and RGB images.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from PIL import Image, ImageEnhance, ImageOps


class Step(NamedTuple):
    """The application of an operation.

    operation: a name in OPERATIONS.
    magnitude: of shears the slope; of translations pixels; of rotations degrees; of brightness, colour,
      contrast and sharpness the relative change; of posterize the number of bits that are kept; of solarize
      the level from which on pixels are inverted. The others have none, and ignore it.
    """

    operation: str
    magnitude: float


def apply(image: Image.Image, steps: Sequence[Step]) -> Image.Image:
    """Applies operations to an image, one after the other."""
    for operation, magnitude in steps:
        image = OPERATIONS[operation](image, magnitude)
    return image


def _affine(image: Image.Image, *matrix: float) -> Image.Image:
    """Takes the pixel (a x + b y + c, d x + e y + f) for each place (x, y); the matrix is a to f."""
    return image.transform(image.size, Image.Transform.AFFINE, matrix, fillcolor=0)


def _enhance(enhancer: Callable[[Image.Image], ImageEnhance._Enhance]):
    return lambda image, magnitude: enhancer(image).enhance(1 + magnitude)


OPERATIONS: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "Identity": lambda image, _: image,
    "ShearX": lambda image, slope: _affine(image, 1, slope, 0, 0, 1, 0),
    "ShearY": lambda image, slope: _affine(image, 1, 0, 0, slope, 1, 0),
    "TranslateX": lambda image, pixels: _affine(image, 1, 0, -int(pixels), 0, 1, 0),
    "TranslateY": lambda image, pixels: _affine(image, 1, 0, 0, 0, 1, -int(pixels)),
    "Rotate": lambda image, degrees: image.rotate(degrees, fillcolor=0),
    "Brightness": _enhance(ImageEnhance.Brightness),
    "Color": _enhance(ImageEnhance.Color),
    "Contrast": _enhance(ImageEnhance.Contrast),
    "Sharpness": _enhance(ImageEnhance.Sharpness),
    "Posterize": lambda image, bits: ImageOps.posterize(image, int(bits)),
    "Solarize": lambda image, threshold: ImageOps.solarize(image, math.ceil(threshold)),
    "AutoContrast": lambda image, _: ImageOps.autocontrast(image),
    "Equalize": lambda image, _: ImageOps.equalize(image),
    "Invert": lambda image, _: ImageOps.invert(image),
}
