"""From a stored image and trimap to the records' size, and the choice of the validation images."""

import hashlib

import numpy as np
import numpy.typing as npt
from PIL import Image

from stages.params import Params
from stages.prepare.source import RawExample, decode
from stages.records.photograph import network_input
from stages.records.tfrecords import Example

Pixels = npt.NDArray[np.uint8]


def scaled(
    raw: RawExample, split: str, params: Params, train_size: int
) -> tuple[Example, Example, str]:
    """An example at the network's size and as it is stored, and the split that it goes to."""
    image, trimap = decode(raw)
    pixels, mask = resized(image, trimap, params.image_size)
    example = Example(pixels, mask, *raw[2:])
    if split == "train" and in_validation(raw.file_name, params.validation_share):
        split = "validation"
    if split != "train" or train_size == params.image_size:
        return example, example, split
    pixels, mask = resized(image, trimap, train_size)
    return example, Example(pixels, mask, *raw[2:]), split


def resized(image: Image.Image, trimap: Image.Image, image_size: int) -> tuple[Pixels, Pixels]:
    """Scale an image and its trimap to squares, and number the classes from 0.

    The mask takes the nearest pixel's class: anything else would invent classes (between pet, 1,
    and border, 3, lies background, 2).
    """
    mask = trimap.resize((image_size, image_size), Image.Resampling.NEAREST)
    return network_input(image, image_size), np.asarray(mask) - np.uint8(1)


def in_validation(file_name: str, share: float) -> bool:
    """Whether a hash of its file name holds a training image out for validation.

    No seed, order or other image changes that, and a larger share holds out the same and more.
    """
    digest = hashlib.sha256(file_name.encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64
