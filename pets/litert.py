"""A network as a LiteRT file."""

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.stage import StageError


class LiteRT:
    """The interpreters of a file, one for each thread that asks: they have one input each."""

    def __init__(self, path: Path) -> None:
        """Opens a file; raises StageError if it is damaged."""
        self.path = path
        self._threads = threading.local()
        self.image_size = int(self._runner().get_input_details()["image"]["shape"][1])

    def logits(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """From [batch, image_size, image_size, 3] to [batch, image_size, image_size, class]."""
        run = self._runner()
        dtype = run.get_input_details()["image"]["dtype"]  # uint8, or float32 in 0 to 255
        return np.concatenate([run(image=image[None].astype(dtype))["logits"] for image in images])

    def _runner(self) -> Any:
        if not hasattr(self._threads, "runner"):
            from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415

            try:
                interpreter = Interpreter(os.fspath(self.path), num_threads=1)
                self._threads.runner = interpreter.get_signature_runner()
            except ValueError as error:
                reason = str(error).partition("\n")[0]
                raise StageError(f"{self.path} is damaged: {reason}") from error
        return self._threads.runner
