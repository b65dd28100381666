"""A network's LiteRT export, ready to be used: it starts without TensorFlow's seconds."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from stages.export.litert import LiteRT
from stages.stage import StageError

Probabilities = npt.NDArray[np.float32]


class LiteRTNetwork:
    """The float32 export, which the `export` stage holds to the Keras model."""

    def __init__(self, path: Path, *, flip: bool = False) -> None:
        """Loads an export.

        Args:
            path: models/<network>.export/<network>.float32.tflite.
            flip: Whether to take the mean over each picture and its mirror image.

        Raises:
            StageError: There is no such file, or it is no LiteRT network.
        """
        if not path.is_file():
            raise StageError(
                f"there is no {path}: `dvc pull` fetches exports that were made elsewhere, and"
                " `make repro` makes them here"
            )
        self._network = LiteRT(path)
        self._flip = flip
        self.image_size = self._network.image_size  # height and width of its pictures

    def probabilities(self, images: npt.NDArray[np.uint8]) -> Probabilities:
        """As of `network.Network`."""
        return np.stack([self._mean(image) if self._flip else self._one(image) for image in images])

    def _mean(self, image: npt.NDArray[np.uint8]) -> Probabilities:
        mean: Probabilities = (self._one(image) + self._one(image[:, ::-1])[:, ::-1]) / np.float32(
            2
        )
        return mean

    def _one(self, image: npt.NDArray[np.uint8]) -> Probabilities:
        logits = self._network.logits(image)
        powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
        probabilities: Probabilities = powers / powers.sum(axis=-1, keepdims=True)
        return probabilities
