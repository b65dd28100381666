"""Trimaps as Oxford-IIIT Pet's: pet, background, and a band along the pet's outline."""

import numpy as np
import numpy.typing as npt

PET, BACKGROUND, BORDER = 1, 2, 3

# The whole band, half of it on the pet and half beside it, as a share of the picture's width.
BORDER_SHARE = 0.025

Mask = npt.NDArray[np.bool_]


def border_widths(width: int) -> tuple[int, int]:
    """Pixels of border inside and outside the outline in a picture `width` pixels wide."""
    total = max(2, round(BORDER_SHARE * width))
    return total // 2, total - total // 2


def dilate(mask: Mask, radius: int) -> Mask:
    """True within `radius` pixels (Euclidean, between pixel centres) of a true pixel.

    The picture's frame is no outline: what lies beyond it counts as false.
    """
    height, width = mask.shape
    padded = np.pad(mask, radius)
    grown = np.zeros_like(mask)
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            if dx * dx + dy * dy <= radius * radius:
                grown |= padded[radius + dy :, radius + dx :][:height, :width]
    return grown


def make_trimap(pet: Mask) -> npt.NDArray[np.uint8]:
    """The trimap of a pet.

    Args:
        pet: bool [height, width].

    Returns:
        uint8 [height, width]: 1 pet, 2 background, 3 border.
    """
    inside, outside = border_widths(pet.shape[1])
    near_background = dilate(~pet, inside)
    near_pet = dilate(pet, outside)
    trimap = np.where(pet, PET, BACKGROUND).astype(np.uint8)
    trimap[near_background & near_pet] = BORDER
    return trimap
