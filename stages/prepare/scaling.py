"""From a decoded image and trimap to what is stored, and the choice of the validation images."""

import hashlib

import numpy as np
from PIL import Image

from stages.params import Params
from stages.prepare.source import RawExample, decode
from stages.records.resizing import network_input
from stages.records.tfrecords import Example


def scaled(
    stored: RawExample[bytes], split: str, params: Params, train_size: int
) -> tuple[Example, Example, str]:
    """An example at the network's size and as it is stored, and the split that it goes to."""
    raw = decode(stored)
    example = resized(raw, params.image_size)
    if split == "train" and in_validation(raw.file_name, params.validation_share):
        split = "validation"
    larger = split == "train" and train_size != params.image_size
    return example, resized(raw, train_size) if larger else example, split


def resized(raw: RawExample[Image.Image], image_size: int) -> Example:
    """Scale an example to a square and number its classes from 0.

    The mask takes the nearest pixel's class: anything else would invent classes (between pet, 1,
    and border, 3, lies background, 2).
    """
    image = network_input(raw.image, image_size)
    trimap = raw.trimap.resize((image_size, image_size), Image.Resampling.NEAREST)
    return Example(image, np.asarray(trimap) - np.uint8(1), raw.file_name, raw.label, raw.species)


def in_validation(file_name: str, share: float) -> bool:
    """Whether a hash of its file name holds a training image out for validation.

    No seed, order or other image changes that, and a larger share holds out the same and more.
    """
    digest = hashlib.sha256(file_name.encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64
