"""The part of a decoded image that the network sees, pixel for pixel as torchvision makes it with Pillow."""

import math
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageEnhance

# Of a resized image. With its four bytes per pixel in Pillow that is 2 GiB.
MAX_PIXELS = 2**29
# The narrowest and the widest random part, width over height.
NARROWEST, WIDEST = 3 / 4, 4 / 3
ENHANCERS = ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color


class UndecodableError(ValueError):
    """No image of 8 bits per channel; the message says why, to follow the name of the image."""


class View(NamedTuple):
    """How an image file becomes an array of one size.

    image_size: height and width in pixels.
    channels: 3 for RGB, 1 for grey.
    preprocessing: a name in PREPROCESSING.
    random_resized_crop: whether a training image is a random part in place of that.
    color_jitter: largest random change of its brightness, contrast and saturation, 0 to 1.
    """

    image_size: int
    channels: int = 3
    preprocessing: str = "squash"
    random_resized_crop: bool = False
    color_jitter: float = 0.0

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        return self.image_size, self.image_size, self.channels

    def of(self, image: Image.Image, rng: np.random.Generator | None) -> Image.Image:
        """The image at image_size; with its random parts, for training, where `rng` is given.

        Raises UndecodableError where it would have more than MAX_PIXELS on the way.
        """
        if rng is None or not self.random_resized_crop:
            seen = PREPROCESSING[self.preprocessing](image, self.image_size)
        else:
            size = self.image_size, self.image_size
            # Not `resize(box=...)`, whose filter sees pixels beyond the box.
            seen = image.crop(random_box(*image.size, rng)).resize(size, Image.Resampling.BILINEAR)
        if rng is None or not self.color_jitter:
            return seen
        strongest = self.color_jitter
        return jitter(seen, rng.permutation(3), rng.uniform(1 - strongest, 1 + strongest, 3))


def squash(image: Image.Image, size: int) -> Image.Image:
    """Resizes both sides bicubically to `size`, the aspect ratio not kept."""
    return image.resize((size, size), Image.Resampling.BICUBIC)


def dks(image: Image.Image, size: int) -> Image.Image:
    """Squashes to 8/7 of `size`, then crops the centre: the evaluation released with DKS, 256 and 224."""
    return centre_crop(squash(image, before_crop(size)), size)


def standard(image: Image.Image, size: int) -> Image.Image:
    """Resizes the short side bilinearly to 8/7 of `size` and the long one with it, then crops the centre.

    As torchvision's Resize(256) and CenterCrop(224). Raises UndecodableError where the resized image would
    have more than MAX_PIXELS.
    """
    short = before_crop(size)
    # The long side is cut off, not rounded.
    width, height = (int(short * side / min(image.size)) for side in image.size)
    if width * height > MAX_PIXELS:
        raise UndecodableError(
            f"is too narrow, {image.width} x {image.height} pixels, to be resized to {width} x {height}"
        )
    return centre_crop(image.resize((width, height), Image.Resampling.BILINEAR), size)


PREPROCESSING = {"squash": squash, "dks": dks, "standard": standard}


def before_crop(size: int) -> int:
    """The side to which an image is resized before `size` is cropped from it: 256 for 224."""
    return round(size * 256 / 224)


def centre_crop(image: Image.Image, size: int) -> Image.Image:
    """The middle of an image whose sides are at least `size`; half pixels round to even."""
    left, top = (round((side - size) / 2) for side in image.size)
    return image.crop((left, top, left + size, top + size))


def random_box(width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a part with 8 to 100 % of the area and sides of 3:4 to 4:3.

    Where ten draws do not fit, the largest part in the middle whose sides are between these ratios. As
    torchvision's RandomResizedCrop, draw by draw.
    """
    for _ in range(10):
        area = width * height * rng.uniform(0.08, 1)
        ratio = math.exp(rng.uniform(math.log(NARROWEST), math.log(WIDEST)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
            return left, top, left + w, top + h
    w, h = min(width, round(height * WIDEST)), min(height, round(width / NARROWEST))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def jitter(image: Image.Image, order: np.ndarray, factors: np.ndarray) -> Image.Image:
    """Multiplies brightness, contrast and saturation by the three factors, one after another in `order`.

    As torchvision's ColorJitter without hue. Saturation changes nothing in a grey image.
    """
    for i in order:
        image = ENHANCERS[i](image).enhance(float(factors[i]))
    return image
