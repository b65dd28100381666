"""A network's LiteRT export, ready to be used: it starts without TensorFlow's seconds."""

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
from ai_edge_litert.interpreter import Interpreter

from stages.errors import StageError
from stages.parallel import cores

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
        try:
            self._interpreter = Interpreter(os.fspath(path), num_threads=cores())
        except ValueError as error:
            raise StageError(
                f"{path} is no LiteRT network: {str(error).splitlines()[0]}"
            ) from error
        self._interpreter.allocate_tensors()
        (taken,) = self._interpreter.get_input_details()
        (given,) = self._interpreter.get_output_details()
        self._taken, self._given = taken["index"], given["index"]
        self._flip = flip
        self.image_size = int(taken["shape"][1])  # height and width of its pictures

    def probabilities(self, images: npt.NDArray[np.uint8]) -> Probabilities:
        """As of `network.Network`."""
        return np.stack([self._mean(image) if self._flip else self._one(image) for image in images])

    def _mean(self, image: npt.NDArray[np.uint8]) -> Probabilities:
        mean: Probabilities = (self._one(image) + self._one(image[:, ::-1])[:, ::-1]) / np.float32(
            2
        )
        return mean

    def _one(self, image: npt.NDArray[np.uint8]) -> Probabilities:
        self._interpreter.set_tensor(self._taken, image[None].astype(np.float32))
        self._interpreter.invoke()
        (logits,) = self._interpreter.get_tensor(self._given)
        powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
        probabilities: Probabilities = powers / powers.sum(axis=-1, keepdims=True)
        return probabilities
