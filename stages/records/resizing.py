"""How a photograph becomes the network's square picture, in training and in use alike."""

import numpy as np
import numpy.typing as npt
from PIL import Image


def network_input(image: Image.Image, image_size: int) -> npt.NDArray[np.uint8]:
    """Scales a picture to a square, whatever its proportions are.

    It is resampled bilinearly with antialiasing. Pillow does it in fixed-point arithmetic, so the
    bytes are the same on every machine.

    Args:
        image: A picture of mode RGB.
        image_size: Height and width of the result in pixels.

    Returns:
        Pixels uint8 [image_size, image_size, 3].
    """
    return np.asarray(image.resize((image_size, image_size), Image.Resampling.BILINEAR))
