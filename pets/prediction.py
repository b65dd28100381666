"""What a network says about a photograph, at the photograph's size, and images of it."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from pets.networks import Array, Network
from pets.photograph import PhotographError
from stages.records.classes import CLASS_NAMES, class_rgb
from stages.records.resizing import network_input

# Pixels that are worked on at a time: about 100 MB, however large the photograph is.
BAND_PIXELS = 1 << 22


class Prediction(NamedTuple):
    """The classes of a photograph's pixels."""

    mask: npt.NDArray[np.uint8]  # [height, width], 0 pet, 1 background, 2 border
    # [height, width], 255 on the pet, 0 on the background, and in between on the border
    opacity: npt.NDArray[np.uint8]
    confidence: float  # mean probability of the predicted classes

    def shares(self) -> dict[str, float]:
        """The share of the pixels that each class has, by its name."""
        return {name: float(np.mean(self.mask == i)) for i, name in enumerate(CLASS_NAMES)}

    def colors(self) -> Image.Image:
        """The mask in the classes' colours: mode P, the values are the classes."""
        image = Image.fromarray(self.mask)
        image.putpalette(class_rgb().tobytes())
        return image

    def overlay(self, photograph: Image.Image) -> Image.Image:
        """The photograph with the classes' colours over it."""
        return Image.blend(photograph, self.colors().convert("RGB"), 0.5)

    def cutout(self, photograph: Image.Image) -> Image.Image:
        """The pet on a transparent background: mode RGBA."""
        image = photograph.copy()
        image.putalpha(Image.fromarray(self.opacity))
        return image


def segment(
    network: Network, image: Image.Image, size: tuple[int, int], flip: bool = False
) -> Prediction:
    """Predicts an RGB image, at a width and height; `flip` averages with its mirror image.

    Raises:
        PhotographError: The network's weights are broken: its answer is not finite.
    """
    pixels = network_input(image, network.image_size)
    probabilities = network.probabilities(pixels)
    if flip:
        mirrored = network.probabilities(pixels[:, ::-1])[:, ::-1]
        probabilities = (probabilities + mirrored) / np.float32(2)
    if not np.isfinite(probabilities).all():
        raise PhotographError("gets no finite numbers: the network's weights are broken")
    return at_size(probabilities, size)


def at_size(probabilities: Array, size: tuple[int, int]) -> Prediction:
    """The classes at a width and height, from probabilities [image_size, image_size, class].

    Interpolated bilinearly before the most probable class is taken: an outline then runs between
    the network's pixels and not along their edges.
    """
    width, height = size
    side = len(probabilities)
    planes = [Image.fromarray(plane) for plane in np.moveaxis(probabilities, -1, 0)]
    mask, opacity = np.empty((2, height, width), np.uint8)
    confidence = 0.0
    rows = max(BAND_PIXELS // width, 1)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        to = (width, bottom - top), Image.Resampling.BILINEAR
        box = (0, top * side / height, side, bottom * side / height)
        band = np.stack([np.asarray(plane.resize(*to, box)) for plane in planes])
        pet, background, _ = band
        classes = mask[top:bottom] = band.argmax(axis=0)
        # The border lies on both sides of the animal's outline.
        of_border = pet / np.maximum(pet + background, np.finfo(np.float32).tiny)
        opacity[top:bottom] = np.rint(255 * np.choose(classes, (1, 0, of_border)))
        confidence += float(band.max(axis=0).sum(dtype=np.float64))
    return Prediction(mask, opacity, confidence / (width * height))
