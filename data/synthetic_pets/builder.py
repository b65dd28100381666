"""The TFDS builder of the drawn pets, with the features of Oxford-IIIT Pet."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from data.synthetic_pets.breeds import BREEDS
from data.synthetic_pets.photograph import encode_jpeg, encode_png
from data.synthetic_pets.picture import draw_pet

_DESCRIPTION = """
Drawings of cats and dogs in eight invented breeds and six poses, on cluttered backgrounds that
share the coats' colours, with trimaps like those of Oxford-IIIT Pet (1 pet, 2 background,
3 border). Every picture is drawn from its split and number alone; nothing is downloaded.
"""


@dataclass(eq=False)
class SyntheticPetsConfig(tfds.core.BuilderConfig):
    """How many pictures are drawn. The first pictures of two configurations are the same.

    Attributes:
        train_pictures: examples in the split train.
        test_pictures: examples in the split test.
    """

    train_pictures: int = 360
    test_pictures: int = 120


class SyntheticPets(tfds.core.GeneratorBasedBuilder):
    """Cats and dogs drawn by rule; see `picture.draw_pet` for one of them.

    `SyntheticPets(data_dir=...)` draws 480 pictures, `SyntheticPets(data_dir=..., config="tiny")`
    18 of them, for tests.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First release."}
    BUILDER_CONFIGS: ClassVar[list[SyntheticPetsConfig]] = [
        SyntheticPetsConfig(name="full", description="360 train and 120 test pictures."),
        SyntheticPetsConfig(
            name="tiny",
            description="The first 12 train and 6 test pictures.",
            train_pictures=12,
            test_pictures=6,
        ),
    ]
    DEFAULT_BUILDER_CONFIG_NAME = "full"

    def _info(self) -> Any:
        return tfds.core.DatasetInfo(
            builder=self,
            description=_DESCRIPTION,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(
                        shape=(None, None, 3), dtype=np.uint8, encoding_format="jpeg"
                    ),
                    "label": tfds.features.ClassLabel(names=[breed.name for breed in BREEDS]),
                    "species": tfds.features.ClassLabel(names=["Cat", "Dog"]),
                    "file_name": tfds.features.Text(),
                    "segmentation_mask": tfds.features.Image(
                        shape=(None, None, 1), dtype=np.uint8, use_colormap=True
                    ),
                }
            ),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[str, dict[str, Any]]]]:
        return {
            "train": self._generate_examples("train", self.builder_config.train_pictures),
            "test": self._generate_examples("test", self.builder_config.test_pictures),
        }

    def _generate_examples(self, split: str, count: int) -> Iterator[tuple[str, dict[str, Any]]]:
        for index in range(count):
            picture = draw_pet(split, index)
            # Encoded here, so that the bytes do not depend on TensorFlow's encoders.
            yield (
                picture.file_name,
                {
                    "image": io.BytesIO(encode_jpeg(picture.image)),
                    "label": picture.breed,
                    "species": picture.species,
                    "file_name": picture.file_name,
                    "segmentation_mask": io.BytesIO(encode_png(picture.trimap)),
                },
            )
