"""The drawn dataset: the same bytes everywhere, and features and trimaps as Oxford-IIIT Pet's."""

import io
import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from scipy import ndimage

from data.synthetic_pets.breeds import BREEDS
from data.synthetic_pets.builder import SyntheticPets
from data.synthetic_pets.photograph import encode_jpeg
from data.synthetic_pets.picture import Picture, draw_pet, picture_number
from data.synthetic_pets.trimap import BACKGROUND, BORDER, PET

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def drawn() -> dict[str, list[Picture]]:
    """The images of the configuration `tiny`."""
    return {
        "train": [draw_pet("train", index) for index in range(12)],
        "test": [draw_pet("test", index) for index in range(6)],
    }


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The configuration `tiny`, prepared without a network."""

    def refuse(*_: object) -> None:
        raise AssertionError("the builder opened a connection")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        patch.setattr(socket, "getaddrinfo", refuse)
        builder = SyntheticPets(data_dir=tmp_path_factory.mktemp("tfds"), config="tiny")
        builder.download_and_prepare()
    return builder


def test_another_process_draws_the_same_bytes(drawn: dict[str, list[Picture]]) -> None:
    program = (
        "import pickle, sys; from data.synthetic_pets.picture import draw_pet;"
        "sys.stdout.buffer.write(pickle.dumps(draw_pet('train', 11)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7"}
    command = [sys.executable, "-c", program]
    again = subprocess.run(command, capture_output=True, env=environment, check=True).stdout
    np.testing.assert_equal(pickle.loads(again), drawn["train"][11])


def test_trimaps_have_every_class_and_a_border_around_the_pet(
    drawn: dict[str, list[Picture]],
) -> None:
    shares = []
    for picture in drawn["train"] + drawn["test"]:
        assert picture.trimap.dtype == np.uint8
        assert picture.trimap.shape == picture.image.shape[:2]
        assert set(np.unique(picture.trimap).tolist()) == {PET, BACKGROUND, BORDER}
        grown = ndimage.binary_dilation(picture.trimap == PET)
        assert not (grown & (picture.trimap == BACKGROUND)).any(), picture.file_name
        shares.append([np.mean(picture.trimap == value) for value in (PET, BACKGROUND, BORDER)])
    pet, background, border = np.mean(shares, axis=0)
    assert 0.2 < pet < 0.4
    assert 0.5 < background < 0.75
    assert 0.05 < border < 0.13


def test_names_are_unique_and_every_breed_is_in_both_splits() -> None:
    numbers = [picture_number("train", index) for index in range(360)]
    numbers += [picture_number("test", index) for index in range(120)]
    assert sorted(numbers) == list(range(1, 481))
    full = SyntheticPets.BUILDER_CONFIGS[0]
    assert (full.train_pictures, full.test_pictures) == (360, 120)
    assert len(BREEDS) == 8  # they take turns
    assert {breed.species for breed in BREEDS} == {"Cat", "Dog"}


def test_features_are_those_of_oxford_iiit_pet(builder: Any) -> None:
    # oxford_iiit_pet 4.0.0 has head_bbox besides, and 37 breeds.
    assert {
        name: (type(feature).__name__, tuple(feature.shape), np.dtype(feature.np_dtype).name)
        for name, feature in builder.info.features.items()
    } == {
        "image": ("Image", (None, None, 3), "uint8"),
        "segmentation_mask": ("Image", (None, None, 1), "uint8"),
        "label": ("ClassLabel", (), "int64"),
        "species": ("ClassLabel", (), "int64"),
        "file_name": ("Text", (), "object"),
    }
    assert builder.info.features["species"].names == ["Cat", "Dog"]
    assert builder.info.features["label"].names == [breed.name for breed in BREEDS]


def test_the_builder_stores_what_is_drawn(builder: Any, drawn: dict[str, list[Picture]]) -> None:
    raw = {"image": tfds.decode.SkipDecoding(), "segmentation_mask": tfds.decode.SkipDecoding()}
    for split, pictures in drawn.items():
        by_name = {picture.file_name: picture for picture in pictures}
        examples = list(tfds.as_numpy(builder.as_dataset(split=split, decoders=raw)))
        assert {example["file_name"].decode() for example in examples} == by_name.keys()
        for example in examples:
            picture = by_name[example["file_name"].decode()]
            assert picture.file_name.startswith(f"{picture.breed}_")
            assert BREEDS[example["label"]].name == picture.breed
            assert ["Cat", "Dog"][example["species"]] == picture.species
            assert example["image"] == encode_jpeg(picture.image)
            mask = Image.open(io.BytesIO(example["segmentation_mask"]))
            np.testing.assert_array_equal(np.asarray(mask), picture.trimap)
