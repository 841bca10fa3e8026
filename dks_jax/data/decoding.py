"""Image files and encoded images as arrays, decoded and resized as the released ImageNet evaluation does."""

from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

MODES = {1: "L", 3: "RGB"}


class UndecodableError(ValueError):
    """No image of 8 bits per channel; the message says why, to follow the name of the image."""


def decode(source: Path | BinaryIO, image_size: int, channels: int = 3) -> np.ndarray:
    """Decodes one image to uint8 [image_size, image_size, channels], the first frame of an animated one.

    Three channels are RGB, one is grey. An image of another size is resized bicubically, both sides, its
    aspect ratio not kept. EXIF orientation is not applied.

    Raises UndecodableError where it cannot be decoded or has more than 8 bits of grey.
    """
    try:
        with Image.open(source) as image:
            mode = image.mode
            pixels = image.convert(MODES[channels])
    # Not a list of types: on bad bytes the plugins raise OSError, SyntaxError, struct.error and others.
    except Exception as error:
        raise UndecodableError(f"cannot be decoded as an image ({type(error).__name__})") from error
    if mode.startswith(("I", "F")):
        # Pillow converts these by cutting off everything above 255, which leaves a white image.
        raise UndecodableError(f"has the pixel mode {mode}, which is more than 8 bits per channel")
    if pixels.size != (image_size, image_size):
        pixels = pixels.resize((image_size, image_size), Image.Resampling.BICUBIC)
    return np.asarray(pixels).reshape(image_size, image_size, channels)
