"""Image files and encoded images as arrays."""

from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from dks_jax.data.views import UndecodableError, View

MODES = {1: "L", 3: "RGB"}


def decode(source: Path | BinaryIO, view: View, rng: np.random.Generator | None = None) -> np.ndarray:
    """Decodes one image to uint8 [image_size, image_size, channels], the first frame of an animated one.

    EXIF orientation is not applied.

    Args:
      source: path of the file, or the open file.
      view: size and channels, and which part of the image is seen.
      rng: where the random parts of the view are drawn from; None leaves them out.

    Raises:
      UndecodableError: it cannot be decoded, has more than 8 bits of grey or is too narrow.
    """
    try:
        with Image.open(source) as image:
            image.load()
            mode, wanted = image.mode, MODES[view.channels]
            # `convert` copies an image that has the mode already, as nearly all photographs have.
            pixels = image if mode == wanted else image.convert(wanted)
    # Not a list of types: on bad bytes the plugins raise OSError, SyntaxError, struct.error and others.
    except Exception as error:
        raise UndecodableError(f"cannot be decoded as an image ({type(error).__name__})") from error
    if mode.startswith(("I", "F")):
        # Pillow converts these by cutting off everything above 255, which leaves a white image.
        raise UndecodableError(f"has the pixel mode {mode}, which is more than 8 bits per channel")
    return np.asarray(view.of(pixels, rng)).reshape(view.shape)
