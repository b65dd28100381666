"""The TFDS builder of the drawn pets, with the features of Oxford-IIIT Pet."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import joblib
import numpy as np
import tensorflow_datasets as tfds

from data.synthetic_pets.pets import BREEDS
from data.synthetic_pets.picture import draw

_DESCRIPTION = """
Drawings of cats and dogs with four coats each, sitting, standing, lying or close by, in rooms and
on meadows, with trimaps like those of Oxford-IIIT Pet (1 pet, 2 background, 3 border). An image is
drawn from its split and number alone; nothing is downloaded.
"""


@dataclass(eq=False)
class SyntheticPetsConfig(tfds.core.BuilderConfig):
    """How many images are drawn. The first images of two configurations are the same."""

    train_images: int = 360
    test_images: int = 120


class SyntheticPets(tfds.core.GeneratorBasedBuilder):
    """Cats and dogs drawn by rule: 480 images, or with `config="tiny"` 18 for tests."""

    VERSION = tfds.core.Version("2.0.0")
    BUILDER_CONFIGS: ClassVar[list[SyntheticPetsConfig]] = [
        SyntheticPetsConfig(name="full"),
        SyntheticPetsConfig(name="tiny", train_images=12, test_images=6),
    ]
    DEFAULT_BUILDER_CONFIG_NAME = "full"

    def _info(self) -> Any:
        image, mask = {"shape": (None, None, 3)}, {"shape": (None, None, 1)}
        features = {
            "image": tfds.features.Image(**image, dtype=np.uint8, encoding_format="jpeg"),
            "label": tfds.features.ClassLabel(names=BREEDS),
            "species": tfds.features.ClassLabel(names=["Cat", "Dog"]),
            "file_name": tfds.features.Text(),
            "segmentation_mask": tfds.features.Image(**mask, dtype=np.uint8, use_colormap=True),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=_DESCRIPTION,
            features=tfds.features.FeaturesDict(features),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[str, dict[str, Any]]]]:
        counts = {
            "train": self.builder_config.train_images,
            "test": self.builder_config.test_images,
        }
        return {split: self._generate_examples(split, count) for split, count in counts.items()}

    def _generate_examples(self, split: str, count: int) -> Iterator[tuple[str, dict[str, Any]]]:
        jobs = (joblib.delayed(draw)(split, index) for index in range(count))
        cores = -1 if count > 100 else 1  # a dozen are drawn before the processes have started
        for picture in joblib.Parallel(cores, return_as="generator")(jobs):
            # Encoded already, so that the bytes do not depend on TensorFlow's encoders.
            yield (
                picture.file_name,
                {
                    "image": io.BytesIO(picture.image),
                    "label": picture.breed,
                    "species": picture.breed.partition("_")[2].capitalize(),
                    "file_name": picture.file_name,
                    "segmentation_mask": io.BytesIO(picture.trimap),
                },
            )
