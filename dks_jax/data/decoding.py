"""Decoding of image files and encoded images to arrays."""

from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from dks_jax.data.preprocessing import UndecodableError, View

MODES = {1: "L", 3: "RGB"}


def decode(source: Path | BinaryIO, view: View, rng: np.random.Generator | None = None) -> np.ndarray:
    """Decodes one image to uint8 [image_size, image_size, channels].

    Of an animated image the first frame is taken. EXIF orientation is not applied.

    Args:
      source: path of the file, or the open file.
      view: size, channels and preprocessing of the result.
      rng: random generator for the augmentation that `view` asks for; None turns augmentation off.

    Raises:
      UndecodableError: the image cannot be decoded, has more than 8 bits per channel or is too narrow.
    """
    try:
        with Image.open(source) as image:
            image.load()
            mode, wanted = image.mode, MODES[view.channels]
            # `convert` would copy even an image that has the mode already, as nearly all photographs do.
            pixels = image if mode == wanted else image.convert(wanted)
    # On bad bytes the plugins raise OSError, SyntaxError, struct.error and many other types.
    except Exception as error:
        raise UndecodableError(f"cannot be decoded as an image ({type(error).__name__})") from error
    if mode.startswith(("I", "F")):
        # Pillow clips these modes at 255, which leaves a white image.
        raise UndecodableError(f"has the pixel mode {mode}, which is more than 8 bits per channel")
    return np.asarray(view.of(pixels, rng)).reshape(view.shape)
