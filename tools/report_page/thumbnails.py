"""Small pictures within the page itself."""

import base64
import io

import numpy as np
from PIL import Image

SIDE = 160
# Below this side a picture is stored exactly; its pixels are to be seen.
EXACT = 48


def data_uri(image: np.ndarray) -> str:
    """An image, uint8 [height, width, channel] with 1 or 3 channels, as a data URI of at most SIDE pixels."""
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    exact = max(picture.size) <= EXACT
    picture.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    if exact:
        picture.save(file, "png")
    else:
        picture.save(file, "jpeg", quality=82)
    return f"data:image/{'png' if exact else 'jpeg'};base64,{base64.b64encode(file.getvalue()).decode()}"
