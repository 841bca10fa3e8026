"""Resizing, cropping and augmentation of decoded images, pixel for pixel as torchvision does with Pillow."""

import math
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageEnhance

from dks_jax.data import operations, policies

# Largest size of a resized image; at Pillow's four bytes per pixel it takes 2 GiB.
MAX_PIXELS = 2**29
# Range of the aspect ratio, width over height, of a random crop.
NARROWEST, WIDEST = 3 / 4, 4 / 3
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
ENHANCERS = ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color


class UndecodableError(ValueError):
    """An image cannot be turned into 8 bits per channel.

    The message says why and follows the name of the image, e.g. "is too narrow, 1 x 9000 pixels, ...".
    """


class View(NamedTuple):
    """How a decoded image becomes an array of a fixed size.

    Attributes:
      image_size: height and width in pixels.
      channels: 3 for RGB, 1 for grey; 0 where the source decides.
      preprocessing: a name in PREPROCESSING.
      random_resized_crop: whether a random crop takes the place of `preprocessing` in training.
      color_jitter: largest relative change of brightness, contrast and saturation in training, 0 to 1.
      crop_ratio: share of the resized image's short side that the central crop of `preprocessing` takes.
      interpolation: a name in FILTERS, for the preprocessing `standard` and for random crops.
      train_size: height and width in training; 0 for `image_size`.
      policy: "none", or a policy that `policies.draw` knows, for training.
      randaugment: number of operations of RandAugment, and their level, 0 to 30.
    """

    image_size: int
    channels: int = 3
    preprocessing: str = "squash"
    random_resized_crop: bool = False
    color_jitter: float = 0.0
    crop_ratio: float = 0.875
    interpolation: str = "bilinear"
    train_size: int = 0
    policy: str = "none"
    randaugment: tuple[int, int] = (2, 9)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        return self.image_size, self.image_size, self.channels

    @property
    def for_training(self) -> "View":
        """The view of training images, whose size may be another one."""
        return self._replace(image_size=self.train_size or self.image_size)

    def of(self, image: Image.Image, rng: np.random.Generator | None) -> Image.Image:
        """Resizes and crops an image to `image_size`, and augments it for training where `rng` is given.

        Raises:
          UndecodableError: an intermediate image would have more than MAX_PIXELS.
        """
        if rng is None or not self.random_resized_crop:
            seen = PREPROCESSING[self.preprocessing](image, self)
        else:
            size = self.image_size, self.image_size
            # The image is cropped first, because the filter of `resize(box=...)` reads pixels beyond the box.
            seen = image.crop(random_box(*image.size, rng)).resize(size, FILTERS[self.interpolation])
        if rng is None:
            return seen
        if self.policy != "none":
            seen = operations.apply(seen, policies.draw(self.policy, rng, seen.size, self.randaugment))
        if not self.color_jitter:
            return seen
        strongest = self.color_jitter
        return _jitter(seen, rng.permutation(3), rng.uniform(1 - strongest, 1 + strongest, 3))


def squash(image: Image.Image, view: View) -> Image.Image:
    """Resizes both sides bicubically to `image_size`, without keeping the aspect ratio."""
    return _resize_both(image, view.image_size)


def dks(image: Image.Image, view: View) -> Image.Image:
    """Squashes the image and crops the centre, as the evaluation released with DKS does.

    For the size 224 and the crop ratio 0.875 the image is squashed to 256.
    """
    return _centre_crop(_resize_both(image, before_crop(view)), view.image_size)


def standard(image: Image.Image, view: View) -> Image.Image:
    """Resizes the short side, keeping the aspect ratio, and crops the centre.

    For the size 224 and the crop ratio 0.875 this is torchvision's Resize(256) followed by CenterCrop(224).

    Raises:
      UndecodableError: the resized image would have more than MAX_PIXELS.
    """
    short = before_crop(view)
    # torchvision truncates the long side instead of rounding it.
    width, height = (int(short * side / min(image.size)) for side in image.size)
    if width * height > MAX_PIXELS:
        raise UndecodableError(
            f"is too narrow, {image.width} x {image.height} pixels, to be resized to {width} x {height}"
        )
    return _centre_crop(image.resize((width, height), FILTERS[view.interpolation]), view.image_size)


PREPROCESSING = {"squash": squash, "dks": dks, "standard": standard}


def before_crop(view: View) -> int:
    """The side to which an image is resized before the central crop, rounded to a whole number of pixels.

    It is 256 for the size 224 and the crop ratio 0.875.
    """
    return round(view.image_size / view.crop_ratio)


def _resize_both(image: Image.Image, size: int) -> Image.Image:
    return image.resize((size, size), Image.Resampling.BICUBIC)


def _centre_crop(image: Image.Image, size: int) -> Image.Image:
    """Crops the central `size` x `size` pixels of an image; half pixels are rounded to even."""
    left, top = (round((side - size) / 2) for side in image.size)
    return image.crop((left, top, left + size, top + size))


def random_box(width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Draws a random crop with 8 to 100 % of the image's area and an aspect ratio of 3:4 to 4:3.

    Where none of ten draws fits into the image, the result is the largest central crop with an aspect ratio
    in this range. The procedure follows torchvision's RandomResizedCrop draw by draw.

    Returns:
      Left, top, right and bottom in pixels.
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


def _jitter(image: Image.Image, order: np.ndarray, factors: np.ndarray) -> Image.Image:
    """Changes brightness, contrast and saturation, as torchvision's ColorJitter without hue does.

    Args:
      image: a grey image, in which saturation has no effect, or an RGB image.
      order: permutation of 0 (brightness), 1 (contrast) and 2 (saturation).
      factors: [3], the factor of each, in the numbering of `order`.
    """
    for i in order:
        image = ENHANCERS[i](image).enhance(float(factors[i]))
    return image
