"""What a network says about a photograph, at the photograph's size, and images of it."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from pets.networks import Network
from pets.photograph import PhotographError
from stages.records.classes import CLASS_NAMES, class_rgb
from stages.records.resizing import network_input

# Pixels that are worked on at a time: about 100 MB, however large the photograph is.
BAND_PIXELS = 1 << 22
# The weight of the classes' colours in an overlay.
OVERLAY_OPACITY = 0.5


class Prediction(NamedTuple):
    """The classes of a photograph's pixels."""

    mask: npt.NDArray[np.uint8]  # [height, width], 0 pet, 1 background, 2 border
    # [height, width], 255 on the pet, 0 on the background, and in between on the border
    opacity: npt.NDArray[np.uint8]
    confidence: float  # mean probability of the predicted classes

    def shares(self) -> dict[str, float]:
        """The share of the pixels that each class has, by its name."""
        counts = np.bincount(self.mask.ravel(), minlength=len(CLASS_NAMES))
        return dict(zip(CLASS_NAMES, (counts / self.mask.size).tolist(), strict=True))

    def colors(self) -> Image.Image:
        """The mask in the classes' colours: mode P, the values are the classes."""
        image = Image.fromarray(self.mask)
        image.putpalette(class_rgb().tobytes())
        return image

    def overlay(self, photograph: Image.Image) -> Image.Image:
        """The photograph with the classes' colours over it."""
        return Image.blend(photograph, self.colors().convert("RGB"), OVERLAY_OPACITY)

    def cutout(self, photograph: Image.Image) -> Image.Image:
        """The pet on a transparent background: mode RGBA."""
        image = photograph.copy()
        image.putalpha(Image.fromarray(self.opacity))
        return image


def segment(network: Network, image: Image.Image, size: tuple[int, int]) -> Prediction:
    """Predicts an RGB image, at the given width and height.

    Raises:
        PhotographError: The network's weights are broken: its answer is not finite.
    """
    probabilities = network.probabilities(network_input(image, network.image_size))
    if not np.isfinite(probabilities).all():
        raise PhotographError("gets no finite numbers: the network's weights are broken")
    return at_size(probabilities, size)


def at_size(probabilities: npt.NDArray[np.float32], size: tuple[int, int]) -> Prediction:
    """The classes at a width and height, from probabilities [image_size, image_size, class].

    Interpolated bilinearly before the most probable class is taken: an outline then runs between
    the network's pixels and not along their edges.
    """
    width, height = size
    side = probabilities.shape[0]
    planes = [Image.fromarray(plane) for plane in np.moveaxis(probabilities, -1, 0)]
    mask, opacity = np.empty((2, height, width), np.uint8)
    confidence = 0.0
    rows = max(BAND_PIXELS // width, 1)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        box = (0, top * side / height, side, bottom * side / height)
        shape = (width, bottom - top)
        band = np.stack(
            [np.asarray(plane.resize(shape, Image.Resampling.BILINEAR, box)) for plane in planes]
        )
        pet, background, _ = band
        classes = mask[top:bottom] = band.argmax(axis=0)
        # The border lies on both sides of the animal's outline.
        of_border = pet / np.maximum(pet + background, np.finfo(np.float32).tiny)
        opacity[top:bottom] = np.rint(255 * np.choose(classes, (1, 0, of_border)))
        confidence += float(band.max(axis=0).sum(dtype=np.float64))
    return Prediction(mask, opacity, confidence / (width * height))
