"""What a network says about a photograph, at the photograph's size, and images of it."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from stages.records.classes import CLASS_NAMES, class_rgb

Probabilities: TypeAlias = npt.NDArray[np.float32]

# Pixels that are worked on at a time: about 100 MB, however large the photograph is.
BAND_PIXELS = 1 << 22


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The classes of a photograph's pixels."""

    photograph: Image.Image  # RGB, the right way up
    mask: npt.NDArray[np.uint8]  # [height, width], 0 pet, 1 background, 2 border
    # [height, width], 255 on the pet, 0 on the background, and in between on the border
    opacity: npt.NDArray[np.uint8]
    confidence: float  # mean probability of the predicted classes
    network_probabilities: Probabilities  # [image_size, image_size, class]

    @property
    def probabilities(self) -> Probabilities:
        """The probabilities of the classes: [height, width, class], 12 bytes a pixel."""
        return _band(self.network_probabilities, *self.photograph.size, 0, self.photograph.height)

    def shares(self) -> dict[str, float]:
        """The share of the pixels that each class has, by its name."""
        return {name: float(np.mean(self.mask == i)) for i, name in enumerate(CLASS_NAMES)}

    def colors(self) -> Image.Image:
        """The mask in the classes' colours: mode P, the values are the classes."""
        image = Image.fromarray(self.mask)
        image.putpalette(class_rgb().tobytes())
        return image

    def overlay(self) -> Image.Image:
        """The photograph with the classes' colours over it: mode RGB."""
        return Image.blend(self.photograph, self.colors().convert("RGB"), 0.5)

    def cutout(self) -> Image.Image:
        """The pet on a transparent background: mode RGBA."""
        image = self.photograph.copy()
        image.putalpha(Image.fromarray(self.opacity))
        return image


def at_size(probabilities: Probabilities, photograph: Image.Image) -> Segmentation:
    """The classes of an RGB image's pixels, from probabilities [image_size, image_size, class].

    Interpolated bilinearly before the most probable class is taken: an outline then runs between
    the network's pixels and not along their edges.
    """
    width, height = photograph.size
    mask, opacity = np.empty((2, height, width), np.uint8)
    confidence = 0.0
    rows = max(BAND_PIXELS // width, 1)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        band = _band(probabilities, width, height, top, bottom)
        pet, background, _ = np.moveaxis(band, -1, 0)
        classes = mask[top:bottom] = band.argmax(axis=-1)
        # The border lies on both sides of the animal's outline.
        of_border = pet / np.maximum(pet + background, np.finfo(np.float32).tiny)
        opacity[top:bottom] = np.rint(255 * np.choose(classes, (1, 0, of_border)))
        confidence += float(band.max(axis=-1).sum(dtype=np.float64))
    return Segmentation(photograph, mask, opacity, confidence / (width * height), probabilities)


def _band(
    probabilities: Probabilities, width: int, height: int, top: int, bottom: int
) -> Probabilities:
    """Rows from `top` to `bottom` of the probabilities at a width and height."""
    side = len(probabilities)
    box = (0, top * side / height, side, bottom * side / height)
    planes = [Image.fromarray(plane) for plane in np.moveaxis(probabilities, -1, 0)]
    scaled = [p.resize((width, bottom - top), Image.Resampling.BILINEAR, box) for p in planes]
    return np.stack([np.asarray(plane) for plane in scaled], axis=-1)
