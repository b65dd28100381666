"""The drawn dataset: the same bytes everywhere, and features and trimaps as Oxford-IIIT Pet's."""

import io
import os
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

from data.synthetic_pets.builder import SyntheticPets
from data.synthetic_pets.pets import BREEDS
from data.synthetic_pets.picture import BACKGROUND, BORDER, PET, Picture, draw, trimap

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def drawn() -> dict[str, list[Picture]]:
    """The images of the configuration `tiny`."""
    counts = {"train": 12, "test": 6}
    return {split: [draw(split, i) for i in range(count)] for split, count in counts.items()}


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
        "import sys\n"
        "from data.synthetic_pets.picture import draw\n"
        "drawn = draw('train', 11)\n"
        "sys.stdout.buffer.write(drawn.image + drawn.trimap)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7"}
    command = [sys.executable, "-c", program]
    again = subprocess.run(command, capture_output=True, env=environment, check=True).stdout
    assert again == drawn["train"][11].image + drawn["train"][11].trimap


def test_trimaps_have_every_class_and_a_border_around_the_pet(
    drawn: dict[str, list[Picture]],
) -> None:
    shares = []
    for picture in drawn["train"] + drawn["test"]:
        mask = np.asarray(Image.open(io.BytesIO(picture.trimap)))
        assert mask.shape == np.asarray(Image.open(io.BytesIO(picture.image))).shape[:2]
        assert set(np.unique(mask).tolist()) == {PET, BACKGROUND, BORDER}
        grown = ndimage.binary_dilation(mask == PET)
        assert not (grown & (mask == BACKGROUND)).any(), picture.file_name
        shares.append([np.mean(mask == value) for value in (PET, BACKGROUND, BORDER)])
    pet, background, border = np.mean(shares, axis=0)
    assert 0.2 < pet < 0.45
    assert 0.45 < background < 0.75
    assert 0.05 < border < 0.16


def test_the_border_is_as_wide_as_oxfords_and_not_along_the_frame() -> None:
    pet = np.zeros((100, 250), bool)
    pet[:, 100:] = True
    (row,) = np.unique(trimap(pet), axis=0)
    assert np.flatnonzero(row == BORDER).tolist() == [*range(96, 104)]  # 3.6 % would be 9


def test_features_are_those_of_oxford_iiit_pet(builder: Any) -> None:
    drawn, real = builder.info.features, tfds.builder("oxford_iiit_pet").info.features
    assert set(drawn) == set(real) - {"head_bbox"}
    for name, feature in drawn.items():
        assert type(feature) is type(real[name])
        assert (feature.np_dtype, feature.shape) == (real[name].np_dtype, real[name].shape)
    assert drawn["species"].names == real["species"].names == ["Cat", "Dog"]
    assert drawn["label"].names == BREEDS


def test_the_builder_stores_what_is_drawn(builder: Any, drawn: dict[str, list[Picture]]) -> None:
    raw = {"image": tfds.decode.SkipDecoding(), "segmentation_mask": tfds.decode.SkipDecoding()}
    for split, pictures in drawn.items():
        by_name = {picture.file_name: picture for picture in pictures}
        examples = list(tfds.as_numpy(builder.as_dataset(split=split, decoders=raw)))
        assert {example["file_name"].decode() for example in examples} == by_name.keys()
        for example in examples:
            picture = by_name[example["file_name"].decode()]
            assert BREEDS[example["label"]] == picture.breed
            assert picture.breed.endswith(("cat", "dog")[example["species"]])
            assert example["image"] == picture.image
            assert example["segmentation_mask"] == picture.trimap
