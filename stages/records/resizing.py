"""From a photograph to the network's square image, in training and in use alike."""

import numpy as np
import numpy.typing as npt
from PIL import Image


def network_input(image: Image.Image, image_size: int) -> npt.NDArray[np.uint8]:
    """Scale an RGB image to a square, whatever its proportions: bilinear with antialiasing.

    Pillow does it in fixed-point arithmetic: the bytes are the same on every machine.

    Returns:
        Pixels uint8 [image_size, image_size, 3].
    """
    return np.asarray(image.resize((image_size, image_size), Image.Resampling.BILINEAR))
