"""One example: a photograph-like drawing of a pet and its trimap, from a split and a number."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from data.synthetic_pets.breeds import BREEDS, Species
from data.synthetic_pets.canvas import Canvas
from data.synthetic_pets.drawing import chance, pick
from data.synthetic_pets.pets import paint_pet
from data.synthetic_pets.photograph import choose_size, develop
from data.synthetic_pets.scenes import make_scene
from data.synthetic_pets.things import FRONT_THINGS
from data.synthetic_pets.trimap import make_trimap

SPLITS = ("train", "test")
TRAIN_TO_TEST = 3  # three training pictures to each test picture, as the numbers in names go
_SEED = 20120616
_OCCLUDED_SHARE = 0.06
_LEAST_PET, _MOST_PET = 0.05, 0.78  # share of the pixels; drawings outside are drawn anew
_MOST_ATTEMPTS = 8


class Picture(NamedTuple):
    """One example.

    Attributes:
        image: uint8 [height, width, 3], RGB, before JPEG compression.
        trimap: uint8 [height, width]; 1 pet, 2 background, 3 border.
        breed: one of the names in `breeds.BREEDS`.
        species: Cat or Dog.
        file_name: unique in the dataset, such as tabby_cat_017.jpg.
    """

    image: npt.NDArray[np.uint8]
    trimap: npt.NDArray[np.uint8]
    breed: str
    species: Species
    file_name: str


def draw_pet(split: str, index: int) -> Picture:
    """Draws one example; the same arguments give the same pixels.

    Args:
        split: "train" or "test".
        index: 0 or more, the example's place in its split. Breeds take turns.

    Raises:
        ValueError: the split is unknown or the index negative.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: expected one of {', '.join(SPLITS)}")
    if index < 0:
        raise ValueError(f"split {split!r}: index {index} is negative")
    breed = BREEDS[index % len(BREEDS)]
    for attempt in range(_MOST_ATTEMPTS):
        seed = np.random.SeedSequence([_SEED, SPLITS.index(split), index, attempt])
        # One stream each, so that a change to the scenes leaves the animals as they were.
        frame, place, animal, camera = (
            np.random.Generator(np.random.PCG64(s)) for s in seed.spawn(4)
        )
        scene = make_scene(place, choose_size(frame))
        canvas = scene.canvas
        paint_pet(animal, canvas, breed, scene.ground)
        if chance(frame, _OCCLUDED_SHARE):
            _put_thing_in_front(frame, canvas)
        pet = np.asarray(canvas.pet) >= 128
        if _LEAST_PET <= pet.mean() <= _MOST_PET:
            break
    return Picture(
        image=np.asarray(develop(camera, canvas.image)),
        trimap=make_trimap(pet),
        breed=breed.name,
        species=breed.species,
        file_name=f"{breed.name}_{picture_number(split, index):03d}.jpg",
    )


def picture_number(split: str, index: int) -> int:
    """The number in a file name, unique in the dataset: a test picture follows three of train."""
    if split == "train":
        return index // TRAIN_TO_TEST * (TRAIN_TO_TEST + 1) + index % TRAIN_TO_TEST + 1
    return (index + 1) * (TRAIN_TO_TEST + 1)


def _put_thing_in_front(rng: np.random.Generator, canvas: Canvas) -> None:
    box = canvas.pet.getbbox() or (0, 0, *canvas.size)
    thing = FRONT_THINGS[int(rng.integers(len(FRONT_THINGS)))]
    x = pick(rng, box[0], box[2])
    y = min(box[3] + 0.03 * canvas.size[1], canvas.size[1] * 1.02)
    thing(rng, canvas, x, y, min(canvas.size) * pick(rng, 0.2, 0.4), True)
