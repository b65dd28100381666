"""What a network says of a photograph, at the photograph's own size, and pictures of it."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from stages.records.classes import class_rgb

PET, BACKGROUND, BORDER = range(3)
# Pixels that are worked on at a time: 50 MB, however large the photograph is.
BAND_PIXELS = 1 << 22
# How much of an overlay is the class's colour.
OVERLAY_OPACITY = 0.5


class Prediction(NamedTuple):
    """The classes of a photograph's pixels."""

    mask: npt.NDArray[np.uint8]  # [height, width], 0 pet, 1 background, 2 border
    # [height, width], 255 on the pet, 0 on the background, and in between on the border
    opacity: npt.NDArray[np.uint8]
    confidence: float  # mean probability of the predicted classes


def at_own_size(
    probabilities: npt.NDArray[np.float32], size: tuple[int, int], *, smooth: bool = True
) -> Prediction:
    """Brings a network's answer to a photograph's size.

    The probabilities are interpolated bilinearly before the most probable class is taken: an
    outline then runs between the network's pixels and not along their edges.

    Args:
        probabilities: [image_size, image_size, class].
        size: Width and height of the photograph in pixels.
        smooth: Whether to interpolate; otherwise each pixel takes the nearest one's class.
    """
    width, height = size
    kind = Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST
    planes = [Image.fromarray(plane) for plane in np.moveaxis(probabilities, -1, 0)]
    mask = np.empty((height, width), np.uint8)
    opacity = np.empty((height, width), np.uint8)
    confidences = 0.0
    rows = max(BAND_PIXELS // width, 1)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        scale = probabilities.shape[0] / height
        box = (0, top * scale, probabilities.shape[1], bottom * scale)
        band = [np.asarray(plane.resize((width, bottom - top), kind, box)) for plane in planes]
        highest = np.maximum(np.maximum(band[PET], band[BACKGROUND]), band[BORDER])
        classes = np.where(band[BACKGROUND] == highest, BACKGROUND, BORDER)
        classes[band[PET] == highest] = PET
        mask[top:bottom] = classes
        # The border lies astride the animal's outline.
        of_border = band[PET] / np.maximum(band[PET] + band[BACKGROUND], np.finfo(np.float32).tiny)
        shown = np.where(classes == PET, 1, np.where(classes == BACKGROUND, 0, of_border))
        opacity[top:bottom] = np.rint(255 * shown)
        confidences += float(highest.sum(dtype=np.float64))
    return Prediction(mask, opacity, confidences / (width * height))


def shares(mask: npt.NDArray[np.uint8], classes: int) -> list[float]:
    """The share of the pixels that each class has."""
    counts = np.bincount(mask.ravel(), minlength=classes)
    return (counts / mask.size).tolist()


def mask_picture(prediction: Prediction) -> Image.Image:
    """The mask in the classes' colours: mode P, the values are the classes."""
    picture = Image.fromarray(prediction.mask)
    picture.putpalette(class_rgb().tobytes())
    return picture


def overlay(image: Image.Image, prediction: Prediction) -> Image.Image:
    """The photograph with the classes' colours over it."""
    return Image.blend(image, mask_picture(prediction).convert("RGB"), OVERLAY_OPACITY)


def cutout(image: Image.Image, prediction: Prediction) -> Image.Image:
    """The pet on a transparent background, of the photograph's size: mode RGBA."""
    picture = image.copy()
    picture.putalpha(Image.fromarray(prediction.opacity))
    return picture
