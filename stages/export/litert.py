"""The LiteRT interpreter on an export: one picture at a time, and without TensorFlow."""

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
from ai_edge_litert.interpreter import Interpreter

from stages.native_notes import without_notes
from stages.parallel import cores
from stages.stage import StageError


class LiteRT:
    """A network as a .tflite file, ready to be run on all cores."""

    def __init__(self, path: Path) -> None:
        """Loads an export.

        Args:
            path: What `conversion.convert` wrote as one of the `litert_` formats.

        Raises:
            StageError: It is no LiteRT network.
        """
        try:
            with without_notes():
                self._interpreter = Interpreter(os.fspath(path), num_threads=cores())
                self._interpreter.allocate_tensors()
        except ValueError as error:
            raise StageError(
                f"{path} is no LiteRT network: {str(error).splitlines()[0]}"
            ) from error
        (self._taken,) = self._interpreter.get_input_details()
        (self._given,) = self._interpreter.get_output_details()
        self.image_size = int(self._taken["shape"][1])  # height and width of its pictures

    def logits(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """The answer [image_size, image_size, class] to a picture [image_size, image_size, 3]."""
        self._interpreter.set_tensor(self._taken["index"], image[None].astype(self._taken["dtype"]))
        self._interpreter.invoke()
        logits: npt.NDArray[np.float32] = self._interpreter.get_tensor(self._given["index"])[0]
        return logits
