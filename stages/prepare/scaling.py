"""From a decoded image and trimap to what is stored, and the choice of the validation images."""

import hashlib
from typing import NamedTuple

import numpy as np
from PIL import Image

from stages.params import Params
from stages.prepare.source import RawExample, StoredExample, decode
from stages.records.resizing import network_input
from stages.records.tfrecords import Example


class Scaled(NamedTuple):
    """An example at the network's size and at its stored size, and the split it goes to."""

    example: Example
    stored: Example
    split: str  # train, validation or test


def scaled(stored: StoredExample, split: str, params: Params) -> Scaled:
    """Decode and scale an example of the dataset's train or test split."""
    raw = decode(stored)
    example = resized(raw, params.image_size)
    if split == "train" and in_validation(raw.file_name, params.validation_share):
        split = "validation"
    size = train_image_size(params) if split == "train" else params.image_size
    same = size == params.image_size
    return Scaled(example, example if same else resized(raw, size), split)


def train_image_size(params: Params) -> int:
    """Height and width of the stored training images in pixels."""
    return round(params.image_size * params.train_image_scale)


def resized(raw: RawExample, image_size: int) -> Example:
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
