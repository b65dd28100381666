"""One example: a drawing of a pet as a photograph, and its trimap, from a split and a number."""

import io
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from data.synthetic_pets import pets, scenes
from data.synthetic_pets.drawing import noise, textured

PET, BACKGROUND, BORDER = 1, 2, 3
SPLITS = ("train", "test")
# Width and height in pixels, as of photographs; most of them lie on their side.
SIZES = [(256, 192), (240, 180), (288, 192), (200, 200), (192, 256), (180, 240), (225, 180)]
# The border's width as a share of the image's: the median of Oxford-IIIT Pet's.
BORDER_SHARE = 0.036
_SEED = 20120616


class Picture(NamedTuple):
    """One example."""

    image: bytes  # JPEG
    trimap: bytes  # PNG: 1 pet, 2 background, 3 border
    breed: str  # one of pets.BREEDS
    file_name: str


def draw(split: str, index: int) -> Picture:
    """Draws an example; the same split and number give the same bytes. Breeds take turns."""
    rng = np.random.Generator(np.random.PCG64([_SEED, SPLITS.index(split), index]))
    breed = pets.BREEDS[index % len(pets.BREEDS)]
    width, height = SIZES[rng.integers(len(SIZES))]
    kind = list(pets.POSES)[rng.integers(len(pets.POSES))]
    horizon = float(rng.uniform(0.45, 0.68)) * height
    picture = scenes.draw(rng, (2 * width, 2 * height), 2 * horizon).reduce(2)
    # As high or as wide as most of the image; the frame may cut it off.
    scale = float(rng.uniform(0.62, 0.95)) * min(height, 1.15 * width / pets.POSES[kind].width)
    feet = height * (1.04 if kind == "close" else float(rng.uniform(0.86, 0.99)))
    place = float(rng.uniform(0.36, 0.64)) * width, feet
    mask = pets.draw(rng, picture, breed, kind, place, scale)
    return Picture(
        image=_encoded(_photographed(rng, picture), "JPEG"),
        trimap=_encoded(Image.fromarray(trimap(np.asarray(mask) >= 128)), "PNG"),
        breed=breed,
        file_name=f"{breed}_{split}_{index:03d}.jpg",
    )


def trimap(pet: npt.NDArray[np.bool_], border: float = BORDER_SHARE) -> npt.NDArray[np.uint8]:
    """A trimap as Oxford-IIIT Pet's, uint8 [height, width], of a pet, bool [height, width].

    The border, in width a share of the image's, lies half on the pet and half beside it, and not
    along the frame.
    """
    reach = max(1, round(border * pet.shape[1] / 2))
    near_both = _within(pet, reach) & _within(~pet, reach)
    return np.where(near_both, BORDER, np.where(pet, PET, BACKGROUND)).astype(np.uint8)


def _within(mask: npt.NDArray[np.bool_], reach: int) -> npt.NDArray[np.bool_]:
    """Where a square of `reach` pixels to each side meets the mask."""
    for radius in ((reach, 0), (0, reach)):
        layer = Image.fromarray(np.uint8(255) * mask).filter(ImageFilter.BoxBlur(radius))
        mask = np.asarray(layer) > 0
    return mask


def _photographed(rng: np.random.Generator, picture: Image.Image) -> Image.Image:
    """Uneven light, exposure, tint and grain."""
    lit = textured(picture, noise(rng, picture.size, picture.width / 2), 0.15)
    gain = rng.uniform(0.85, 1.15) * rng.uniform(0.96, 1.04, 3)
    grain = (
        rng.integers(-128, 128, (picture.height, picture.width, 1)) * int(rng.integers(2, 9)) / 128
    )
    return Image.fromarray(np.clip(np.asarray(lit) * gain + grain, 0, 255).astype(np.uint8))


def _encoded(picture: Image.Image, kind: str) -> bytes:
    content = io.BytesIO()
    picture.save(content, kind, quality=90)
    return content.getvalue()
